// From the write to the trace: segments, snapshots and drains, judged by babeltrace2.
#include "recorder/recorder.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>

#include "../scratch.hpp"
#include "cloister/core/lane_reader.hpp"
#include "ctf/metadata_text.hpp"
#include "ctf/trace.hpp"
#include "recorder/extract.hpp"

namespace cloister::recorder {
namespace {

using core::Mode;
using core::Wrote;
using testing::HasSubstr;

constexpr std::uint32_t kFilled = 0, kNamed = 40;
const SegmentOptions kOne{.path = {}, .channels = {{"flight", {.slots = 8, .size = 16384, .mode = Mode::overwrite}}}};
const SegmentOptions kQueue{.path = {}, .channels = {{"queue", {.slots = 8, .size = 16384, .mode = Mode::discard}}}};

struct Folder : tests::Scratch {
    Folder() : tests::Scratch("/dev/shm") {}  // in memory, as segments are: hundreds of traces are written there
};

void declare(Recorder& recorder) {
    for (std::uint32_t c = 0; c < recorder.segment().channels().size(); ++c) {
        ctf::EventClass filled{.name = "book:filled", .id = kFilled, .stream_id = c, .fields = {}};
        filled.fields = {ctf::Field::of_integer("thread", {64, false, 10}),
                         ctf::Field::of_integer("n", {64, false, 10})};
        ctf::EventClass named{.name = "book:named", .id = kNamed, .stream_id = c, .fields = {}};
        named.fields = {ctf::Field::of_integer("n", {32, false, 10}), ctf::Field::of_string("name")};
        ASSERT_TRUE(recorder.declare(c, kFilled, ctf::event_text(filled)));
        ASSERT_TRUE(recorder.declare(c, kNamed, ctf::event_text(named)));
    }
}

Wrote fill(Recorder& recorder, std::uint64_t thread, std::uint64_t n, std::size_t channel = 0) {
    return core::write_pair(recorder.view(channel), kFilled, thread, n);
}

std::unique_ptr<Recorder> make(const SegmentOptions& options) {
    auto made = Recorder::create(options);
    EXPECT_TRUE(made) << (made ? "" : made.error().text());
    auto recorder = std::move(*made);
    declare(*recorder);
    return recorder;
}

struct Trace {
    std::map<std::uint64_t, std::vector<std::uint64_t>> filled;  // by thread
    std::vector<std::string> lines;
    std::uint64_t discarded = 0;
};

// What babeltrace2 makes of it. Anything on its stderr but the count of discarded events fails the test.
Trace read(const std::string& directory) {
    Trace out;
    const auto errors = directory + ".stderr";
    FILE* pipe = popen(fmt::format("babeltrace2 --clock-cycles {} 2>{}", directory, errors).c_str(), "r");
    char* line = nullptr;
    std::size_t room = 0;
    std::map<std::uint64_t, std::uint64_t> last;  // by cpu
    while (getline(&line, &room, pipe) > 0) {
        out.lines.emplace_back(line);
        unsigned long long time = 0, cpu = 0, thread = 0, n = 0;
        const char* context = std::strstr(line, "{ cpu_id = ");
        EXPECT_TRUE(std::sscanf(line, "[%llu]", &time) == 1 && context &&
                    std::sscanf(context, "{ cpu_id = %llu", &cpu) == 1)
            << line;
        // Streams are merged by nanosecond, of which one is several cycles.
        EXPECT_GE(time, last[cpu]) << line;
        last[cpu] = time;
        if (const char* at = std::strstr(line, "{ thread = "))
            if (std::sscanf(at, "{ thread = %llu, n = %llu", &thread, &n) == 2) out.filled[thread].push_back(n);
    }
    std::free(line);
    EXPECT_EQ(pclose(pipe), 0);
    std::ifstream said(errors);
    for (std::string text; std::getline(said, text);) {
        unsigned long long count = 0;
        if (std::sscanf(text.c_str(), "WARNING: Tracer discarded %llu", &count) == 1)
            out.discarded += count;
        else
            EXPECT_EQ(text, "");
    }
    return out;
}

void expect_run(const std::vector<std::uint64_t>& numbers, std::uint64_t last) {
    ASSERT_FALSE(numbers.empty());
    for (std::size_t i = 0; i < numbers.size(); ++i) ASSERT_EQ(numbers[i], last - numbers.size() + 1 + i);
}

void on_cpu(std::size_t cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    ASSERT_EQ(sched_setaffinity(0, sizeof set, &set), 0);
}

TEST(Snapshot, HasTheNewestEventsOfEveryKind) {
    const Folder folder;
    const auto recorder = make(kOne);
    for (std::uint64_t n = 1; n <= 20'000; ++n) ASSERT_EQ(fill(*recorder, 7, n), Wrote::done);
    std::array<char, 16> named{};
    const std::uint32_t n = 20'001;
    std::memcpy(named.data(), &n, 4);
    std::memcpy(named.data() + 4, "XETRA", 6);
    ASSERT_EQ(recorder->write(0, kNamed, named.data(), 10), Wrote::done);
    const auto done = snapshot(recorder->segment(), folder / "trace");
    ASSERT_TRUE(done) << done.error().text();
    EXPECT_EQ(done->overwritten, 0U);
    const Trace trace = read(folder / "trace");
    expect_run(trace.filled.at(7), 20'000);
    EXPECT_GT(trace.filled.at(7).size(), 5000U);
    EXPECT_THAT(trace.lines.back(), HasSubstr("book:named: { cpu_id = "));
    EXPECT_THAT(trace.lines.back(), HasSubstr("{ n = 20001, name = \"XETRA\" }"));
    EXPECT_EQ(trace.discarded, 0U);
}

TEST(Snapshot, OfAnEmptySegmentIsATraceWithoutEvents) {
    const Folder folder;
    const auto recorder = make(kOne);
    const auto done = snapshot(recorder->segment(), folder / "trace");
    ASSERT_TRUE(done);
    EXPECT_EQ(done->packets, 0U);
    EXPECT_TRUE(std::filesystem::exists(folder / "trace/metadata"));
}

TEST(Snapshot, HasWhatADrainHasInItsHands) {
    const Folder folder;
    const auto recorder = make(kOne);
    on_cpu(0);
    for (std::uint64_t n = 1; n <= 3000; ++n) ASSERT_EQ(fill(*recorder, 7, n), Wrote::done);
    const auto& channel = recorder->segment().channels()[0];
    core::SubBuffer at;
    ASSERT_EQ(core::take(recorder->segment().lane(0, 0), channel.shape, at), core::Took::one);
    ASSERT_TRUE(snapshot(recorder->segment(), folder / "trace"));
    expect_run(read(folder / "trace").filled.at(7), 3000);
    EXPECT_EQ(read(folder / "trace").filled.at(7).size(), 3000U);
}

TEST(Snapshot, WhileWritersRunOnEveryCpu) {
    const Folder folder;
    const auto recorder = make(kOne);
    std::atomic<bool> stop = false;
    std::vector<std::thread> writers;
    for (std::uint64_t t = 0; t < 3; ++t)
        writers.emplace_back([&, t] {
            for (std::uint64_t n = 1; !stop; ++n) EXPECT_EQ(fill(*recorder, t, n), Wrote::done);
        });
    for (int i = 0; i < 8; ++i) {
        const auto name = fmt::format("trace{}", i);
        const auto done = snapshot(recorder->segment(), folder / name);
        ASSERT_TRUE(done) << done.error().text();
        Trace trace = read(folder / name);
        // Of a thread that moved, what it wrote elsewhere may have been overwritten there long ago; nothing is there
        // twice.
        for (auto& [thread, numbers] : trace.filled) {
            std::ranges::sort(numbers);
            EXPECT_EQ(std::ranges::adjacent_find(numbers), numbers.end());
        }
    }
    stop = true;
    for (auto& writer : writers) writer.join();
}

// The writer switches while the lane's slots are looked at one after the other, so that more than one sub-buffer is
// found open: of all but the last, what was written into them since is there as well.
TEST(Snapshot, IsOneRunOfPacketsWhileItsWriterSwitches) {
    const Folder folder;
    const auto recorder = make(kOne);
    std::atomic<bool> stop = false;
    std::thread writer([&] {
        on_cpu(1);
        for (std::uint64_t n = 1; !stop; ++n) EXPECT_EQ(fill(*recorder, 1, n), Wrote::done);
    });
    on_cpu(0);
    std::uint64_t packets = 0;
    for (int i = 0; i < 400; ++i) {
        const auto name = fmt::format("trace{}", i);
        const auto done = snapshot(recorder->segment(), folder / name);
        ASSERT_TRUE(done) << done.error().text();
        const auto trace = ctf::Trace::open(folder / name);
        ASSERT_TRUE(trace) << trace.error().text();
        for (const auto& stream : trace->streams()) {
            ctf::Cursor cursor(stream);
            std::vector<ctf::Value> values;
            std::uint64_t last = 0;
            std::optional<ctf::Packet> before;
            for (ctf::Cursor::Step step{}; (step = cursor.next()) != ctf::Cursor::Step::end;) {
                if (step == ctf::Cursor::Step::loss && last == 0) continue;  // what was overwritten before the run
                ASSERT_EQ(step, ctf::Cursor::Step::event) << "snapshot " << i << " after event " << last;
                ASSERT_TRUE(cursor.fields(values));
                const std::uint64_t n = values.back().bits;
                if (last != 0) {
                    ASSERT_EQ(n, last + 1) << "snapshot " << i;
                }
                last = n;
                const ctf::Packet& packet = cursor.packet();
                if (before && before->offset != packet.offset) {
                    ASSERT_LE(*before->end, *packet.begin) << "snapshot " << i;
                    ++packets;
                }
                before = packet;
            }
        }
        std::filesystem::remove_all(folder / name);
    }
    EXPECT_GT(packets, 0U);
    stop = true;
    writer.join();
}

TEST(Drain, LosesNothingWhileItKeepsUp) {
    const Folder folder;
    const auto recorder = make(kQueue);
    auto drained =
        Segment::open(fmt::format("/proc/self/fd/{}", recorder->segment().fd().get()), Segment::Access::drain);
    ASSERT_TRUE(drained) << drained.error().text();
    auto drain = Drain::begin(std::move(*drained), folder / "trace");
    ASSERT_TRUE(drain) << drain.error().text();
    std::uint64_t dropped = 0, written = 0;
    for (std::uint64_t n = 1; n <= 100'000; ++n) {
        const Wrote wrote = fill(*recorder, 1, n);
        dropped += wrote == Wrote::dropped;
        written += wrote == Wrote::done;
        // Now and then it does not keep up: what is dropped then is counted.
        if (n % 2000 == 0 && n / 20'000 != 2) {
            ASSERT_TRUE(drain->run());
        }
    }
    const auto done = drain->finish();
    ASSERT_TRUE(done) << done.error().text();
    EXPECT_EQ(done->broken, 0U);
    const Trace trace = read(folder / "trace");
    EXPECT_EQ(written + dropped, 100'000U);
    EXPECT_GT(dropped, 0U);
    EXPECT_EQ(trace.filled.at(1).size(), written);
    EXPECT_TRUE(std::ranges::is_sorted(trace.filled.at(1)));
    EXPECT_EQ(trace.discarded, dropped);
}

TEST(Drain, TakesFromAnOverwriteChannelWhatIsNotYetOverwritten) {
    const Folder folder;
    const auto recorder = make(kOne);
    auto drained =
        Segment::open(fmt::format("/proc/self/fd/{}", recorder->segment().fd().get()), Segment::Access::drain);
    ASSERT_TRUE(drained);
    auto drain = Drain::begin(std::move(*drained), folder / "trace");
    ASSERT_TRUE(drain);
    for (std::uint64_t n = 1; n <= 100'000; ++n) {
        ASSERT_EQ(fill(*recorder, 1, n), Wrote::done);
        if (n % 3000 == 0) {
            ASSERT_TRUE(drain->run());
        }
    }
    ASSERT_TRUE(drain->finish());
    const Trace trace = read(folder / "trace");
    expect_run(trace.filled.at(1), 100'000);
    EXPECT_EQ(trace.filled.at(1).size(), 100'000U) << "it kept up";
}

TEST(Drain, ThereIsOne) {
    const Folder folder;
    const auto recorder = make(kQueue);
    const auto path = fmt::format("/proc/self/fd/{}", recorder->segment().fd().get());
    auto first = Drain::begin(*Segment::open(path, Segment::Access::drain), folder / "one");
    ASSERT_TRUE(first);
    const auto second = Drain::begin(*Segment::open(path, Segment::Access::drain), folder / "two");
    ASSERT_FALSE(second);
    EXPECT_THAT(second.error().found, HasSubstr("another drain"));
    EXPECT_FALSE(std::filesystem::exists(folder / "two"));
}

TEST(Segment, OfADeadProgramIsReadFromItsFile) {
    const Folder folder;
    SegmentOptions options = kOne;
    options.path = folder / "segment";
    const pid_t child = fork();
    if (child == 0) {
        auto made = Recorder::create(options);
        if (!made) _exit(1);
        declare(**made);
        for (std::uint64_t n = 1; n <= 5000; ++n)
            if (fill(**made, 3, n) != Wrote::done) _exit(2);
        kill(getpid(), SIGKILL);
    }
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << status;
    struct stat file {};
    ASSERT_EQ(stat(options.path.c_str(), &file), 0);
    EXPECT_EQ(file.st_mode & 0777, 0600U);
    const auto segment = Segment::open(options.path, Segment::Access::read);
    ASSERT_TRUE(segment) << segment.error().text();
    ASSERT_TRUE(snapshot(*segment, folder / "trace"));
    expect_run(read(folder / "trace").filled.at(3), 5000);
}

TEST(Segment, OfARunningProgramIsFoundByItsPid) {
    const Folder folder;
    int ready[2];
    ASSERT_EQ(pipe(ready), 0);
    const pid_t child = fork();
    if (child == 0) {
        auto made = Recorder::create(kOne);
        if (!made) _exit(1);
        declare(**made);
        for (std::uint64_t n = 1; n <= 100; ++n) (void)fill(**made, 9, n);
        if (write(ready[1], "x", 1) != 1) _exit(2);
        pause();
    }
    char byte = 0;
    ASSERT_EQ(::read(ready[0], &byte, 1), 1);
    const auto segment = Segment::of_process(child, Segment::Access::read);
    ASSERT_TRUE(segment) << segment.error().text();
    const auto done = snapshot(*segment, folder / "trace");
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    ASSERT_TRUE(done) << done.error().text();
    expect_run(read(folder / "trace").filled.at(9), 100);
    const auto none = Segment::of_process(child, Segment::Access::read);
    ASSERT_FALSE(none);
    EXPECT_THAT(none.error().set, HasSubstr("path"));
}

TEST(Recorder, AChildOfForkHasNoLanesAndItsEventsAreCounted) {
    const auto recorder = make(kOne);
    ASSERT_EQ(fill(*recorder, 1, 1), Wrote::done);
    const pid_t child = fork();
    if (child == 0) {
        bool refused = fill(*recorder, 1, 2) == Wrote::no_lane;
        const std::array<std::uint64_t, 2> payload{1, 2};
        for (int i = 0; i < 5; ++i)
            refused = refused && recorder->write(0, kFilled, payload.data(), 16) == Wrote::no_lane;
        _exit(refused ? 0 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(recorder->segment().header().refused, 5U);
    EXPECT_EQ(fill(*recorder, 1, 3), Wrote::done);
}

TEST(Recorder, APayloadThatIsNotInMemoryYet) {
    const Folder folder;
    const auto recorder = make(kOne);
    // A page that has never been touched, read for the first time by the write.
    auto* page = static_cast<std::byte*>(mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    EXPECT_EQ(recorder->write(0, kFilled, page, 16), Wrote::done);
    munmap(page, 4096);
    EXPECT_EQ(recorder->write(0, kFilled, (folder / "x").data(), 0), Wrote::done);
    EXPECT_EQ(recorder->segment().header().refused, 0U);
}

// Not instrumented: a sanitizer's log of what is called takes memory as well.
[[gnu::noinline, gnu::no_sanitize("thread", "address", "undefined")]] bool fill_many(const core::View& view,
                                                                                     std::uint64_t events) {
    bool all = true;
    for (std::uint64_t n = 0; n < events; ++n) all = core::write_pair(view, kFilled, 1, n) == Wrote::done && all;
    return all;
}

TEST(Recorder, PreparedLanesAreLockedInMemory) {
    const auto recorder = make(kOne);
    ASSERT_TRUE(recorder->prepare(0));
    on_cpu(0);
    ASSERT_TRUE(fill_many(recorder->view(0), 100));  // code and stack
    rusage before{}, after{};
    getrusage(RUSAGE_THREAD, &before);
    ASSERT_TRUE(fill_many(recorder->view(0), 20'000));
    getrusage(RUSAGE_THREAD, &after);
    EXPECT_LE(after.ru_minflt - before.ru_minflt, 3) << "of the lane's many pages, none";
}

TEST(Recorder, AFullFileSystemRefusesEventsAndKillsNobody) {
    const Folder folder;
    const pid_t child = fork();
    if (child == 0) {
        // In a mount namespace of its own: a tmpfs with room for the header and the words, but not for the sub-buffers.
        if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) _exit(1);
        std::filesystem::create_directory(folder / "small");
        if (mount("none", (folder / "small").c_str(), "tmpfs", 0, "size=400k") != 0) _exit(2);
        SegmentOptions options = kOne;
        options.path = folder / "small/segment";
        auto made = Recorder::create(options);
        if (!made) _exit(3);
        for (std::uint64_t n = 0; n < 100; ++n)
            if (fill(**made, 1, n) != Wrote::no_lane) _exit(4);
        options.path = folder / "small/second";
        auto none = Recorder::create(options);
        if (none || none.error().needs.find("KiB") == std::string::npos) _exit(5);
        if (std::filesystem::exists(options.path)) _exit(6);
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_EQ(WEXITSTATUS(status), 0);
    EXPECT_TRUE(WIFEXITED(status));
}

TEST(Recorder, BadOptionsTeach) {
    const auto what = [](const SegmentOptions& options) {
        const auto made = Recorder::create(options);
        return made ? std::string("made") : made.error().what + ": " + made.error().needs;
    };
    EXPECT_THAT(what({}), HasSubstr("1 to 16"));
    EXPECT_THAT(what({.path = {}, .channels = {{"a/b", {}}}}), HasSubstr("letters"));
    EXPECT_THAT(what({.path = {}, .channels = {{"a", {}}, {"a", {}}}}), HasSubstr("same name"));
    EXPECT_THAT(what({.path = {}, .channels = {{"a", {.slots = 3, .size = 4096, .mode = Mode::discard}}}}),
                HasSubstr("powers of two"));
    EXPECT_THAT(what({.path = "/no/such/folder/x", .channels = kOne.channels}), HasSubstr("does not exist"));
    const Folder folder;
    std::ofstream(folder / "there") << "x";
    EXPECT_THAT(what({.path = folder / "there", .channels = kOne.channels}), HasSubstr("does not exist"));
    EXPECT_EQ(std::filesystem::file_size(folder / "there"), 1U) << "what is there is left alone";
}

TEST(Recorder, HugePagesOrANotice) {
    SegmentOptions options = kOne;
    options.huge_pages = true;
    std::vector<std::string> notices;
    const auto made = Recorder::create(options, &notices);
    ASSERT_TRUE(made) << made.error().text();
    EXPECT_EQ((*made)->segment().header().page_bytes == 4096, !notices.empty());
    EXPECT_EQ(fill(**made, 1, 1), Wrote::done);
}

TEST(Segment, AnythingElseIsRefusedWithTheOffset) {
    const Folder folder;
    SegmentOptions options = kOne;
    options.path = folder / "segment";
    std::string bytes;
    {
        const auto recorder = make(options);
        for (std::uint64_t n = 1; n <= 3000; ++n) (void)fill(*recorder, 1, n);
        std::stringstream whole;
        whole << std::ifstream(options.path, std::ios::binary).rdbuf();
        bytes = whole.str();
    }
    const auto open_with = [&](const std::string& content) {
        std::ofstream(folder / "other", std::ios::binary | std::ios::trunc) << content;
        return Segment::open(folder / "other", Segment::Access::read);
    };
    ASSERT_TRUE(open_with(bytes));
    // Whatever one word of the header is: an error that names it, or a segment of which a snapshot can be taken.
    int refused = 0;
    for (std::size_t at = 0; at < sizeof(SegmentHeader); at += 4) {
        for (const std::uint32_t word : {0U, 1U, 0x1000U, 0xffffffffU}) {
            std::string other = bytes;
            std::memcpy(other.data() + at, &word, sizeof word);
            const auto segment = open_with(other);
            if (!segment) {
                ++refused;
                EXPECT_THAT(segment.error().what, HasSubstr("offset"));
                continue;
            }
            if (at % 64 != 0) continue;
            std::filesystem::remove_all(folder / "trace");
            (void)snapshot(*segment, folder / "trace");
        }
    }
    EXPECT_GT(refused, 20);
    for (const std::size_t size :
         {std::size_t{0}, std::size_t{1}, sizeof(SegmentHeader) - 1, sizeof(SegmentHeader), bytes.size() - 1}) {
        const auto segment = open_with(bytes.substr(0, size));
        EXPECT_FALSE(segment) << size;
    }
    EXPECT_FALSE(Segment::open("/dev/zero", Segment::Access::read));
    EXPECT_FALSE(Segment::open("/no/such/file", Segment::Access::read));
}

TEST(Segment, LanesThatAreScribbledOnAreReadWithoutHarm) {
    const Folder folder;
    const auto recorder = make(kOne);
    for (std::uint64_t n = 1; n <= 3000; ++n) (void)fill(*recorder, 1, n);
    const auto cpu = static_cast<std::uint32_t>(sched_getcpu());
    const auto& channel = recorder->segment().channels()[0];
    core::u8* lane = recorder->segment().lane(0, cpu);
    const std::vector<core::u8> before(lane, lane + channel.shape.buffer(0));
    std::uint64_t seed = 1;
    for (int round = 0; round < 60; ++round) {
        for (int i = 0; i < 6; ++i) {
            seed = seed * 6364136223846793005U + 1442695040888963407U;
            const std::uint64_t word = seed ^ (seed >> 29);
            std::memcpy(lane + (seed >> 33) % (before.size() / 8) * 8, &word, 8);
        }
        std::filesystem::remove_all(folder / "trace");
        EXPECT_TRUE(snapshot(recorder->segment(), folder / "trace"));
        std::copy(before.begin(), before.end(), lane);
    }
}

TEST(Segment, OfAnotherUserIsOutOfReach) {
    if (geteuid() != 0) GTEST_FAIL() << "this test changes to another user";
    const Folder folder;
    SegmentOptions options = kOne;
    options.path = folder / "segment";
    const auto recorder = make(options);
    std::filesystem::permissions(std::filesystem::path(options.path).parent_path(), std::filesystem::perms::all);
    const pid_t child = fork();
    if (child == 0) {
        if (setgid(65534) != 0 || setuid(65534) != 0) _exit(1);
        const auto by_path = Segment::open(options.path, Segment::Access::read);
        const auto by_pid = Segment::of_process(getppid(), Segment::Access::read);
        _exit(by_path || by_pid ? 2 : 0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace cloister::recorder
