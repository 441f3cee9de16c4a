// spill_storm SECONDS: threads with rseq and threads without it write into one channel that discards, lanes and spill
// lane, and into one that overwrites; all are interrupted by signals that write as well, and moved from CPU to CPU.
// A drain empties the first, a reader copies from the second. At the end each event whose write was done must have come
// out once or be counted as passed over, and what was dropped must be what the lanes have counted.
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>

#include "rseq.hpp"
#include "spill.hpp"

using namespace cloister::core;
using namespace cloister::core::test;

namespace {

// Each thread is two sources: itself, and its signal handler. The first half of the threads has rseq.
constexpr u32 kWriters = 4, kSources = 2 * kWriters;
constexpr long kTimerNs = 30'000;

struct Channel {
    explicit Channel(const Shape& shape, u32 cpus) : lanes(shape, cpus), spill(shape), view(lanes.view) {
        view.spill = spill.view.spill;
    }
    Lanes lanes;
    Spill spill;
    View view;
};
Channel* over = nullptr;
Channel* disc = nullptr;

struct Source {
    u64 done = 0, dropped = 0;
    std::vector<bool> seen;
};
std::array<Source, kSources> sources;
std::atomic<bool> stop = false;
std::atomic<u64> failures = 0, signals = 0;
u64 drained = 0, passed_over = 0, copied = 0, overtaken = 0;
thread_local u32 self = 0;
thread_local timer_t timer;

void fail(const char* what, const std::string& detail = {}) {
    if (failures.fetch_add(1) < 10) std::printf("%s %s\n", what, detail.c_str());
}

void write_one(u32 index) {
    Source& source = sources[index];
    // Of one cell in the spill lane, so that holes can be told from each other (spill.hpp, P4).
    const u64 payload[2] = {index, source.done};
    const u32 id = source.done % 11 ? kPair : kWide;
    const Wrote seen = write_pair(over->view, id, payload[0], payload[1]);
    // With a writer asleep in each sub-buffer there is no room even here.
    if (seen != Wrote::done && (seen != Wrote::dropped || index < kWriters))
        fail("an overwrite channel refused an event");
    const Wrote wrote = write_pair(disc->view, id, payload[0], payload[1]);
    if (wrote == Wrote::done)
        ++source.done;
    else if (wrote == Wrote::dropped)
        ++source.dropped;
    else
        fail("a discard channel refused an event");
}

void arm() {
    const itimerspec once{{0, 0}, {0, kTimerNs}};
    if (timer_settime(timer, 0, &once, nullptr) != 0) fail("no timer");
}

void on_timer(int) {
    ++signals;
    write_one(2 * self + 1);
    arm();
}

void writer(u32 index, std::atomic<pid_t>& tid) {
    self = index;
    tid = static_cast<pid_t>(syscall(SYS_gettid));
    if (index >= kWriters / 2 && !unregister()) fail("cannot unregister");
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event._sigev_un._tid = tid;
    event.sigev_signo = SIGUSR1;
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0) fail("no timer");
    arm();
    while (!stop) write_one(2 * index);
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    timer_delete(timer);
}

void migrate(std::array<std::atomic<pid_t>, kWriters>& tids, u32 cpus) {
    std::minstd_rand random(1);
    while (!stop) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(random() % cpus, &one);
        if (const pid_t tid = tids[random() % kWriters]) sched_setaffinity(tid, sizeof one, &one);
        usleep(100);
    }
}

void look_at_spill() {
    while (!stop) {
        for (u32 i = 0; i < over->spill.shape.slots; ++i) {
            const SpillContent content = copy_of(over->spill, i);
            if (!content.wrong.empty()) fail("copy:", content.wrong);
            ++(content.number ? copied : overtaken);
            for (const auto& event : content.events)
                if (event.thread < kWriters) fail("an event of a thread with rseq was spilt");
        }
        usleep(300);
    }
}

void take_in(const std::vector<Event>& events, bool spilt) {
    for (const auto& event : events) {
        if ((event.thread >= kWriters) != spilt) fail("an event is in the wrong lane");
        auto& seen = sources.at(event.thread).seen;
        if (seen.size() <= event.counter) seen.resize(event.counter * 3 / 2 + 1024);
        if (seen[event.counter]) fail("doubled:", fmt::format("{} of source {}", event.counter, event.thread));
        seen[event.counter] = true;
        ++drained;
    }
}

void take_spilt(const SpillContent& content) {
    if (!content.wrong.empty()) fail("drain:", content.wrong);
    take_in(content.events, true);
    passed_over += content.holes;
}

void drain(u32 cpus) {
    for (bool last = false;; last = stop) {
        for (u32 cpu = 0; cpu < cpus; ++cpu) {
            SubBuffer at;
            for (u32 n = 0;
                 n < disc->lanes.shape.slots && take(disc->lanes.lane(cpu), disc->lanes.shape, at) == Took::one; ++n) {
                const Decoded found = decode(at);
                if (!found.wrong.empty()) fail("drain:", found.wrong);
                take_in(found.events, false);
                give_back(disc->lanes.lane(cpu), disc->lanes.shape, at);
            }
        }
        u32 index = 0;
        for (u32 n = 0; n < disc->spill.shape.slots && next_to_drain(disc->spill.lane, disc->spill.shape, index); ++n) {
            const SpillContent content = copy_of(disc->spill, index);
            take_spilt(content);
            spill_drained(disc->spill.lane, index, content.number, Mode::discard);
        }
        if (last) return;
        usleep(200);
    }
}

}  // namespace

int main(int argc, char** argv) {
    const int seconds = argc > 1 ? std::atoi(argv[1]) : 10;
    const auto cpus = static_cast<u32>(sysconf(_SC_NPROCESSORS_ONLN));
    Channel overwrite({.slots = 4, .size = 8192, .mode = Mode::overwrite}, cpus);
    Channel discard({.slots = 8, .size = 16384, .mode = Mode::discard}, cpus);
    over = &overwrite;
    disc = &discard;
    struct sigaction action {};
    action.sa_handler = on_timer;
    action.sa_flags = SA_RESTART;
    sigaction(SIGUSR1, &action, nullptr);

    std::array<std::atomic<pid_t>, kWriters> tids{};
    std::thread drainer(drain, cpus), looker(look_at_spill);
    std::vector<std::thread> writers;
    for (u32 i = 0; i < kWriters; ++i) writers.emplace_back(writer, i, std::ref(tids[i]));
    std::thread mover(migrate, std::ref(tids), cpus);
    std::this_thread::sleep_for(std::chrono::seconds(seconds));
    stop = true;
    for (auto& thread : writers) thread.join();
    mover.join();
    looker.join();
    drainer.join();
    drain(cpus);  // what has become full since; then what is left in those that are open
    u64 counted = spill_lost_of(discard.spill.lane), done = 0, dropped = 0, missing = 0, handled = 0;
    for (u32 cpu = 0; cpu < cpus; ++cpu) {
        for (const auto& at : sub_buffers(discard.lanes.lane(cpu), discard.lanes.shape))
            if (at.open) take_in(decode(at).events, false);
        counted += lost_of(discard.lanes.lane(cpu));
    }
    for (const auto& content : contents(discard.spill)) take_spilt(content);
    for (u32 i = 0; i < kSources; ++i) {
        done += sources[i].done;
        dropped += sources[i].dropped;
        handled += i % 2 ? sources[i].done : 0;
        for (u64 n = 0; n < sources[i].done; ++n) {
            const bool here = n < sources[i].seen.size() && sources[i].seen[n];
            missing += !here;
            if (!here && i < kWriters) fail("lost:", fmt::format("{} of source {}, which has rseq", n, i));
        }
    }
    // A writer that slept while the next sub-buffer was filled: counted as lost, though its write returned later.
    if (missing != passed_over) fail("lost:", fmt::format("{} missing, {} counted", missing, passed_over));
    if (drained + missing != done) fail("more came out than was written");
    if (counted != dropped) fail("drops:", fmt::format("{} counted, {} made", counted, dropped));
    if (!done || !dropped || !signals || !handled || !copied) fail("a storm without wind");
    std::printf(
        "%llu events written, %llu dropped and counted, %llu passed over; %llu signals; %llu copies; %llu wrong\n",
        static_cast<unsigned long long>(done), static_cast<unsigned long long>(dropped),
        static_cast<unsigned long long>(passed_over), static_cast<unsigned long long>(signals.load()),
        static_cast<unsigned long long>(copied), static_cast<unsigned long long>(failures.load()));
    return failures ? 1 : 0;
}
