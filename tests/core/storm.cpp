// lane_storm SECONDS [EVENTS], for so long, and longer until so many events were written: writers on all CPUs, timer
// signals that write from their handlers as often as the machine lets them, migrations forced all the time, a reader
// that looks at an overwrite channel in place, and a drain that empties a discard channel. Every event carries {source,
// counter}. At the end each one whose write was done must have come out of the drain once, and what was dropped must be
// what the lanes have counted.
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <thread>

#include "lane.hpp"

using namespace cloister::core;
using namespace cloister::core::test;

namespace {

// Each thread is three sources: itself, and a handler for each of two signals, either of which interrupts the other.
constexpr u32 kWriters = 4, kSignals = 2, kEach = 1 + kSignals;
constexpr u32 kSources = kEach * kWriters;
constexpr std::array<int, kSignals> kSignal{SIGUSR1, SIGUSR2};
constexpr long kTimerNs = 20'000;

struct Source {
    std::atomic<u64> done = 0;
    u64 dropped = 0, signals = 0;
};
Source sources[kSources];
Lanes* over = nullptr;
Lanes* disc = nullptr;
std::atomic<bool> stop = false;
std::atomic<u64> failures = 0;

thread_local u32 self = 0;

void fail(const char* what, const std::string& detail = {}) {
    if (failures.fetch_add(1) < 10) std::printf("%s %s\n", what, detail.c_str());
}

// One event into each channel; its form depends on the counter.
void write_one(u32 index) {
    Source& source = sources[index];
    const u64 counter = source.done.load(std::memory_order_relaxed);
    const Payload payload = payload_of(index, counter, static_cast<u32>(counter % 7));
    const u64* words = payload.words.data();
    const u32 id = counter % 11 ? kPair : kWide;
    if (write_staged(over->view, id, words, payload.bytes) != Wrote::done)
        fail("an overwrite channel refused an event");
    const Wrote wrote = counter % 7 ? write_staged(disc->view, id, words, payload.bytes)
                                    : write_pair(disc->view, id, words[0], words[1]);
    if (wrote == Wrote::done)
        source.done.store(counter + 1, std::memory_order_relaxed);
    else if (wrote == Wrote::dropped)
        ++source.dropped;
    else
        fail("a discard channel refused an event");
}

thread_local std::array<timer_t, kSignals> timers;

// Once: a timer that repeats by itself would, on a machine that takes longer than its interval to deliver a signal,
// let nothing but handlers run.
void arm(u32 n) {
    const itimerspec once{{0, 0}, {0, kTimerNs}};
    if (timer_settime(timers[n], 0, &once, nullptr) != 0) fail("no timer");
}

void on_timer(int signal) {
    const u32 n = signal == kSignal[0] ? 0 : 1;
    ++sources[kEach * self + 1 + n].signals;
    write_one(kEach * self + 1 + n);
    arm(n);
}

void writer(u32 index, std::atomic<pid_t>& tid) {
    self = index;
    tid = static_cast<pid_t>(syscall(SYS_gettid));
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event._sigev_un._tid = tid;
    for (u32 n = 0; n < kSignals; ++n) {
        event.sigev_signo = kSignal[n];
        if (timer_create(CLOCK_MONOTONIC, &event, &timers[n]) != 0) fail("no timer");
    }
    for (u32 n = 0; n < kSignals; ++n) arm(n);
    while (!stop) write_one(kEach * index);
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    for (timer_t timer : timers) timer_delete(timer);
}

void migrate(std::array<std::atomic<pid_t>, kWriters>& tids, u32 cpus) {
    std::minstd_rand random(1);
    while (!stop) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(random() % cpus, &one);
        if (const pid_t tid = tids[random() % kWriters]) sched_setaffinity(tid, sizeof one, &one);
        usleep(50);
    }
}

u64 looked_at = 0, overtaken = 0;

// Copies every sub-buffer, and checks what it has copied if it was not overwritten meanwhile.
void reader(u32 cpus) {
    std::vector<u8> copy(over->shape.size);
    while (!stop) {
        for (u32 cpu = 0; cpu < cpus; ++cpu)
            for (u32 i = 0; i < over->shape.slots; ++i) {
                SubBuffer at;
                if (!look(over->lane(cpu), over->shape, i, at)) continue;
                std::memcpy(copy.data(), at.data, at.content);
                // So that some are overtaken where reader and writers never run at the same time, too.
                if (looked_at % 64 == 0) usleep(500);
                if (!still(over->lane(cpu), over->shape, at)) {
                    ++overtaken;
                    continue;
                }
                at.data = copy.data();
                const Decoded found = decode(at);
                ++looked_at;
                if (!found.wrong.empty()) fail("snapshot:", found.wrong);
            }
        usleep(500);
    }
}

std::array<std::vector<bool>, kSources> seen;
u64 drained_events = 0;

void take_in(const SubBuffer& at) {
    const Decoded found = decode(at);
    if (!found.wrong.empty()) fail("drain:", found.wrong);
    for (const auto& event : found.events) {
        auto& bits = seen[event.thread & 0xff];
        if (bits.size() <= event.counter) bits.resize(event.counter * 3 / 2 + 1024);
        if (bits[event.counter]) fail("doubled:", fmt::format("{} of source {}", event.counter, event.thread & 0xff));
        bits[event.counter] = true;
        ++drained_events;
    }
}

void drain(u32 cpus, u64* lost) {
    for (bool last = false;; last = stop) {
        for (u32 cpu = 0; cpu < cpus; ++cpu) {
            SubBuffer at;
            Took took = Took::nothing;
            for (u32 n = 0; n < disc->shape.slots && (took = take(disc->lane(cpu), disc->shape, at)) == Took::one;
                 ++n) {
                if (at.lost_begin != lost[cpu]) fail("losses do not join");
                lost[cpu] = at.lost_end;
                take_in(at);
                give_back(disc->lane(cpu), disc->shape, at);
            }
            if (took == Took::broken) fail("a broken lane");
        }
        if (last) return;
        usleep(200);
    }
}

}  // namespace

int main(int argc, char** argv) {
    const int seconds = argc > 1 ? std::atoi(argv[1]) : 10;
    const u64 events = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0;
    const auto cpus = static_cast<u32>(sysconf(_SC_NPROCESSORS_ONLN));
    Lanes overwrite({.slots = 4, .size = 8192, .mode = Mode::overwrite}, cpus);
    Lanes discard({.slots = 8, .size = 16384, .mode = Mode::discard}, cpus);
    over = &overwrite;
    disc = &discard;
    struct sigaction action {};
    action.sa_handler = on_timer;
    action.sa_flags = SA_RESTART;
    for (int signal : kSignal) sigaction(signal, &action, nullptr);

    std::array<std::atomic<pid_t>, kWriters> tids{};
    std::vector<u64> lost(cpus);
    std::thread drainer(drain, cpus, lost.data()), looker(reader, cpus);
    std::vector<std::thread> writers;
    for (u32 i = 0; i < kWriters; ++i) writers.emplace_back(writer, i, std::ref(tids[i]));
    std::thread mover(migrate, std::ref(tids), cpus);
    const auto written = [] {
        u64 sum = 0;
        for (const auto& source : sources) sum += source.done.load(std::memory_order_relaxed);
        return sum;
    };
    std::this_thread::sleep_for(std::chrono::seconds(seconds));
    while (written() < events && failures == 0) std::this_thread::sleep_for(std::chrono::seconds(1));
    stop = true;
    for (auto& thread : writers) thread.join();
    mover.join();
    looker.join();
    drainer.join();
    // What is left in the sub-buffers that are open; nobody writes any more.
    drain(cpus, lost.data());
    u64 counted = 0, dropped = 0, signals = 0;
    const u64 done = written();
    for (u32 cpu = 0; cpu < cpus; ++cpu) {
        for (const auto& at : sub_buffers(discard.lane(cpu), discard.shape))
            if (at.open) take_in(at);
        counted += lost_of(discard.lane(cpu));
    }
    for (u32 i = 0; i < kSources; ++i) {
        dropped += sources[i].dropped;
        signals += sources[i].signals;
        for (u64 n = 0; n < sources[i].done; ++n)
            if (n >= seen[i].size() || !seen[i][n]) fail("lost:", fmt::format("{} of source {}", n, i));
    }
    if (drained_events != done) fail("more came out than was written");
    if (counted != dropped) fail("drops:", fmt::format("{} counted, {} made", counted, dropped));
    if (!done || !dropped || !signals || !looked_at || !overtaken) fail("a storm without wind");
    std::printf(
        "%llu events written, %llu dropped and counted; %llu signals; %llu sub-buffers looked at, %llu overtaken; %llu "
        "wrong\n",
        static_cast<unsigned long long>(done), static_cast<unsigned long long>(dropped),
        static_cast<unsigned long long>(signals), static_cast<unsigned long long>(looked_at),
        static_cast<unsigned long long>(overtaken), static_cast<unsigned long long>(failures.load()));
    return failures ? 1 : 0;
}
