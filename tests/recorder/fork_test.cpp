// What becomes of a recording when its process forks.
#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cloister/trace.hpp>
#include <thread>

#include "recorder/recording.hpp"

namespace {

using cloister::tests::count_of;
using cloister::tests::Recording;
namespace record = cloister::record;

CLOISTER_EVENT(forked, parent, (int, n));
CLOISTER_EVENT(forked, child, (int, n));

// Ends with the number of the first line that was not true, as gtest has nothing to say in a child.
#define CLOISTER_CHECK(what) \
    if (!(what)) _exit(__LINE__ % 200 + 1)

template <class Child>
int status_of(Child child) {
    const pid_t pid = fork();
    if (pid == 0) {
        child();
        _exit(0);
    }
    int status = -1;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

void fire_child(int count) {
    for (int n = 0; n < count; ++n) CLOISTER_TRACE(forked, child, n);
}

class Fork : public Recording {
protected:
    void start() {
        ASSERT_TRUE(record::start());
        ASSERT_TRUE(cloister::trace::enable("forked:*"));
        CLOISTER_TRACE(forked, parent, 1);
    }
    // The parent's recording is as if nothing had been.
    void expect_only_the_parents() {
        CLOISTER_TRACE(forked, parent, 2);
        const auto found = lines();
        EXPECT_EQ(count_of(found, "forked:parent"), 2U);
        EXPECT_EQ(count_of(found, "forked:child"), 0U);
        EXPECT_EQ(record::losses().refused, 0U);
    }
};

TEST_F(Fork, TheChildsEventsAreRefusedAndCounted) {
    start();
    EXPECT_EQ(
        status_of([&] {
            fire_child(5);
            CLOISTER_CHECK(record::losses().refused == 5);
            CLOISTER_CHECK(record::losses(0).refused == 5);
            CLOISTER_CHECK(record::snapshot(folder_ + "/child").error.find("nothing is recorded") != std::string::npos);
            CLOISTER_CHECK(!record::prepare(0) && !record::refresh());
        }),
        0);
    expect_only_the_parents();
}

TEST_F(Fork, TheChildMayBeginARecordingOfItsOwn) {
    start();
    const std::string trace = folder_ + "/child";
    EXPECT_EQ(status_of([&] {
                  fire_child(5);
                  CLOISTER_CHECK(record::start());
                  CLOISTER_CHECK(!record::start());
                  fire_child(3);
                  CLOISTER_CHECK(record::losses().refused == 0);
                  CLOISTER_CHECK(record::snapshot(trace));
                  // And again in a child of it.
                  CLOISTER_CHECK(status_of([&] {
                                     fire_child(1);
                                     CLOISTER_CHECK(record::start());
                                     fire_child(2);
                                     CLOISTER_CHECK(record::snapshot(trace + "2"));
                                     record::stop();
                                 }) == 0);
                  record::stop();
              }),
              0);
    EXPECT_EQ(count_of(lines(trace), "forked:child"), 3U);
    EXPECT_EQ(lines(trace).size(), 3U);
    EXPECT_EQ(lines(trace + "2").size(), 2U);
    expect_only_the_parents();
}

TEST_F(Fork, TheChildMayStopAndLoadLibraries) {
    start();
    ASSERT_TRUE(cloister::trace::enable("plugin:*"));
    EXPECT_EQ(status_of([&] {
                  // Its class is declared nowhere: the parent's segment is not the child's to write into.
                  void* const plugin = dlopen(RECORD_PLUGINS "/record_plugin_b.so", RTLD_NOW);
                  CLOISTER_CHECK(plugin);
                  auto* const call = reinterpret_cast<void (*)(std::uint64_t)>(dlsym(plugin, "plugin_call"));
                  call(1);
                  CLOISTER_CHECK(record::losses().refused == 1);
                  record::stop();
                  fire_child(5);
                  CLOISTER_CHECK(record::losses().refused == 1);
                  CLOISTER_CHECK(record::start());
                  call(2);
                  CLOISTER_CHECK(record::snapshot(folder_ + "/child"));
              }),
              0);
    EXPECT_EQ(count_of(lines(folder_ + "/child"), "text = \"of b\", b = 2"), 1U);
    expect_only_the_parents();
}

// AddressSanitizer's allocator does not hold its locks over a fork: in the child they may stay locked for ever.
#if !defined(__SANITIZE_ADDRESS__)
TEST_F(Fork, FromAnyThreadWhileOthersStartStopAndFire) {
    ASSERT_TRUE(cloister::trace::enable("forked:*"));
    std::atomic<bool> stop = false;
    std::thread starts([&] {
        while (!stop) {
            EXPECT_TRUE(record::start());
            record::stop();
        }
    });
    std::thread fires([&] {
        while (!stop) CLOISTER_TRACE(forked, parent, 1);
    });
    std::thread snaps([&] {
        for (int n = 0; !stop; ++n) (void)record::snapshot(folder_ + "/snap" + std::to_string(n));
    });
    constexpr int kForks = 50;
    for (int i = 0; i < kForks; ++i)
        EXPECT_EQ(status_of([&] {
                      CLOISTER_CHECK(record::start());
                      fire_child(3);
                      CLOISTER_CHECK(record::losses().refused == 0);
                      record::stop();
                  }),
                  0);
    stop = true;
    starts.join();
    fires.join();
    snaps.join();
}
#endif

}  // namespace
