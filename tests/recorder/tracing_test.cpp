// Tracepoints into the recorder and out again: every kind of field, from every context, judged by babeltrace2.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cloister/record.hpp>
#include <cloister/trace.hpp>
#include <csignal>
#include <filesystem>
#include <thread>

#include "recorder/recording.hpp"

namespace {

enum class Side : std::uint8_t { buy = 1, sell = 2 };
CLOISTER_ENUM(Side, (buy), (sell));
using Levels = std::span<const std::uint16_t>;

CLOISTER_EVENT(book, filled, (std::uint64_t, order), (double, price), (std::string_view, venue));
CLOISTER_EVENT(book, everything, (std::int8_t, small), (bool, flag), (float, ratio), (Side, side), (const void*, where),
               (Levels, levels), (const char*, name));
CLOISTER_EVENT(book, handled, (std::uint32_t, n));

using cloister::tests::Recording;

void fire_all(std::uint64_t order) {
    const std::array<std::uint16_t, 3> levels{1, 2, 65535};
    CLOISTER_TRACE(book, filled, order, 0.25 * static_cast<double>(order), std::string_view("XETRA"));
    CLOISTER_TRACE(book, everything, -5, true, 1.5F, Side::sell, reinterpret_cast<const void*>(0xbeef), Levels(levels),
                   "seven");
}

TEST_F(Recording, EveryKindOfFieldComesOut) {
    ASSERT_TRUE(cloister::record::start());
    fire_all(1);  // nothing is enabled yet
    ASSERT_TRUE(cloister::trace::enable("book:*"));
    fire_all(2);
    const auto found = lines();
    ASSERT_EQ(found.size(), 2U) << found.front();
    EXPECT_THAT(found[0], testing::HasSubstr("book:filled: { cpu_id = "));
    EXPECT_THAT(found[0], testing::HasSubstr("{ order = 2, price = 0.5, venue = \"XETRA\" }"));
    EXPECT_THAT(found[1], testing::HasSubstr(
                              "{ small = -5, flag = ( \"true\" : container = 1 ), ratio = 1.5, side = ( \"sell\" : "
                              "container = 2 ), where = 0xBEEF, _levels_len = 3, levels = [ [0] = 1, [1] = 2, [2] = "
                              "65535 ], name = \"seven\" }"));
    EXPECT_EQ(cloister::record::losses().refused, 0U);
    EXPECT_EQ(cloister::record::losses().unknown, 0U);
}

TEST_F(Recording, FromThreadsAndFromSignalHandlers) {
    ASSERT_TRUE(cloister::record::start({.sub_buffers = 64}));
    ASSERT_TRUE(cloister::trace::enable("book:filled"));
    ASSERT_TRUE(cloister::trace::enable("book:handled"));
    auto* const before = std::signal(SIGUSR1, [](int) {
        static std::atomic<std::uint32_t> n = 0;
        CLOISTER_TRACE(book, handled, n++);
    });
    constexpr int kThreads = 4, kEach = 2000;
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t)
        threads.emplace_back([] {
            for (std::uint64_t n = 0; n < kEach; ++n) {
                CLOISTER_TRACE(book, filled, n, 1.0, std::string_view("X"));
                if (n % 10 == 0) raise(SIGUSR1);
            }
        });
    for (auto& thread : threads) thread.join();
    std::signal(SIGUSR1, before);
    int filled = 0, handled = 0;
    for (const auto& line : lines()) {
        filled += line.find("book:filled") != std::string::npos;
        handled += line.find("book:handled") != std::string::npos;
    }
    EXPECT_EQ(filled, kThreads * kEach);
    EXPECT_EQ(handled, kThreads * kEach / 10);
}

TEST_F(Recording, AFilterIsAskedBeforeAnythingIsWritten) {
    ASSERT_TRUE(cloister::record::start());
    ASSERT_TRUE(cloister::trace::enable("book:filled", CLOISTER_DEBUG, "order >= 3 && venue == \"XETRA\""));
    for (std::uint64_t order = 0; order < 6; ++order) fire_all(order);
    EXPECT_EQ(lines().size(), 3U);
}

TEST_F(Recording, OneAtATimeAndAgainAfterIt) {
    const auto too_early = cloister::record::snapshot(folder_ + "/early");
    EXPECT_THAT(too_early.error, testing::HasSubstr("start() first"));
    ASSERT_TRUE(cloister::record::start({.path = folder_ + "/segment"}));
    EXPECT_THAT(cloister::record::start().error, testing::HasSubstr("one recording at a time"));
    cloister::record::stop();
    EXPECT_TRUE(std::filesystem::exists(folder_ + "/segment")) << "what was recorded stays";
    EXPECT_THAT(cloister::record::start({.path = folder_ + "/segment"}).error, testing::HasSubstr("does not exist"));
    ASSERT_TRUE(cloister::record::start());
    ASSERT_TRUE(cloister::trace::enable("book:handled"));
    CLOISTER_TRACE(book, handled, 1U);
    EXPECT_EQ(lines().size(), 1U);
}

TEST_F(Recording, ALaneCanBePreparedBeforeItsFirstEvent) {
    EXPECT_THAT(cloister::record::prepare(0).error, testing::HasSubstr("start() first"));
    ASSERT_TRUE(cloister::record::start());
    EXPECT_TRUE(cloister::record::prepare(0));
    EXPECT_THAT(cloister::record::prepare(-1).error, testing::HasSubstr("from 0 to"));
    EXPECT_THAT(cloister::record::prepare(100'000).error, testing::HasSubstr("from 0 to"));
}

TEST_F(Recording, BadOptionsTeach) {
    EXPECT_THAT(cloister::record::start({.sub_buffers = 3}).error, testing::HasSubstr("powers of two"));
    EXPECT_THAT(cloister::record::start({.sub_buffer_bytes = 100}).error, testing::HasSubstr("4 KiB to 64 MiB"));
}

}  // namespace
