// One lane by itself: what is written is what is read, in both modes, at every edge of a sub-buffer.
#include "lane.hpp"

#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <thread>

namespace cloister::core::test {
namespace {

constexpr Shape kSmall{.slots = 4, .size = 4096, .mode = Mode::overwrite};
constexpr Shape kDiscard{.slots = 4, .size = 4096, .mode = Mode::discard};

// To one CPU, so that there is one lane to look at.
u32 stay() {
    const int cpu = sched_getcpu();
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<std::size_t>(cpu), &one);
    EXPECT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    return static_cast<u32>(cpu);
}

std::vector<Event> events_of(const SubBuffer& at) {
    Decoded found = decode(at);
    EXPECT_EQ(found.wrong, "");
    return std::move(found.events);
}

std::vector<Event> all_of(const Lanes& lanes, u32 cpu) {
    std::vector<Event> out;
    for (const auto& at : sub_buffers(lanes.lane(cpu), lanes.shape))
        for (const auto& event : events_of(at)) out.push_back(event);
    return out;
}

TEST(Shape, Limits) {
    EXPECT_TRUE(kSmall.valid());
    EXPECT_TRUE((Shape{2, kMinSize, Mode::discard}).valid());
    EXPECT_TRUE((Shape{kMaxSlots, kMaxSize, Mode::overwrite}).valid());
    for (const Shape& bad : {Shape{1, 4096}, Shape{3, 4096}, Shape{0, 4096}, Shape{4, 2048}, Shape{4, 6000},
                             Shape{4, kMaxSize * 2}, Shape{kMaxSlots * 2, 4096}, Shape{4, 4096, static_cast<Mode>(7)}})
        EXPECT_FALSE(bad.valid()) << bad.slots << " x " << bad.size;
    EXPECT_EQ(kSmall.buffer(0) % kPage, 0U);
    EXPECT_GE(kSmall.buffer(0), kSmall.drained() + 8);
}

TEST(Lane, ZeroBytesAreEmpty) {
    const Lanes lanes(kSmall);
    for (u32 cpu = 0; cpu < lanes.cpus(); ++cpu) {
        EXPECT_TRUE(sub_buffers(lanes.lane(cpu), lanes.shape).empty());
        EXPECT_EQ(spare_of(lanes.lane(cpu), lanes.shape), kSmall.slots);
        SubBuffer at;
        EXPECT_EQ(take(lanes.lane(cpu), lanes.shape, at), Took::nothing);
    }
}

TEST(Lane, AnEventTakesTwentyBytes) {
    const u32 cpu = stay();
    const Lanes lanes(kSmall);
    for (u64 n = 0; n < 100; ++n) ASSERT_EQ(write_pair(lanes.view, kPair, 1, n), Wrote::done);
    const auto found = sub_buffers(lanes.lane(cpu), lanes.shape);
    ASSERT_EQ(found.size(), 1U);
    // The first one opens the sub-buffer, and so has the long header; so has one after which the clock's high part was
    // another.
    u32 size = 0, wide = 0;
    for (u32 at = kPacketHeader; at < found[0].content; at += size) {
        const bool is_wide = (found[0].data[at] & 31) == 31;
        wide += is_wide;
        size = is_wide ? 32 : 20;
    }
    EXPECT_GE(wide, 1U);
    EXPECT_LT(wide, 100U);
    EXPECT_EQ(found[0].content, kPacketHeader + 12 * wide + 100 * 20);
    EXPECT_TRUE(found[0].open);
    const auto events = all_of(lanes, cpu);
    ASSERT_EQ(events.size(), 100U);
    for (u64 n = 0; n < 100; ++n) {
        EXPECT_EQ(events[n].id, kPair);
        EXPECT_EQ(events[n].counter, n);
    }
}

TEST(Lane, OverwritesTheOldest) {
    const u32 cpu = stay();
    const Lanes lanes(kSmall);
    constexpr u64 kEvents = 10'000;
    for (u64 n = 0; n < kEvents; ++n) ASSERT_EQ(write_pair(lanes.view, n % 3 ? kPair : kWide, 1, n), Wrote::done);
    const auto found = sub_buffers(lanes.lane(cpu), lanes.shape);
    ASSERT_EQ(found.size(), kSmall.slots);
    for (std::size_t i = 1; i < found.size(); ++i) {
        EXPECT_EQ(found[i].number, found[0].number + i);
        EXPECT_EQ(found[i].begin, found[i - 1].end);
    }
    const auto events = all_of(lanes, cpu);
    ASSERT_GT(events.size(), 400U);
    for (std::size_t i = 0; i < events.size(); ++i) {
        EXPECT_EQ(events[i].counter, kEvents - events.size() + i);
        EXPECT_EQ(events[i].id, events[i].counter % 3 ? kPair : kWide);
    }
    EXPECT_EQ(lost_of(lanes.lane(cpu)), 0U);
}

TEST(Lane, EverySizeAtEveryEdge) {
    const u32 cpu = stay();
    for (u32 bytes = 0; bytes <= kSmall.largest() - kLongHeader; ++bytes) {
        const Lanes lanes(kSmall);
        std::vector<u8> payload(bytes + 8);
        for (u32 round = 0; round < 40; ++round) {
            std::fill(payload.begin(), payload.end(), static_cast<u8>(round));
            ASSERT_EQ(write_staged(lanes.view, kPair, payload.data(), bytes), Wrote::done) << bytes;
        }
        u32 newest = 40;
        const auto found = sub_buffers(lanes.lane(cpu), lanes.shape);
        for (auto at = found.rbegin(); at != found.rend(); ++at) {
            u32 count = 0;
            for (u32 pos = kPacketHeader; pos < at->content; ++count) {
                const bool wide = (at->data[pos] & 31) == 31;
                pos += (wide ? kLongHeader : kShortHeader) + bytes;
                ASSERT_LE(pos, at->content);
                pos = padded(pos);
            }
            u32 pos = kPacketHeader;
            for (u32 n = newest - count; n < newest; ++n) {
                pos += (at->data[pos] & 31) == 31 ? kLongHeader : kShortHeader;
                for (u32 b = 0; b < bytes; ++b) ASSERT_EQ(at->data[pos + b], n) << bytes;
                pos = padded(pos + bytes);
            }
            newest -= count;
        }
        EXPECT_TRUE(newest == 0 || found.size() == kSmall.slots);
    }
}

TEST(Lane, TooBigIsRefused) {
    stay();
    const Lanes lanes(kSmall);
    std::vector<u8> payload(kMaxEvent * 2);
    EXPECT_EQ(write_staged(lanes.view, kPair, payload.data(), kSmall.largest() - kLongHeader), Wrote::done);
    EXPECT_EQ(write_slow(lanes.view, kPair, payload.data(), kSmall.largest() - kLongHeader + 4), Wrote::too_big);
    const Lanes large({.slots = 2, .size = 1 << 20, .mode = Mode::overwrite});
    EXPECT_EQ(write_slow(large.view, kPair, payload.data(), kMaxEvent - kLongHeader), Wrote::done);
    EXPECT_EQ(write_slow(large.view, kPair, payload.data(), kMaxEvent), Wrote::too_big);
}

TEST(Lane, DiscardCountsWhatItDropsExactly) {
    const u32 cpu = stay();
    const Lanes lanes(kDiscard);
    u8* lane = lanes.lane(cpu);
    u64 written = 0, dropped = 0, next = 0;
    const auto fill = [&] {
        for (u64 n = 0; n < 5000; ++n) {
            const Wrote wrote = write_pair(lanes.view, kPair, 1, next);
            ASSERT_TRUE(wrote == Wrote::done || wrote == Wrote::dropped);
            written += wrote == Wrote::done;
            dropped += wrote == Wrote::dropped;
            next += wrote == Wrote::done;
        }
    };
    u64 expected = 0;
    SubBuffer at;
    u64 lost = 0;
    const auto drain = [&](int most) {
        while (most-- > 0 && take(lane, lanes.shape, at) == Took::one) {
            EXPECT_EQ(at.lost_begin, lost);
            lost = at.lost_end;
            for (const auto& event : events_of(at)) EXPECT_EQ(event.counter, expected++);
            give_back(lane, lanes.shape, at);
        }
    };
    for (int round = 0; round < 20; ++round) {
        fill();
        EXPECT_EQ(lost_of(lane), dropped);
        drain(round % 5);
    }
    drain(100);
    EXPECT_GT(dropped, 0U);
    // The rest is in the one that is open.
    for (const auto& found : sub_buffers(lane, lanes.shape))
        for (const auto& event : found.open ? events_of(found) : std::vector<Event>())
            EXPECT_EQ(event.counter, expected++);
    EXPECT_EQ(expected, written);
}

TEST(Lane, ADrainThatDiesIsFollowedByOneThatReadsAgain) {
    for (const Shape& shape : {kSmall, kDiscard}) {
        const u32 cpu = stay();
        const Lanes lanes(shape);
        u8* lane = lanes.lane(cpu);
        u64 n = 0;
        while (active_of(lane).number() < 4) ASSERT_EQ(write_pair(lanes.view, kPair, 1, n++), Wrote::done);
        SubBuffer first, again, second;
        ASSERT_EQ(take(lane, shape, first), Took::one);
        ASSERT_EQ(take(lane, shape, again), Took::one);  // the first one never gave it back
        EXPECT_EQ(again.number, first.number);
        EXPECT_EQ(again.data, first.data);
        give_back(lane, shape, again);
        ASSERT_EQ(take(lane, shape, second), Took::one);
        EXPECT_EQ(second.number, first.number + 1);
        EXPECT_EQ(events_of(second).front().counter, events_of(first).back().counter + 1);
    }
}

TEST(Lane, ADrainThatDiesAfterItHasFreedASlotLeavesItFree) {
    const u32 cpu = stay();
    const Lanes lanes(kDiscard);
    u8* lane = lanes.lane(cpu);
    u64 n = 0;
    while (write_pair(lanes.view, kPair, 1, n) == Wrote::done) ++n;
    SubBuffer at;
    ASSERT_EQ(take(lane, kDiscard, at), Took::one);
    const u64 drained = drained_of(lane, kDiscard);
    give_back(lane, kDiscard, at);
    *lanes.word(cpu, kDiscard.drained()) = drained;  // it died before this
    SubBuffer next;
    ASSERT_EQ(take(lane, kDiscard, next), Took::one);
    EXPECT_EQ(next.number, at.number + 1) << "what is free is not given again";
    give_back(lane, kDiscard, next);
    const u64 before = n;
    while (write_pair(lanes.view, kPair, 1, n) == Wrote::done) ++n;
    EXPECT_GT(n, before + 300) << "both have room for writers";
}

TEST(Lane, LossesOfTheOpenOneAreItsOwn) {
    const u32 cpu = stay();
    const Lanes lanes(kDiscard);
    u64 n = 0;
    while (write_pair(lanes.view, kPair, 1, n) == Wrote::done) ++n;
    EXPECT_EQ(write_pair(lanes.view, kPair, 1, n), Wrote::dropped);
    const auto found = sub_buffers(lanes.lane(cpu), kDiscard);
    for (const auto& at : found) {
        EXPECT_EQ(at.lost_begin, 0U);
        EXPECT_EQ(at.lost_end, at.open ? 2U : 0U);
    }
    EXPECT_TRUE(found.back().open);
}

TEST(Lane, ATakenSubBufferIsLeftAloneByWriters) {
    const u32 cpu = stay();
    const Lanes lanes(kSmall);
    u8* lane = lanes.lane(cpu);
    u64 n = 0;
    while (active_of(lane).number() < 3) ASSERT_EQ(write_pair(lanes.view, kPair, 1, n++), Wrote::done);
    SubBuffer taken;
    ASSERT_EQ(take(lane, kSmall, taken), Took::one);
    const std::vector<u8> before(taken.data, taken.data + kSmall.size);
    for (int i = 0; i < 5000; ++i) ASSERT_EQ(write_pair(lanes.view, kPair, 1, n++), Wrote::done);
    EXPECT_TRUE(std::equal(before.begin(), before.end(), taken.data));
    give_back(lane, kSmall, taken);
    SubBuffer next;
    ASSERT_EQ(take(lane, kSmall, next), Took::one);
    EXPECT_EQ(next.number, active_of(lane).number() - kSmall.slots + 1) << "what lay between was overwritten";
}

TEST(Lane, ASecondLookTellsWhatWasOverwritten) {
    const u32 cpu = stay();
    const Lanes lanes(kSmall);
    u64 n = 0;
    while (active_of(lanes.lane(cpu)).number() < 5) ASSERT_EQ(write_pair(lanes.view, kPair, 1, n++), Wrote::done);
    const auto found = sub_buffers(lanes.lane(cpu), kSmall);
    ASSERT_EQ(found.size(), 4U);
    for (const auto& at : found) EXPECT_TRUE(still(lanes.lane(cpu), kSmall, at));
    while (active_of(lanes.lane(cpu)).number() < 6) ASSERT_EQ(write_pair(lanes.view, kPair, 1, n++), Wrote::done);
    EXPECT_FALSE(still(lanes.lane(cpu), kSmall, found[0]));
    EXPECT_TRUE(still(lanes.lane(cpu), kSmall, found[1]));
}

TEST(Lane, AClaimLeftBehindIsTakenOver) {
    const u32 cpu = stay();
    const Lanes lanes(kSmall);
    u64 n = 0;
    while (active_of(lanes.lane(cpu)).number() < 6) ASSERT_EQ(write_pair(lanes.view, kPair, 1, n++), Wrote::done);
    // A writer that died between claim and open.
    auto* word = reinterpret_cast<u64*>(lanes.lane(cpu) + kSmall.slot(7 & 3));
    const Slot before{*word};
    ASSERT_EQ(before.number(), 3U);
    *word = Slot::of(7, false, before.descriptor(3), 3).word;
    EXPECT_EQ(sub_buffers(lanes.lane(cpu), kSmall).size(), 3U) << "a claim is nothing to read";
    const u64 at_claim = n;
    while (active_of(lanes.lane(cpu)).number() < 7) ASSERT_EQ(write_pair(lanes.view, kPair, 1, n++), Wrote::done);
    EXPECT_GT(n, at_claim);
    EXPECT_EQ(all_of(lanes, cpu).back().counter, n - 1);
}

TEST(Lane, AThreadWithoutACpuHasNone) {
    Lanes lanes(kSmall);
    lanes.view.cpus = 0;  // as after a fork
    EXPECT_EQ(write_pair(lanes.view, kPair, 1, 1), Wrote::no_lane);
    for (u32 cpu = 0; cpu < lanes.cpus(); ++cpu) EXPECT_EQ(active_of(lanes.lane(cpu)).word, 0U);
}

// Else the kernel would read a descriptor there that dlclose may have unmapped, and kill the thread.
TEST(Lane, NoWriteLeavesASequenceBehind) {
    const auto sequence = [] {
        u64 word = 0;
        asm volatile("movq %%fs:8(%[rseq]), %[word]" : [word] "=r"(word) : [rseq] "r"(cloister_rseq_offset));
        return word;
    };
    stay();
    Lanes lanes(kDiscard);
    std::vector<u8> payload(kMaxEvent);
    EXPECT_EQ(write_pair(lanes.view, kPair, 1, 1), Wrote::done);
    EXPECT_EQ(sequence(), 0U);
    EXPECT_EQ(write_staged(lanes.view, kWide, payload.data(), kMaxEvent - kLongHeader), Wrote::too_big);
    EXPECT_EQ(sequence(), 0U);
    while (write_pair(lanes.view, kPair, 1, 1) == Wrote::done) {
    }
    EXPECT_EQ(write_pair(lanes.view, kPair, 1, 1), Wrote::dropped);
    EXPECT_EQ(sequence(), 0U);
    lanes.view.cpus = 0;
    EXPECT_EQ(write_pair(lanes.view, kPair, 1, 1), Wrote::no_lane);
    EXPECT_EQ(sequence(), 0U);
}

TEST(Lane, HostileWordsSpoilDataAndNothingElse) {
    const u32 cpu = stay();
    Lanes lanes(kSmall, cpu + 1);
    u8* const lane = lanes.lane(cpu);
    std::vector<u64> words;
    for (int bit = 0; bit < 64; ++bit) words.insert(words.end(), {1ULL << bit, ~(1ULL << bit), (1ULL << bit) - 1});
    // Whatever stands in a word that steers: the write returns, and nothing outside of the lane is touched.
    std::vector<u64> places = {0, kSmall.drained()};
    for (u32 d = 0; d < kSmall.descriptors(); ++d) places.push_back(kSmall.descriptor(d));
    for (u32 d = 0; d < kSmall.descriptors(); ++d)
        places.push_back(kSmall.descriptor(d) + offsetof(Descriptor, number));
    for (u32 i = 0; i < kSmall.slots; ++i) places.push_back(kSmall.slot(i));
    for (const u64 place : places) {
        for (const u64 word : words) {
            for (u64 n = 0; n < 3; ++n) (void)write_pair(lanes.view, kPair, 1, n);
            std::memcpy(lane + place, &word, sizeof word);
            for (u64 n = 0; n < 8; ++n) (void)write_pair(lanes.view, n % 2 ? kPair : kWide, 1, n);
            for (u32 i = 0; i < kSmall.slots; ++i) {
                SubBuffer at;
                if (!look(lane, kSmall, i, at)) continue;
                EXPECT_LE(at.content, kSmall.size);
                EXPECT_GE(at.data, lane);
                EXPECT_LE(at.data + kSmall.size, lane + kSmall.bytes());
            }
            SubBuffer at;
            if (take(lane, kSmall, at) == Took::one) {
                EXPECT_LE(at.data + at.content, lane + kSmall.bytes());
                give_back(lane, kSmall, at);
            }
            std::memset(lane, 0, kSmall.buffer(0));
        }
    }
    const auto* others = reinterpret_cast<const u64*>(lanes.lane(0));
    EXPECT_TRUE(std::all_of(others, others + cpu * kSmall.bytes() / 8, [](u64 word) { return word == 0; }));
}

TEST(Lane, ManyThreadsOnAllCpus) {
    // Room for all of it in one lane, should one CPU run them all.
    const Lanes lanes({.slots = 128, .size = 1 << 16, .mode = Mode::overwrite});
    cpu_set_t everywhere;
    CPU_ZERO(&everywhere);
    for (std::size_t cpu = 0; cpu < lanes.cpus(); ++cpu) CPU_SET(cpu, &everywhere);
    ASSERT_EQ(sched_setaffinity(0, sizeof everywhere, &everywhere), 0);
    constexpr u64 kThreads = 8, kEach = 20'000;
    std::vector<std::thread> threads;
    for (u64 t = 0; t < kThreads; ++t)
        threads.emplace_back([&, t] {
            for (u64 n = 0; n < kEach; ++n) {
                std::array<u64, 6> payload{t, n};
                payload.fill(0x0101010101010101ULL * static_cast<u8>(n));
                payload[0] = t | 2 * (n % 5) << 8;
                payload[1] = n;
                EXPECT_EQ(write_staged(lanes.view, kPair, payload.data(), static_cast<u32>(16 + 8 * (n % 5))),
                          Wrote::done);
            }
        });
    for (auto& thread : threads) thread.join();
    std::map<u64, std::vector<std::pair<u64, u64>>> by_thread;  // {time, counter}
    for (u32 cpu = 0; cpu < lanes.cpus(); ++cpu)
        for (const auto& at : sub_buffers(lanes.lane(cpu), lanes.shape))
            for (const auto& event : events_of(at))
                by_thread[event.thread & 0xff].emplace_back(event.time, event.counter);
    ASSERT_EQ(by_thread.size(), kThreads);
    for (auto& [thread, events] : by_thread) {
        std::ranges::sort(events, {}, &std::pair<u64, u64>::second);
        ASSERT_EQ(events.size(), kEach) << thread;
        for (u64 n = 0; n < kEach; ++n) ASSERT_EQ(events[n].second, n) << thread;
    }
}

}  // namespace
}  // namespace cloister::core::test
