// The writer of a spill lane. Freestanding. spill.hpp is the specification; its ids stand at the code.
#include "cloister/core/spill.hpp"

#include "cloister/core/lane_writer.hpp"

namespace cloister::core {
namespace {

// A round ends without progress only when another thread has made some, or interrupted this one.
constexpr u32 kMostRounds = 1U << 16;

u64 load(const u64& word) { return __atomic_load_n(&word, __ATOMIC_ACQUIRE); }
bool exchange(u64& word, u64 expected, u64 desired) {
    return __atomic_compare_exchange_n(&word, &expected, desired, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

// S3. RDTSC is not ordered with what stands around it (Intel SDM vol. 2B): without the fences it may be read before the
// state word, or after another thread has found that word changed.
u64 fenced_clock() {
    u32 low = 0, high = 0;
    asm volatile("lfence\nrdtsc\nlfence" : "=a"(low), "=d"(high) : : "memory");
    return u64{high} << 32 | low;
}

struct SpillLane {
    SpillShape shape;
    u64 base;  // address
    [[nodiscard]] u64& active() const { return *reinterpret_cast<u64*>(base); }
    [[nodiscard]] u64& lost() const { return *reinterpret_cast<u64*>(base + SpillShape::kLost); }
    [[nodiscard]] u64& state(u32 i) const { return *reinterpret_cast<u64*>(base + SpillShape::state(i)); }
    [[nodiscard]] u32* cells(u32 i) const { return reinterpret_cast<u32*>(base + shape.buffer(i)); }
};

// Words of 4 bytes, one at a time: no call of memcpy, which may be another's in a program that interposes it.
void put(u32* to, u32 value) { __atomic_store_n(to, value, __ATOMIC_RELAXED); }

// S5. The event into `count` cells from `at` on. Every word of its data goes behind the word of its cell.
void store_event(u32* at, u32 number, u32 count, const u64 (&head)[2], u32 id, const void* payload, u32 bytes) {
    constexpr u32 kWords = kSpillCell / 4, kBegin = kWords - kSpillData / 4, kHead = kSpillHead / 4;
    auto* first = reinterpret_cast<u64*>(at);
    for (u32 c = 1; c < count; ++c)
        __atomic_store_n(first + c * (kSpillCell / 8), SpillCell::of(number, 0, SpillCell::Kind::further).word,
                         __ATOMIC_RELAXED);
#if CLOISTER_SPILL_MUTANT == 4
    __atomic_store_n(first, SpillCell::of(number, count, SpillCell::Kind::first).word, __ATOMIC_RELEASE);
#endif
    for (u32 w = 0; w < 2; ++w) {
        put(at + kBegin + 2 * w, static_cast<u32>(head[w]));
        put(at + kBegin + 2 * w + 1, static_cast<u32>(head[w] >> 32));
    }
    put(at + kBegin + 4, id);
    put(at + kBegin + 5, bytes);
    u32 cell = 0, word = kBegin + kHead;
    for (u32 i = 0; i < bytes; i += 4, ++word) {
        if (word == kWords) {
            ++cell;
            word = kBegin;
        }
        const u8* from = static_cast<const u8*>(payload) + i;
        u32 value = 0;
        if (bytes - i >= sizeof value)
            __builtin_memcpy(&value, from, sizeof value);
        else  // and none of what lies behind it
            for (u32 b = 0; b < bytes - i; ++b) value |= u32{from[b]} << 8 * b;
        put(at + cell * kWords + word, value);
    }
#if CLOISTER_SPILL_MUTANT != 4
    __atomic_store_n(first, SpillCell::of(number, count, SpillCell::Kind::first).word, __ATOMIC_RELEASE);
#endif
}

bool is_free(SpillState w, Mode mode) {
    if (w.number() == 0) return true;
#if CLOISTER_SPILL_MUTANT != 3
    if (w.writers() != 0) return false;
#endif
    return w.used() == 0 || (w.closed() && (mode == Mode::overwrite || w.taken()));
}

// O1 .. O4. False if nothing is free; else look once more.
bool open_spill(const SpillLane& lane, Mode mode, Active a, [[maybe_unused]] SpillState s) {
    const auto number = static_cast<u32>(a.number());
#if CLOISTER_SPILL_MUTANT != 1
    if (number != 0 && s.number() == number && !s.closed() &&
        !exchange(lane.state(a.descriptor()), s.word, s.word | SpillState::kClosed))  // O1
        return true;
#endif
    const u32 next = next_spill_number(number);
    for (u32 n = 1; n <= lane.shape.slots; ++n) {
        const u32 i = (a.descriptor() + n) & (lane.shape.slots - 1);
        const SpillState w{load(lane.state(i))};  // O2
        const bool claimed = w.number() == next && !w.closed();
#if CLOISTER_SPILL_MUTANT != 2
        // Beyond the next one: `a` is old by now. If it is not, the number is none that a writer has given.
        if (!claimed && w.number() != 0 && spill_distance(w.number(), number) > 0) {
            if (load(lane.active()) != a.word) return true;
            continue;
        }
#endif
        if (!claimed && !is_free(w, mode)) continue;
        if (claimed || exchange(lane.state(i), w.word, SpillState::open(next).word))  // O3
            (void)exchange(lane.active(), a.word, Active::of(next, i).word);          // O4
#if CLOISTER_SPILL_MUTANT == 1
        if (number != 0) __atomic_fetch_or(&lane.state(a.descriptor()), SpillState::kClosed, __ATOMIC_ACQ_REL);
#endif
        return true;
    }
    return false;
}

}  // namespace

Wrote write_spill(const View& view, u32 id, const void* payload, u32 bytes) {
    if (view.spill == 0) return Wrote::no_lane;
    if (bytes > kMaxEvent - kLongHeader || bytes > view.size / 4 - kLongHeader) return Wrote::too_big;
    const SpillLane lane{{view.slots, static_cast<u32>(view.size)}, view.spill};
    const u32 count = spill_cells(bytes);
    for (u32 round = 0; round < kMostRounds; ++round) {
        const Active a{load(lane.active())};  // S1
        if (a.word == 0 && cloister_populate_lane && !cloister_populate_lane(view, view.cpus)) return Wrote::no_lane;
        if (a.descriptor() >= view.slots) return Wrote::no_lane;
        const auto number = static_cast<u32>(a.number());
        const SpillState s{load(lane.state(a.descriptor()))};  // S2
        if (number != 0 && s.number() != number) continue;     // it was given away since
        if (number != 0 && !s.closed() && s.used() + count <= lane.shape.cells() && s.writers() < kMostSpillWriters) {
            const u64 head[2] = {fenced_clock(), load(lane.lost())};                              // S3
            if (!exchange(lane.state(a.descriptor()), s.word, s.reserved(count).word)) continue;  // S4
            u32* at = lane.cells(a.descriptor()) + s.used() * (kSpillCell / 4);
            store_event(at, number, count, head, id, payload, bytes);
            __atomic_fetch_sub(&lane.state(a.descriptor()), 1, __ATOMIC_RELEASE);  // S6
            return Wrote::done;
        }
        if (!open_spill(lane, static_cast<Mode>(view.mode), a, s)) break;
    }
    __atomic_fetch_add(&lane.lost(), 1, __ATOMIC_RELAXED);  // S7
    return Wrote::dropped;
}

}  // namespace cloister::core
