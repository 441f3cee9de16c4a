// The spill lane as one thread sees it: laps, both modes, sizes, drops, and what a writer leaves that never comes back.
#include "spill.hpp"

#include <gtest/gtest.h>

#include <numeric>
#include <thread>

namespace cloister::core::test {
namespace {

constexpr Shape kOver{.slots = 4, .size = 4096, .mode = Mode::overwrite};
constexpr Shape kDisc{.slots = 4, .size = 4096, .mode = Mode::discard};

Wrote write(const Spill& spill, u64 counter, u32 dwords = 0, u32 id = kPair) {
    std::array<u8, 2048> payload{};
    const std::array<u64, 2> head{u64{dwords} << 8, counter};
    std::memcpy(payload.data(), head.data(), sizeof head);
    std::memset(payload.data() + 16, static_cast<u8>(counter), 4 * std::size_t{dwords});
    return write_spill(spill.view, id, payload.data(), 16 + 4 * dwords);
}

std::vector<u64> counters(const Spill& spill) {
    std::vector<u64> out;
    for (const auto& content : contents(spill)) {
        EXPECT_EQ(content.wrong, "");
        for (const auto& event : content.events) out.push_back(event.counter);
    }
    return out;
}

std::vector<u64> range(u64 first, u64 last) {
    std::vector<u64> out(last - first + 1);
    std::iota(out.begin(), out.end(), first);
    return out;
}

TEST(Spill, KeepsTheNewestOfEverySize) {
    const Spill spill(kOver);
    for (u64 n = 1; n <= 3000; ++n)
        ASSERT_EQ(write(spill, n, static_cast<u32>(n * 7 % 200), n % 3 ? kPair : kWide), Wrote::done);
    const auto found = counters(spill);
    ASSERT_GT(found.size(), 10U);
    EXPECT_EQ(found, range(3001 - found.size(), 3000));
    EXPECT_EQ(spill_lost_of(spill.lane), 0U);
}

TEST(Spill, DiscardsWhatFindsNoRoomAndCountsIt) {
    const Spill spill(kDisc);
    u64 done = 0;
    while (write(spill, done + 1) == Wrote::done) ++done;
    EXPECT_EQ(done, 4U * 4096 / kSpillCell);
    for (int i = 0; i < 9; ++i) EXPECT_EQ(write(spill, 0), Wrote::dropped);
    EXPECT_EQ(spill_lost_of(spill.lane), 10U);
    u32 index = 0;
    ASSERT_TRUE(next_to_drain(spill.lane, spill.shape, index));
    EXPECT_EQ(copy_of(spill, index).events.front().counter, 1U);
    spill_drained(spill.lane, index, spill.state(index).number(), Mode::discard);
    EXPECT_EQ(write(spill, done + 1), Wrote::done);
    EXPECT_EQ(counters(spill), range(65, done + 1));
    EXPECT_EQ(spill_lost_of(spill.lane), 10U);
}

TEST(Spill, RefusesWhatIsTooLargeAndWritesTheLargest) {
    const Spill spill(kOver);
    const std::vector<u8> payload(4096);
    EXPECT_EQ(write_spill(spill.view, kPair, payload.data(), kOver.largest() - kLongHeader + 1), Wrote::too_big);
    EXPECT_EQ(write_spill(spill.view, kPair, payload.data(), kOver.largest() - kLongHeader), Wrote::done);
    EXPECT_EQ(write_spill(spill.view, kPair, payload.data(), UINT32_MAX), Wrote::too_big);
    View none = spill.view;
    none.spill = 0;
    EXPECT_EQ(write_spill(none, kPair, payload.data(), 16), Wrote::no_lane);
}

// What a writer leaves that is killed between reservation and commit.
void leave_hole(const Spill& spill) {
    u64& word = spill.word(SpillShape::state(active_of(spill.lane).descriptor()));
    word = SpillState{word}.reserved(1).word;
}

TEST(Spill, AHoleIsPassedOverAndItsSubBufferIsLeftAlone) {
    const Spill spill(kOver);
    ASSERT_EQ(write(spill, 1), Wrote::done);
    leave_hole(spill);
    leave_hole(spill);
    const u32 held = active_of(spill.lane).descriptor();
    for (u64 n = 2; n <= 1000; ++n) ASSERT_EQ(write(spill, n), Wrote::done);
    const auto content = copy_of(spill, held);
    EXPECT_EQ(content.wrong, "");
    EXPECT_EQ(content.holes, 2U);
    EXPECT_EQ(content.events.size(), 4096 / kSpillCell - 2);
    EXPECT_EQ(content.events.front().counter, 1U);
    EXPECT_EQ(counters(spill).back(), 1000U);
}

TEST(Spill, WithAWriterInEverySubBufferEventsAreCounted) {
    const Spill spill(kOver);
    u64 n = 0;
    for (u64 number = 1; number <= kOver.slots; ++number) {
        do ASSERT_EQ(write(spill, ++n), Wrote::done);
        while (spill.active() < number);
        leave_hole(spill);
    }
    u64 dropped = 0;
    for (int i = 0; i < 200; ++i) dropped += write(spill, ++n) == Wrote::dropped;
    EXPECT_GT(dropped, 100U);
    EXPECT_EQ(spill_lost_of(spill.lane), dropped);
    // One comes back.
    __atomic_fetch_sub(&spill.word(SpillShape::state(2)), 1, __ATOMIC_RELEASE);
    EXPECT_EQ(write(spill, n), Wrote::done);
}

TEST(Spill, ADrainPassesOverAHoleOnlyWhenItMust) {
    const Spill spill(kDisc);
    u32 index = 99;
    ASSERT_EQ(write(spill, 1), Wrote::done);
    leave_hole(spill);
    u64 n = 1;
    while (spill.active() < 3) ASSERT_EQ(write(spill, ++n), Wrote::done);
    EXPECT_FALSE(next_to_drain(spill.lane, spill.shape, index)) << "its writer may yet commit";
    while (spill.active() < 4) ASSERT_EQ(write(spill, ++n), Wrote::done);
    ASSERT_TRUE(next_to_drain(spill.lane, spill.shape, index));
    EXPECT_EQ(copy_of(spill, index).number, 1U);
    EXPECT_EQ(copy_of(spill, index).holes, 1U);
    spill_drained(spill.lane, index, 1, Mode::discard);
    ASSERT_TRUE(next_to_drain(spill.lane, spill.shape, index));
    EXPECT_EQ(copy_of(spill, index).number, 2U);
}

TEST(Spill, NumbersGoRound) {
    const Spill spill(kOver);
    const u32 last = UINT32_MAX - 1;
    spill.word(0) = Active::of(last, 0).word;
    spill.word(SpillShape::state(0)) = SpillState::open(last).word;
    for (u64 n = 1; n <= 1000; ++n) ASSERT_EQ(write(spill, n), Wrote::done);
    EXPECT_LT(spill.active(), 20U);
    std::size_t events = 0;
    for (const auto& content : contents(spill)) events += content.events.size();
    EXPECT_GT(events, 3U * 4096 / kSpillCell);
}

// Whatever the words are: it returns, and stores nothing outside (there are guard pages).
TEST(Spill, ScribblesHurtNobody) {
    for (const Shape& shape : {kOver, kDisc}) {
        const Spill spill(shape);
        u64 seed = 1;
        for (int round = 0; round < 3000; ++round) {
            for (int i = 0; i < 3; ++i) {
                seed = seed * 6364136223846793005U + 1442695040888963407U;
                // Some words in which only a part is wrong, and some that are noise.
                const u64 value = seed >> (round % 4 * 16);
                spill.word((seed >> 40) % (SpillShape::state(shape.slots) / 8) * 8) = value;
                spill.word(spill.shape.buffer(0) + (seed >> 20) % (spill.shape.size / 8) * 8) = value;
            }
            (void)write(spill, 1, round % 200);
            (void)contents(spill);
            u32 index = 0;
            if (next_to_drain(spill.lane, spill.shape, index)) spill_drained(spill.lane, index, 1, spill.mode);
        }
    }
}

TEST(Spill, ManyThreadsAtOnce) {
    const Spill spill({.slots = 4, .size = 1 << 20, .mode = Mode::discard});
    constexpr u64 kThreads = 4, kEach = 10'000;
    std::vector<std::thread> threads;
    for (u64 t = 0; t < kThreads; ++t)
        threads.emplace_back([&, t] {
            for (u64 n = 0; n < kEach; ++n) {
                const std::array<u64, 2> payload{t, n};
                EXPECT_EQ(write_spill(spill.view, kPair, payload.data(), 16), Wrote::done);
            }
        });
    for (auto& thread : threads) thread.join();
    std::array<u64, kThreads> next{};
    for (const auto& content : contents(spill)) {
        EXPECT_EQ(content.wrong, "");
        EXPECT_EQ(content.holes, 0U);
        for (const auto& event : content.events) EXPECT_EQ(event.counter, next.at(event.thread)++);
    }
    EXPECT_EQ(next, (std::array<u64, kThreads>{kEach, kEach, kEach, kEach}));
}

}  // namespace
}  // namespace cloister::core::test
