#include "breach/gap_ring.hpp"

#include <atomic>
#include <memory>
#include <thread>

#include <gtest/gtest.h>

namespace cloister::breach {
namespace {

TscGap gap_number(std::uint64_t n) {
    return {n * 100, n * 100 + 1 + n % 90, static_cast<std::uint16_t>(n % 7), static_cast<std::uint16_t>(n % 5),
            n % 2 == 0 ? TscGap::Entry::yes : TscGap::Entry::no};
}

void expect_whole(const TscGap& gap) {
    const TscGap whole = gap_number(gap.before / 100);
    ASSERT_EQ(gap.before, whole.before);
    ASSERT_EQ(gap.after, whole.after);
    ASSERT_EQ(gap.cpu_before, whole.cpu_before);
    ASSERT_EQ(gap.cpu_after, whole.cpu_after);
    ASSERT_EQ(gap.kernel, whole.kernel);
}

TEST(GapRing, KeepsWhatItHasAndCountsWhatFindsNoRoom) {
    const auto ring = std::make_unique<GapRing>();
    std::uint64_t lost_cycles = 0;
    for (std::uint64_t n = 0; n < GapRing::kSlots + 5; ++n) {
        const TscGap gap = gap_number(n);
        if (n >= GapRing::kSlots) lost_cycles += gap.after - gap.before;
        ring->push(gap);
    }
    EXPECT_EQ(ring->lost, 5U);
    EXPECT_EQ(ring->lost_cycles, lost_cycles);
    std::vector<TscGap> gaps;
    EXPECT_EQ(ring->drain(gaps), GapRing::kSlots);
    for (std::uint64_t n = 0; n < gaps.size(); ++n) {
        ASSERT_EQ(gaps[n].before, n * 100);
        expect_whole(gaps[n]);
    }
    ring->push(gap_number(7));
    gaps.clear();
    EXPECT_EQ(ring->drain(gaps), 1U);
    EXPECT_EQ(gaps.at(0).before, 700U);
    EXPECT_EQ(ring->drain(gaps), 0U);
}

// The two sides in two threads: what arrives is whole, in order, and with what was lost it is everything.
TEST(GapRing, HandsOverWholeGapsInOrderBetweenThreads) {
    constexpr std::uint64_t kGaps = 400'000;
    const auto ring = std::make_unique<GapRing>();
    std::atomic<bool> done = false;
    std::thread producer([&] {
        for (std::uint64_t n = 0; n < kGaps; ++n) ring->push(gap_number(n));
        done.store(true, std::memory_order_release);
    });
    std::vector<TscGap> gaps;
    bool last = false;
    while (!last) {
        last = done.load(std::memory_order_acquire);
        ring->drain(gaps);
    }
    producer.join();
    ASSERT_EQ(gaps.size() + ring->lost, kGaps);
    EXPECT_GE(gaps.size(), GapRing::kSlots);
    std::uint64_t cycles = ring->lost_cycles, sent = 0;
    for (std::size_t i = 0; i < gaps.size(); ++i) {
        expect_whole(gaps[i]);
        if (i > 0) {
            ASSERT_LT(gaps[i - 1].before, gaps[i].before);
        }
        cycles += gaps[i].after - gaps[i].before;
    }
    for (std::uint64_t n = 0; n < kGaps; ++n) sent += gap_number(n).after - gap_number(n).before;
    EXPECT_EQ(cycles, sent);
}

}  // namespace
}  // namespace cloister::breach
