// Recordings, threads and programs that begin and end while events fire.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>

#include <atomic>
#include <cloister/trace.hpp>
#include <csignal>
#include <thread>

#include "recorder/extract.hpp"
#include "recorder/recording.hpp"

namespace {

using cloister::tests::count_of;
using cloister::tests::lines_of;
using cloister::tests::Recording;
namespace record = cloister::record;

CLOISTER_EVENT(life, fired, (std::uint64_t, n));
CLOISTER_EVENT(life, handled, (std::uint64_t, n));
CLOISTER_EVENT_WITH(CLOISTER_INFO, CLOISTER_CALL_STACK, life, stacked, (std::uint64_t, n));
CLOISTER_EVENT(life, last, (int, thread));

using Lifetime = Recording;

TEST_F(Lifetime, StopAndStartWhileEventsFire) {
    ASSERT_TRUE(cloister::trace::enable("life:*"));
    auto* const before = std::signal(SIGUSR1, [](int) { CLOISTER_TRACE(life, handled, 1U); });
    std::atomic<bool> stop = false;
    std::vector<std::thread> threads;
    for (int t = 0; t < 2; ++t)
        threads.emplace_back([&] {
            for (std::uint64_t n = 0; !stop; ++n) {
                CLOISTER_TRACE(life, fired, n);
                CLOISTER_TRACE(life, stacked, n);
                if (n % 16 == 0) raise(SIGUSR1);
            }
        });
    constexpr int kTimes = 100;
    for (int i = 0; i < kTimes; ++i) {
        ASSERT_TRUE(record::start({.sub_buffers = 2, .sub_buffer_bytes = 4096}));
        (void)record::losses();
        if (i % 10 == 0) {
            EXPECT_FALSE(record::start()) << "one at a time";
        }
        // What is there opens; that something is there takes a thread that has run meanwhile.
        if (i % 25 == 0) (void)lines();
        record::stop();
    }
    ASSERT_TRUE(record::start());
    stop = true;
    for (auto& thread : threads) thread.join();
    CLOISTER_TRACE(life, last, 1);
    EXPECT_EQ(count_of(lines(), "life:last"), 1U);
    std::signal(SIGUSR1, before);
    EXPECT_EQ(record::losses().refused, 0U);
}

TEST_F(Lifetime, OfManyThatStartOneDoes) {
    for (int round = 0; round < 20; ++round) {
        std::atomic<int> started = 0;
        std::vector<std::thread> threads;
        for (int t = 0; t < 4; ++t) threads.emplace_back([&] { started += static_cast<bool>(record::start()); });
        for (auto& thread : threads) thread.join();
        EXPECT_EQ(started, 1);
        threads.clear();
        for (int t = 0; t < 4; ++t) threads.emplace_back(record::stop);
        for (auto& thread : threads) thread.join();
    }
}

TEST_F(Lifetime, ThreadsThatEnd) {
    ASSERT_TRUE(record::start({.sub_buffers = 64}));
    ASSERT_TRUE(cloister::trace::enable("life:*"));
    // Run at a thread's end, when its thread_local objects are gone already.
    static pthread_key_t key;
    ASSERT_EQ(pthread_key_create(&key, [](void* value) { CLOISTER_TRACE(life, last, *static_cast<int*>(value)); }), 0);
    constexpr int kThreads = 200;
    static std::array<int, kThreads> numbers;
    for (int t = 0; t < kThreads; t += 4) {
        std::vector<std::thread> threads;
        for (int i = t; i < t + 4; ++i)
            threads.emplace_back([i] {
                numbers[static_cast<std::size_t>(i)] = i;
                pthread_setspecific(key, &numbers[static_cast<std::size_t>(i)]);
                CLOISTER_TRACE(life, fired, static_cast<std::uint64_t>(i));
            });
        for (auto& thread : threads) thread.join();
    }
    pthread_key_delete(key);
    const auto found = lines();
    EXPECT_EQ(count_of(found, "life:fired"), kThreads);
    for (int t = 0; t < kThreads; ++t) EXPECT_EQ(count_of(found, "{ thread = " + std::to_string(t) + " }"), 1U) << t;
}

TEST_F(Lifetime, TheProgramEndsWhileEventsFire) {
    const std::string path = folder_ + "/segment";
    (void)lines_of(RECORD_ENDS " " + path);
    const auto segment = cloister::recorder::Segment::open(path, cloister::recorder::Segment::Access::read);
    ASSERT_TRUE(segment) << segment.error().text();
    EXPECT_GT(segment->header().last.tsc, segment->header().first.tsc) << "read again at the end";
    ASSERT_TRUE(cloister::recorder::snapshot(*segment, folder_ + "/trace"));
    const auto found = lines(folder_ + "/trace");
    EXPECT_GE(count_of(found, "ends:thread"), 1U);
    EXPECT_EQ(count_of(found, "ends:after_main: { cpu_id"), 2U);
}

}  // namespace
