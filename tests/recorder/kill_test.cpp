// kill -9 at random moments, a thousand times: of a program that records at full speed, in threads, in signal handlers
// that interrupt them, and in a thread that is moved from CPU to CPU all the time. (tests/step kills at each
// instruction; here several threads die at once, each wherever it happens to be.)
//
// Whatever was returned as written is read back, in place and as a trace; and another process goes on in the same
// lanes, whatever the dead one has left in them.
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <random>
#include <thread>

#include "../core/lane.hpp"
#include "../scratch.hpp"
#include "ctf/metadata_text.hpp"
#include "ctf/trace.hpp"
#include "recorder/extract.hpp"
#include "recorder/recorder.hpp"

namespace cloister::recorder {
namespace {

using core::u32;
using core::u64;
using core::Wrote;
using core::test::kPair;
using core::test::kWide;

constexpr int kKills = 1000;
// Threads that stay on one CPU each, and one that is moved; each is two sources: itself and its signal handler.
constexpr u32 kThreads = 3, kMoved = 2, kSources = 2 * kThreads, kSuccessor = kSources;
constexpr u64 kMostKept = 2000;  // of a source: all of them, of all sources, have room in one lane
constexpr std::size_t kKept = 0, kRing = 1;
const std::vector<ChannelOptions> kChannels = {
    {"kept", {.slots = 128, .size = 4096, .mode = core::Mode::overwrite}},
    {"ring", {.slots = 4, .size = 4096, .mode = core::Mode::overwrite}},  // overwritten again and again
};

// How many of its events each source knows to be written. Shared, and so outlives the program.
struct Board {
    std::array<std::array<std::atomic<u64>, kSources>, 2> written;
    std::atomic<bool> failed;
};
Board* board = nullptr;

std::vector<int> allowed_cpus() {
    cpu_set_t set;
    sched_getaffinity(0, sizeof set, &set);
    std::vector<int> out;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
        if (CPU_ISSET(static_cast<std::size_t>(cpu), &set)) out.push_back(cpu);
    return out;
}

void stay_on(int cpu, pid_t tid = 0) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<std::size_t>(cpu), &one);
    if (sched_setaffinity(tid, sizeof one, &one) != 0) std::abort();
}

Wrote write_next(const core::View& view, u64 source, u64 counter) {
    const auto payload = core::test::payload_of(source, counter, counter % 11 ? 0 : 3);
    return core::write_staged(view, counter % 11 ? kPair : kWide, payload.words.data(), payload.bytes);
}

// ---- The program that is killed ----

Recorder* recorder = nullptr;
thread_local u32 self = 0;

void write_into(std::size_t channel, u32 source) {
    auto& written = board->written[channel][source];
    const u64 counter = written.load(std::memory_order_relaxed) + 1;
    if (channel == kKept && counter > kMostKept) return;
    if (write_next(recorder->view(channel), source, counter) != Wrote::done) board->failed = true;
    written.store(counter, std::memory_order_release);
}

// The thread that is moved writes no events that may be overwritten: which ones those are depends on where it was.
void write_both(u32 source) {
    write_into(kKept, source);
    if (source / 2 != kMoved) write_into(kRing, source);
}

void declare() {
    for (u32 channel = 0; channel < kChannels.size(); ++channel)
        for (const u32 id : {kPair, kWide}) {
            ctf::EventClass event{
                .name = id == kPair ? "killed:pair" : "killed:wide", .id = id, .stream_id = channel, .fields = {}};
            event.fields = {ctf::Field::of_integer("thread", {64, false, 16}),
                            ctf::Field::of_integer("counter", {64, false, 10})};
            if (id == kWide) event.fields.push_back(ctf::Field::of_bytes("rest", 12));
            if (!recorder->declare(channel, id, ctf::event_text(event))) board->failed = true;
        }
}

[[noreturn]] void record(const std::string& path, const std::vector<int>& cpus) {
    (void)nice(5);  // its killer comes when it wants to, not when three busy threads have had their turns
    auto made = Recorder::create({.path = path, .channels = kChannels});
    if (!made) {
        board->failed = true;
        _exit(1);
    }
    recorder = made->get();
    declare();
    struct sigaction action {};
    action.sa_handler = [](int) { write_both(2 * self + 1); };
    action.sa_flags = SA_RESTART;
    sigaction(SIGUSR1, &action, nullptr);
    std::array<std::atomic<pid_t>, kThreads> tids{};
    std::vector<std::thread> threads;
    for (u32 t = 0; t < kThreads; ++t)
        threads.emplace_back([&, t] {
            self = t;
            stay_on(cpus[t % cpus.size()]);
            tids[t] = gettid();
            while (true) write_both(2 * t);
        });
    for (u32 n = 0;; ++n) {
        const u32 t = n % kThreads;
        if (tids[kMoved] != 0) stay_on(cpus[n % cpus.size()], tids[kMoved]);
        if (tids[t] != 0) tgkill(getpid(), tids[t], SIGUSR1);
        usleep(10);
    }
}

// ---- What is left of it ----

using Found = std::map<u64, std::vector<u64>>;  // by source: its events in one lane, in their order

Found events_in(const core::u8* lane, const core::Shape& shape) {
    Found found;
    for (const auto& at : core::test::sub_buffers(lane, shape)) {
        const auto decoded = core::test::decode(at);
        EXPECT_EQ(decoded.wrong, "");
        for (const auto& event : decoded.events) found[event.thread & 0xff].push_back(event.counter);
    }
    return found;
}

// `least` events of a source were written, and one more may have been.
void expect_all_kept(const std::vector<Found>& lanes, u64 source, u64 least) {
    std::vector<u64> present;
    for (const auto& found : lanes)
        if (const auto of_source = found.find(source); of_source != found.end()) {
            EXPECT_TRUE(std::ranges::is_sorted(of_source->second));
            present.insert(present.end(), of_source->second.begin(), of_source->second.end());
        }
    std::ranges::sort(present);
    EXPECT_TRUE(present.size() == least || present.size() == least + 1)
        << present.size() << " of " << least << " of source " << source;
    for (std::size_t i = 0; i < present.size(); ++i) ASSERT_EQ(present[i], i + 1) << "of source " << source;
}

// The newest events of one that stayed in its lane, without a hole.
void expect_newest(const std::vector<Found>& lanes, u64 source, u64 least, bool overwritten) {
    std::vector<u64> all;
    for (const auto& found : lanes)
        if (const auto of_source = found.find(source); of_source != found.end())
            all.insert(all.end(), of_source->second.begin(), of_source->second.end());
    if (all.empty() && (overwritten || least == 0)) return;
    ASSERT_FALSE(all.empty()) << "source " << source;
    EXPECT_TRUE(all.back() == least || all.back() == least + 1) << all.back() << " of " << least;
    for (std::size_t i = 0; i < all.size(); ++i) ASSERT_EQ(all[i], all.front() + i);
}

class Remains {
public:
    explicit Remains(const std::string& path) : segment_(*Segment::open(path, Segment::Access::drain)) {
        for (std::size_t c = 0; c < kChannels.size(); ++c)
            for (u32 cpu = 0; cpu < segment_.cpus(); ++cpu) lanes_[c].push_back(look(c, cpu));
    }
    void expect_everything() const {
        for (u32 source = 0; source < kSources; ++source) {
            expect_all_kept(lanes_[kKept], source, board->written[kKept][source]);
            // A thread's own newest event is there: only a handler's, of which there are a few, come after it.
            expect_newest(lanes_[kRing], source, board->written[kRing][source], source % 2 == 1);
        }
    }
    [[nodiscard]] u64 claims() const {
        u64 claims = 0;
        for (std::size_t c = 0; c < kChannels.size(); ++c)
            for (u32 cpu = 0; cpu < segment_.cpus(); ++cpu) {
                const auto* lane = segment_.lane(c, cpu);
                const u64 next = core::active_of(lane).number() + 1;
                const auto index = static_cast<u32>(next & (kChannels[c].shape.slots - 1));
                claims += next > 1 &&
                          core::Slot{core::lane_words::load(lane + kChannels[c].shape.slot(index))}.number() == next;
            }
        return claims;
    }
    // The trace of it has as many events as were found in place.
    void expect_trace(const std::string& directory) const {
        ASSERT_TRUE(snapshot(segment_, directory));
        const auto trace = ctf::Trace::open(directory);
        ASSERT_TRUE(trace) << trace.error().text();
        u64 count = 0;
        for (const auto& stream : trace->streams()) {
            ctf::Cursor cursor(stream);
            ctf::Counts counts;
            ctf::FragmentCounts fragments;
            ASSERT_TRUE(cursor.count(counts, fragments)) << cursor.error().text();
            for (const u64 of_class : counts.events) count += of_class;
        }
        EXPECT_EQ(count, events());
    }
    [[nodiscard]] u64 events() const {
        u64 events = 0;
        for (const auto& lanes : lanes_)
            for (const auto& found : lanes)
                for (const auto& [source, numbers] : found) events += numbers.size();
        return events;
    }
    // This process writes on in every lane, past its next switches.
    void go_on(const std::vector<int>& cpus) {
        for (std::size_t c = 0; c < kChannels.size(); ++c) {
            const auto& channel = segment_.channels()[c];
            const core::View view = core::view_of(channel.shape, reinterpret_cast<u64>(segment_.lane(c, 0)),
                                                  channel.stride, segment_.cpus());
            for (const int cpu : cpus) {
                stay_on(cpu);
                const auto lane = static_cast<u32>(cpu);
                const u64 active = core::active_of(segment_.lane(c, lane)).number();
                u64 counter = 0;
                while (core::active_of(segment_.lane(c, lane)).number() < active + 2)
                    ASSERT_EQ(write_next(view, kSuccessor, ++counter), Wrote::done);
                auto found = look(c, lane);
                expect_newest({found}, kSuccessor, counter, false);
                if (c == kKept) {
                    EXPECT_EQ(found[kSuccessor].size(), counter);
                }
                found.erase(kSuccessor);
                if (c == kKept) {
                    EXPECT_EQ(found, lanes_[c][lane]) << "what the dead one has written is still there";
                }
            }
        }
    }

private:
    [[nodiscard]] Found look(std::size_t channel, u32 cpu) const {
        return events_in(segment_.lane(channel, cpu), kChannels[channel].shape);
    }
    Segment segment_;
    std::array<std::vector<Found>, 2> lanes_;
};

// babeltrace2's count of the events of these traces, all in one run. What it complains about goes to `errors`.
u64 count_by_babeltrace2(const std::vector<std::string>& traces, const std::string& errors) {
    std::string command = "babeltrace2 -c sink.utils.counter";
    for (const auto& trace : traces) command += " " + trace;
    FILE* pipe = popen((command + " 2>" + errors).c_str(), "r");
    unsigned long long events = 0;
    std::array<char, 256> line{};
    while (std::fgets(line.data(), line.size(), pipe))
        if (std::strstr(line.data(), " Event message")) std::sscanf(line.data(), "%llu", &events);
    EXPECT_EQ(pclose(pipe), 0);
    return events;
}

TEST(Kill, AThousandTimesAtAnyMoment) {
    const auto folder = tests::Scratch::in_memory();
    const auto cpus = allowed_cpus();
    void* shared = mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(shared, MAP_FAILED);
    std::mt19937 dice(1);
    u64 events = 0, claims = 0, in_traces = 0;
    std::vector<std::string> traces;
    for (int kill_number = 0; kill_number < kKills && !testing::Test::HasFailure(); ++kill_number) {
        const std::string path = folder / "segment";
        board = new (shared) Board{};
        const pid_t child = fork();
        if (child == 0) record(path, cpus);
        // From its first event on; a program that has failed or died ends the wait, too.
        const auto writes = [] {
            return std::ranges::any_of(board->written[kKept], [](const auto& written) { return written != 0; });
        };
        int status = 0;
        while (!writes() && !board->failed && waitpid(child, &status, WNOHANG) == 0) usleep(50);
        usleep(static_cast<useconds_t>(dice() % 4000));
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        ASSERT_TRUE(WIFSIGNALED(status) && !board->failed) << status;
        cloister_rseq_offset = __rseq_offset;
        Remains remains(path);
        remains.expect_everything();
        const std::string trace = folder / "trace" + std::to_string(kill_number);
        remains.expect_trace(trace);
        claims += remains.claims();
        remains.go_on(cpus);
        events += remains.events();
        in_traces += remains.events();
        traces.push_back(trace);
        if (traces.size() == 100) {
            EXPECT_EQ(count_by_babeltrace2(traces, folder / "errors"), in_traces);
            EXPECT_EQ(std::filesystem::file_size(folder / "errors"), 0U);
            for (const auto& done : traces) std::filesystem::remove_all(done);
            traces.clear();
            in_traces = 0;
        }
        std::filesystem::remove(path);
    }
    EXPECT_TRUE(traces.empty()) << "babeltrace2 has read them all";
    std::printf("%d kills, %llu events read back; %llu claims were left behind\n", kKills,
                static_cast<unsigned long long>(events), static_cast<unsigned long long>(claims));
    munmap(shared, sizeof(Board));
}

}  // namespace
}  // namespace cloister::recorder
