#include <cloister/trace.hpp>

#include <cstring>
#include <vector>

#include <gtest/gtest.h>
#include <time.h>

namespace cloister {
namespace {

std::vector<std::uint64_t> gaps;
void keep(void*, const cloister_event* event) {
    std::uint64_t duration = 0;
    ASSERT_EQ(event->size, sizeof duration);
    std::memcpy(&duration, event->payload, sizeof duration);
    gaps.push_back(duration);
}

std::uint64_t now_ns() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

TEST(Beat, NoticesGapsAboveTheThreshold) {
    const auto probe = trace::add_probe("cloister:gap", keep, nullptr);
    ASSERT_EQ(trace::enable("cloister:gap").count, 1);
    cloister_beat_threshold(2'000'000);
    beat();
    gaps.clear();
    for (int i = 0; i < 3; ++i) {
        const std::uint64_t before = now_ns();
        beat();
        const timespec pause{0, 5'000'000};
        nanosleep(&pause, nullptr);
        beat();
        const std::uint64_t took = now_ns() - before;
        // A gap may also come between `before` and the first beat, where the machine takes the CPU away.
        ASSERT_FALSE(gaps.empty());
        EXPECT_GE(gaps.back(), 4'900'000U);
        EXPECT_LE(gaps.back(), took + took / 50);
        gaps.clear();
    }
    // Long: nothing is a gap.
    cloister_beat_threshold(60'000'000'000);
    for (int i = 0; i < 100'000; ++i) beat();
    EXPECT_TRUE(gaps.empty());
    // None: every beat is one, but for those that read the same TSC.
    cloister_beat_threshold(0);
    for (int i = 0; i < 100; ++i) beat();
    EXPECT_GE(gaps.size(), 10U);
    EXPECT_LE(gaps.size(), 100U);
    EXPECT_TRUE(trace::disable("cloister:gap"));
    gaps.clear();
    beat();
    EXPECT_TRUE(gaps.empty());
    EXPECT_TRUE(trace::remove_probe(probe.count));
    EXPECT_TRUE(trace::synchronize());
}

}  // namespace
}  // namespace cloister
