// Grace periods with readers that do not end as they should, and the slots of threads.
#include "tracepoint/grace.hpp"

#include <cloister/trace.hpp>

#include <atomic>
#include <functional>
#include <thread>

#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tracepoint/threads.hpp"

namespace cloister::tracepoint {
namespace {

CLOISTER_EVENT(grace, event);

__attribute__((noinline)) void happen() { CLOISTER_TRACE(grace, event); }

// The probe of this test, whatever it is.
std::function<void()> action;
void probe(void*, const cloister_event*) {
    if (action) action();
}

class Grace : public testing::Test {
protected:
    void SetUp() override {
        action = nullptr;
        probe_ = trace::add_probe("grace:*", probe, nullptr).count;
        ASSERT_TRUE(trace::enable("grace:*"));
    }
    void TearDown() override {
        action = nullptr;
        EXPECT_TRUE(trace::disable("grace:*"));
        EXPECT_TRUE(trace::remove_probe(probe_));
        EXPECT_TRUE(trace::synchronize());
    }
    int probe_ = 0;
};

TEST_F(Grace, WaitsForAProbeThatIsRunning) {
    std::atomic<bool> inside = false, go_on = false, left = false;
    action = [&] {
        inside = true;
        while (!go_on) std::this_thread::yield();
        left = true;
    };
    std::thread reader(happen);
    while (!inside) std::this_thread::yield();
    const auto late = synchronize(2'000'000);
    ASSERT_FALSE(late);
    EXPECT_NE(late.error().found.find("thread "), std::string::npos);
    std::thread later([&] {
        usleep(5000);
        go_on = true;
    });
    EXPECT_TRUE(synchronize());
    EXPECT_TRUE(left);
    reader.join();
    later.join();
}

TEST_F(Grace, RefusesToWaitForItself) {
    bool refused = false;
    action = [&] { refused = !synchronize(); };
    happen();
    EXPECT_TRUE(refused);
    EXPECT_TRUE(synchronize());
}

TEST_F(Grace, DoesNotWaitForAThreadThatEndedInsideAProbe) {
    action = [] { pthread_exit(nullptr); };
    pthread_t thread{};
    ASSERT_EQ(pthread_create(
                  &thread, nullptr,
                  [](void*) -> void* {
                      happen();
                      return nullptr;
                  },
                  nullptr),
              0);
    pthread_join(thread, nullptr);
    EXPECT_TRUE(synchronize(1'000'000'000));
}

TEST_F(Grace, LeavesTheChildOfAForkWithoutTheOtherThreads) {
    std::atomic<bool> inside = false, go_on = false;
    action = [&] {
        inside = true;
        while (!go_on) std::this_thread::yield();
    };
    std::thread reader(happen);
    while (!inside) std::this_thread::yield();
    const pid_t pid = fork();
    if (pid == 0) {
        action = nullptr;
        happen();
        _exit(synchronize(1'000'000'000) && current->tid == getpid() ? 0 : 1);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    EXPECT_EQ(status, 0);
    go_on = true;
    reader.join();
}

TEST_F(Grace, FromInsideAProbeAForkKeepsTheProbesOwnEvent) {
    int status = -1;
    action = [&] {
        const pid_t pid = fork();
        if (pid == 0) _exit(current->depth == 1 && current->entries[0].period != 0 && !synchronize() ? 0 : 1);
        waitpid(pid, &status, 0);
    };
    happen();
    EXPECT_EQ(status, 0);
}

TEST_F(Grace, SlotsOfThreadsThatEndedAreTakenOver) {
    const auto lost = cloister_trace_losses().no_slot;
    for (std::size_t i = 0; i < 2 * kThreads / 64; ++i) {
        std::thread threads_now[64];
        for (auto& thread : threads_now) thread = std::thread(happen);
        for (auto& thread : threads_now) thread.join();
    }
    EXPECT_EQ(cloister_trace_losses().no_slot, lost);
}

TEST_F(Grace, ThreadsWithoutASlotAreCounted) {
    const auto lost = cloister_trace_losses().no_slot;
    happen();
    std::vector<pid_t> before;
    for (auto& thread : threads) before.push_back(thread.tid.exchange(current->tid));  // all are someone's who lives
    int shown = 0;
    action = [&] { ++shown; };
    std::thread(happen).join();
    EXPECT_EQ(shown, 0);
    EXPECT_EQ(cloister_trace_losses().no_slot, lost + 1);
    for (std::size_t i = 0; i < kThreads; ++i) threads[i].tid = before[i];
    std::thread(happen).join();
    EXPECT_EQ(shown, 1);
}

TEST_F(Grace, FreesWhatWasRetired) {
    EXPECT_TRUE(synchronize());
    EXPECT_EQ(retired(), 0U);
    const auto more = trace::add_probe("grace:*", probe, nullptr);
    EXPECT_EQ(retired(), 1U);
    EXPECT_TRUE(trace::remove_probe(more.count));
    EXPECT_EQ(retired(), 2U);
    EXPECT_TRUE(synchronize());
    EXPECT_EQ(retired(), 0U);
    for (int i = 0; i < 3000; ++i) EXPECT_TRUE(trace::remove_probe(trace::add_probe("grace:*", probe, nullptr).count));
    EXPECT_LE(retired(), 1001U);
}

}  // namespace
}  // namespace cloister::tracepoint
