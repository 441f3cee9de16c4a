// What a recording program may find itself in: a sandbox, a file system that fills up, an exec, a peer that scribbles
// over its segment while it is read.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <thread>

#include <cloister/record.hpp>
#include <cloister/trace.hpp>

#include "../core/lane.hpp"
#include "../sandbox.hpp"
#include "../scratch.hpp"
#include "ctf/trace.hpp"
#include "recorder/extract.hpp"
#include "recorder/recorder.hpp"

namespace cloister::recorder {
namespace {

using core::u64;
using core::Wrote;
using core::test::kPair;

constexpr core::Shape kShape{.slots = 8, .size = 16384, .mode = core::Mode::overwrite};
// Each channel's lanes get their memory by themselves.
const std::vector<ChannelOptions> kChannels = {{"first", kShape}, {"second", kShape}};

void stay_here() {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<std::size_t>(sched_getcpu()), &one);
    if (sched_setaffinity(0, sizeof one, &one) != 0) std::abort();
}

// Not instrumented: what a sanitizer's runtime asks of the kernel is not what is tested.
[[gnu::noinline, gnu::no_sanitize("thread", "address", "undefined")]] bool fill(const core::View& view, u64 from,
                                                                                u64 to, Wrote expected = Wrote::done) {
    bool all = true;
    for (u64 n = from; n <= to; ++n) all = core::write_pair(view, kPair, 1, n) == expected && all;
    return all;
}

// The wait status of a child that does this and exits with what it returns.
int in_child(const std::function<int()>& body) {
    const pid_t child = fork();
    if (child == 0) _exit(body());
    int status = 0;
    waitpid(child, &status, 0);
    return status;
}

// The events of a channel in all lanes of a segment's file.
std::vector<u64> events_of(const std::string& path, std::size_t channel = 0) {
    const auto segment = Segment::open(path, Segment::Access::read);
    EXPECT_TRUE(segment) << segment.error().text();
    std::vector<u64> out;
    for (std::uint32_t cpu = 0; cpu < segment->cpus(); ++cpu)
        for (const auto& at : core::test::sub_buffers(segment->lane(channel, cpu), kShape)) {
            const auto decoded = core::test::decode(at);
            EXPECT_EQ(decoded.wrong, "");
            for (const auto& event : decoded.events) out.push_back(event.counter);
        }
    return out;
}

void expect_newest(const std::vector<u64>& events, u64 newest) {
    ASSERT_GT(events.size(), 1000U);
    for (std::size_t i = 0; i < events.size(); ++i) ASSERT_EQ(events[i], newest - events.size() + 1 + i);
}

// A sanitizer's runtime has system calls of its own, which kill as well.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST(Sandbox, EventsGoOnWhereEveryOtherCallKills) {
    const auto folder = tests::Scratch::in_memory();
    const std::string path = folder / "segment";
    EXPECT_EQ(in_child([&] {
                  stay_here();
                  const auto made = Recorder::create({.path = path, .channels = kChannels});
                  if (!made || !fill((*made)->view(0), 1, 10)) return 1;
                  tests::allow_only({SYS_read, SYS_write, SYS_exit, SYS_exit_group});
                  _exit(fill((*made)->view(0), 11, 50'000) ? 0 : 2);  // before the recorder unmaps anything
              }),
              0);
    expect_newest(events_of(path), 50'000);
}
#endif

TEST(Sandbox, ALaneThatCannotGetMemoryRefusesAndCounts) {
    const auto folder = tests::Scratch::in_memory();
    const std::string path = folder / "segment";
    EXPECT_EQ(in_child([&] {
                  stay_here();
                  const auto made = Recorder::create({.path = path, .channels = kChannels});
                  if (!made || !fill((*made)->view(0), 1, 10)) return 1;
                  tests::forbid({SYS_fallocate});
                  const std::array<u64, 2> payload{1, 1};
                  if ((*made)->write(1, kPair, payload.data(), sizeof payload) != Wrote::no_lane) return 2;
                  return (*made)->segment().header().refused == 1 && fill((*made)->view(0), 11, 20) ? 0 : 3;
              }),
              0);
    EXPECT_EQ(events_of(path).size(), 20U);
}

#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)  // their runtimes make calls in between
CLOISTER_EVENT(surroundings, event, (std::uint64_t, number));

[[gnu::noinline, gnu::no_sanitize("thread", "address", "undefined")]] void fire(u64 from, u64 to) {
    for (u64 n = from; n <= to; ++n) CLOISTER_TRACE(surroundings, event, n);
}

TEST(Sandbox, TracepointsGoOnToo) {
    const auto folder = tests::Scratch::in_memory();
    const std::string path = folder / "segment";
    EXPECT_EQ(in_child([&] {
                  stay_here();
                  if (!record::start({.path = path}) || !trace::enable("surroundings:*")) return 1;
                  fire(1, 1);
                  tests::allow_only({SYS_read, SYS_write, SYS_exit, SYS_exit_group});
                  fire(2, 5000);
                  const auto losses = cloister_trace_losses();
                  return losses.no_slot == 0 && losses.recursions == 0 && record::losses().refused == 0 ? 0 : 2;
              }),
              0);
    const auto segment = Segment::open(path, Segment::Access::read);
    ASSERT_TRUE(segment) << segment.error().text();
    ASSERT_TRUE(snapshot(*segment, folder / "trace"));
    const auto trace = ctf::Trace::open(folder / "trace");
    ASSERT_TRUE(trace) << trace.error().text();
    u64 last = 0;
    for (const auto& stream : trace->streams()) {
        ctf::Cursor cursor(stream);
        std::vector<ctf::Value> values;
        while (cursor.next() == ctf::Cursor::Step::event) {
            ASSERT_TRUE(cursor.fields(values));
            ASSERT_EQ(values.back().bits, ++last);
        }
    }
    EXPECT_EQ(last, 5000U);
}
#endif

TEST(FileSystem, ThatFillsUpLaterTakesNothingFromWhoHasRoom) {
    const int status = in_child([] {
        // In a mount namespace of its own: the machine's /dev/shm is left alone.
        if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return 1;
        if (mount("none", "/dev/shm", "tmpfs", 0, "size=1m") != 0) return 2;
        stay_here();
        const auto made = Recorder::create({.path = "/dev/shm/segment", .channels = kChannels});
        if (!made || !fill((*made)->view(0), 1, 10)) return 3;
        std::ofstream rest("/dev/shm/rest");
        while (rest << std::string(4096, 'x') << std::flush) continue;
        if (!fill((*made)->view(0), 11, 50'000)) return 4;             // many laps
        if (!fill((*made)->view(1), 1, 10, Wrote::no_lane)) return 5;  // never had memory
        const auto another = Recorder::create({.path = "/dev/shm/another", .channels = kChannels});
        if (another || another.error().set.empty()) return 6;
        rest.close();
        std::filesystem::remove("/dev/shm/rest");
        if (!fill((*made)->view(1), 1, 10)) return 7;  // there is room again
        expect_newest(events_of("/dev/shm/segment"), 50'000);
        return testing::Test::HasFailure() ? 8 : 0;
    });
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(Exec, LeavesWhatWasWrittenWhileAThreadWrites) {
    const auto folder = tests::Scratch::in_memory();
    const std::string path = folder / "segment";
    void* shared = mmap(nullptr, sizeof(std::atomic<u64>), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    auto& written = *new (shared) std::atomic<u64>(0);
    EXPECT_EQ(in_child([&] {
                  const auto made = Recorder::create({.path = path, .channels = kChannels});
                  if (!made) return 1;
                  std::thread([&] {
                      stay_here();
                      for (u64 n = 1; fill((*made)->view(0), n, n); ++n) written.store(n, std::memory_order_release);
                  }).detach();
                  while (written < 20'000) usleep(100);
                  execl("/bin/true", "true", static_cast<char*>(nullptr));
                  return 2;
              }),
              0);
    const auto events = events_of(path);
    ASSERT_FALSE(events.empty());
    EXPECT_TRUE(events.back() == written || events.back() == written + 1) << events.back() << " of " << written;
    expect_newest(events, events.back());
    munmap(shared, sizeof(std::atomic<u64>));
}

TEST(Fork, AChildMayHaveARecorderOfItsOwn) {
    const auto folder = tests::Scratch::in_memory();
    const auto parents = Recorder::create({.path = folder / "parent", .channels = kChannels});
    ASSERT_TRUE(parents);
    EXPECT_TRUE(fill((*parents)->view(0), 1, 5));
    EXPECT_EQ(in_child([&] {
                  const auto childs = Recorder::create({.path = folder / "child", .channels = kChannels});
                  return childs && fill((*childs)->view(0), 1, 7) ? 0 : 1;
              }),
              0);
    EXPECT_TRUE(fill((*parents)->view(0), 6, 9));
    EXPECT_EQ(events_of(folder / "child").size(), 7U);
    EXPECT_EQ(events_of(folder / "parent").size(), 9U);
}

// Random words, all over what steers a reader, as fast as it can.
[[noreturn]] void scribble(const Segment& segment) {
    std::mt19937_64 dice(1);
    const std::size_t begin_of_lanes = segment.channels()[0].lanes, end = segment.header().bytes;
    for (u64 n = 0;; ++n) {
        std::size_t at = 0;
        switch (n % 4) {
            case 0:
                at = dice() % (kClasses + 512);
                break;
            case 1:
                at = begin_of_lanes + dice() % (end - begin_of_lanes);
                break;
            default: {  // the words of a lane
                const auto& channel = segment.channels()[dice() % segment.channels().size()];
                at = channel.lanes + channel.stride * (dice() % segment.cpus()) + dice() % channel.shape.buffer(0);
            }
        }
        const u64 value = dice() >> dice() % 64;
        std::memcpy(segment.base() + at / 8 * 8, &value, sizeof value);
    }
}

TEST(Peer, ThatScribblesWhileItIsRead) {
    const auto folder = tests::Scratch::in_memory();
    const std::string path = folder / "segment";
    const auto made = Recorder::create({.path = path, .channels = kChannels});
    ASSERT_TRUE(made);
    ASSERT_TRUE((*made)->declare(0, kPair, "event { name = \"peer:pair\"; id = 5; stream_id = 0; };\n"));
    ASSERT_TRUE(fill((*made)->view(0), 1, 20'000) && fill((*made)->view(1), 1, 20'000));
    const auto segment = Segment::open(path, Segment::Access::read);
    ASSERT_TRUE(segment);
    auto drained = Segment::open(path, Segment::Access::drain);
    ASSERT_TRUE(drained);
    auto drain = Drain::begin(std::move(*drained), folder / "drain");
    ASSERT_TRUE(drain);
    const pid_t peer = fork();
    if (peer == 0) scribble((*made)->segment());
    constexpr int kRounds = 200;
    u64 opened = 0;
    for (int round = 0; round < kRounds; ++round) {
        // Either it succeeds, or it says what is wrong; it returns, and it reads nothing beyond (asan).
        if (const auto done = snapshot(*segment, folder / "trace"); !done) {
            EXPECT_FALSE(done.error().what.empty());
        }
        (void)ctf::Trace::open(folder / "trace");
        (void)drain->run();
        opened += Segment::open(path, Segment::Access::read).has_value();
        std::filesystem::remove_all(folder / "trace");
    }
    (void)drain->finish();
    EXPECT_EQ(kill(peer, SIGKILL), 0);
    int status = 0;
    waitpid(peer, &status, 0);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "it scribbled until the end";
    EXPECT_LT(opened, static_cast<u64>(kRounds)) << "its header was scribbled on as well";
}

}  // namespace
}  // namespace cloister::recorder
