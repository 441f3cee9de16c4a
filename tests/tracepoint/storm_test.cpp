// Sites at full speed, in threads and in signal handlers, while they are turned on and off, and while probes come and
// go.
#include <cloister/trace.hpp>

#include <atomic>
#include <csignal>
#include <memory>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/time.h>
#include <unistd.h>

#include "tracepoint/collect.hpp"

namespace cloister::tests {
namespace {

CLOISTER_EVENT(storm, one, (std::uint64_t, number), (std::uint64_t, inverse));
CLOISTER_EVENT(storm, two, (std::string_view, text), (std::uint64_t, number));

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kToggles = 1000, kProbes = 300;
#else
constexpr int kToggles = 6000, kProbes = 2000;
#endif

constinit thread_local std::uint64_t shown __attribute__((tls_model("initial-exec"))) = 0;
std::atomic<std::uint64_t> torn, total;

void probe(void*, const cloister_event* event) {
    std::uint64_t fields[2] = {1, 1};
    if (event->size == sizeof fields) {
        std::memcpy(fields, event->payload, sizeof fields);
        if (fields[0] != ~fields[1]) torn.fetch_add(1);
    } else if (event->size != 4 + 8 || std::memcmp(event->payload, "xyz", 4) != 0) {
        torn.fetch_add(1);
    }
    total.fetch_add(1, std::memory_order_relaxed);
    shown = shown + 1;
}

__attribute__((noinline)) void run_one(std::uint64_t number) { CLOISTER_TRACE(storm, one, number, ~number); }
__attribute__((noinline)) void run_two(std::uint64_t number) { CLOISTER_TRACE(storm, two, "xyz", number); }

// 4 n + what is being done to the sites for the nth time.
enum State : std::uint64_t { off, changing, on };
std::atomic<std::uint64_t> state;

struct Counts {
    std::uint64_t on = 0, off = 0, unsure = 0, shown = 0, wrong = 0;
};

// Every call is judged by itself: if the sites were on from before it to after it, it was shown exactly once; if off,
// not.
void judge(Counts& counts, void (*run)(std::uint64_t), std::uint64_t number) {
    const std::uint64_t before = state.load(), shown_before = shown;
    run(number);
    const std::uint64_t times = shown - shown_before;
    const std::uint64_t after = state.load();
    counts.shown += times;
    if (before != after || before % 4 == changing) {
        ++counts.unsure;
        counts.wrong += times > 1;
    } else if (before % 4 == on) {
        ++counts.on;
        counts.wrong += times != 1;
    } else {
        ++counts.off;
        counts.wrong += times != 0;
    }
}

std::atomic<bool> stop;
std::atomic<std::uint64_t> ready;

struct Runner {
    Counts counts;
    std::thread thread;
    explicit Runner(bool blocks_traps) {
        thread = std::thread([this, blocks_traps] {
            sigset_t set;
            sigfillset(&set);
            if (blocks_traps) pthread_sigmask(SIG_SETMASK, &set, nullptr);
            ready.fetch_add(1);
            for (std::uint64_t i = 0; !stop.load(std::memory_order_relaxed); ++i)
                judge(counts, i % 2 ? run_one : run_two, i);
        });
    }
};

// A handler judges its own call, and leaves the count of the call that it interrupts as it was.
std::atomic<std::uint64_t> handler_calls, handler_shown, handler_wrong;
void judge_in_handler(int) {
    const std::uint64_t before = shown;
    Counts counts;
    judge(counts, run_one, 77);
    shown = before;
    handler_calls.fetch_add(1);
    handler_shown.fetch_add(counts.shown);
    handler_wrong.fetch_add(counts.wrong);
}

// SIGALRM again and again, each armed when the one before has been handled: a timer that repeats by itself would, on a
// machine that takes longer than its interval for one, let nothing but handlers run.
class Timer {
public:
    Timer(void (*handler)(int), int us) {
        handler_ = handler;
        us_ = us;
        struct sigaction action {};
        action.sa_handler = [](int signal) {
            handler_(signal);
            arm();
        };
        action.sa_flags = SA_RESTART;
        sigaction(SIGALRM, &action, nullptr);
        arm();
    }
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;
    // Ignored from here on, and not as before: one that another thread is about to take would end the process.
    ~Timer() { std::signal(SIGALRM, SIG_IGN); }

private:
    static void arm() {
        const itimerval once{{0, 0}, {0, us_}};
        setitimer(ITIMER_REAL, &once, nullptr);
    }
    static inline void (*handler_)(int);
    static inline int us_;
};

void storm(bool blocks_traps) {
    torn = total = handler_calls = handler_shown = handler_wrong = 0;
    stop = false;
    state = off;
    ready = 0;
    const auto added = trace::add_probe("storm:*", probe, nullptr);
    ASSERT_TRUE(added);
    std::vector<std::unique_ptr<Runner>> runners;
    runners.push_back(std::make_unique<Runner>(false));
    runners.push_back(std::make_unique<Runner>(blocks_traps));
    while (ready != 2) std::this_thread::yield();
    auto timer = std::make_unique<Timer>(judge_in_handler, 300);
    for (int i = 0; i < kToggles; ++i) {
        const std::uint64_t number = 4 * static_cast<std::uint64_t>(i);
        state = number + changing;
        const auto done = i % 2 == 0 ? trace::enable("storm:*") : trace::disable("storm:*");
        ASSERT_TRUE(done) << done.error;
        state = number + (i % 2 == 0 ? on : off);
        if (i % 16 == 0) std::this_thread::yield();
    }
    timer.reset();
    stop = true;
    Counts all;
    for (auto& runner : runners) {
        runner->thread.join();
        all.on += runner->counts.on;
        all.off += runner->counts.off;
        all.unsure += runner->counts.unsure;
        all.shown += runner->counts.shown;
        all.wrong += runner->counts.wrong;
    }
    ASSERT_TRUE(trace::remove_probe(added.count));
    ASSERT_TRUE(trace::synchronize());
    EXPECT_EQ(all.wrong, 0U);
    EXPECT_EQ(torn, 0U);
    EXPECT_EQ(handler_wrong, 0U);
    EXPECT_EQ(all.shown + handler_shown, total);
    EXPECT_GT(handler_calls, 0U);
    EXPECT_GE(all.shown, all.on);
    EXPECT_LE(all.shown, all.on + all.unsure);
    EXPECT_GT(all.on, 0U);
    EXPECT_GT(all.off, 0U);
    std::printf("%d toggles: %zu calls while on, %zu while off, %zu while changing; %zu shown\n", kToggles, all.on,
                all.off, all.unsure, all.shown);
    std::printf("%zu calls in signal handlers, %zu shown\n", handler_calls.load(), handler_shown.load());
}

TEST(Storm, CountsAreExactWhileSitesAreToggled) { storm(false); }
TEST(Storm, AlsoWithAThreadThatBlocksSigtrap) { storm(true); }

// A probe's data is poisoned as soon as synchronize() says so, and freed: whoever still comes finds it.
struct Data {
    static constexpr std::uint64_t kAlive = 0x600d;
    std::atomic<std::uint64_t> magic = kAlive, calls = 0;
};
std::atomic<std::uint64_t> used_after_removal;

void checking_probe(void* data, const cloister_event*) {
    auto* const mine = static_cast<Data*>(data);
    if (mine->magic.load(std::memory_order_relaxed) != Data::kAlive) used_after_removal.fetch_add(1);
    mine->calls.fetch_add(1, std::memory_order_relaxed);
    if (mine->magic.load(std::memory_order_relaxed) != Data::kAlive) used_after_removal.fetch_add(1);
}

void on_timer(int) { run_one(77); }

TEST(Storm, ProbesComeAndGoWhileTheyFire) {
    stop = false;
    used_after_removal = 0;
    ASSERT_TRUE(trace::enable("storm:*"));
    auto timer = std::make_unique<Timer>(on_timer, 500);
    std::vector<std::thread> threads;
    for (int i = 0; i < 2; ++i)
        threads.emplace_back([] {
            for (std::uint64_t n = 0; !stop; ++n) {
                run_one(n);
                run_two(n);
            }
        });
    std::uint64_t calls = 0;
    for (int i = 0; i < kProbes; ++i) {
        auto first = std::make_unique<Data>(), second = std::make_unique<Data>();
        const auto one = trace::add_probe("storm:*", checking_probe, first.get());
        const auto two = trace::add_probe("storm:one", checking_probe, second.get(), 1);
        ASSERT_TRUE(one && two);
        if (i % 8 == 0) std::this_thread::yield();
        ASSERT_TRUE(trace::remove_probe(one.count));
        ASSERT_TRUE(trace::remove_probe(two.count));
        const auto done = trace::synchronize();
        ASSERT_TRUE(done) << done.error;
        calls += first->calls + second->calls;
        first->magic = second->magic = 0xdead;
    }
    timer.reset();
    stop = true;
    for (auto& thread : threads) thread.join();
    EXPECT_TRUE(trace::disable("storm:*"));
    EXPECT_EQ(used_after_removal, 0U);
    EXPECT_GT(calls, 0U);
}

}  // namespace
}  // namespace cloister::tests
