// Reading spill lanes in place, while their writers run on. spill.hpp is the specification.
//
// Freestanding, no allocation, and never waits for a writer. What is in the lane is not trusted: every count found
// there is compared with the shape before it is used, and events are taken from a copy, which nobody changes.
#pragma once

#include "cloister/core/lane_reader.hpp"
#include "cloister/core/spill.hpp"

namespace cloister::core {

[[nodiscard]] inline u64 spill_lost_of(const u8* lane) { return lane_words::load(lane + SpillShape::kLost); }
[[nodiscard]] inline u32 spill_drained_of(const u8* lane) {
    return static_cast<u32>(lane_words::load(lane + SpillShape::kDrained));
}
// T1, T3. The state of sub-buffer `index`, if it holds something to be read: else its number is 0.
[[nodiscard]] inline SpillState spill_state_of(const u8* lane, const SpillShape& shape, u32 index) {
    const SpillState state{lane_words::load(lane + SpillShape::state(index))};
    return state.used() == 0 || state.used() > shape.cells() ? SpillState{} : state;
}

// T2. Copies the cells of a sub-buffer that were used in `state`: used() * kSpillCell bytes.
inline void copy_spill(const u8* lane, const SpillShape& shape, u32 index, SpillState state, u64* to) {
    const u8* from = lane + shape.buffer(index);
    for (u32 w = 0; w < state.used() * (kSpillCell / 8); ++w) to[w] = lane_words::load(from + 8 * u64{w});
}

// Whether the copy is of that sub-buffer.
[[nodiscard]] inline bool spill_still(const u8* lane, u32 index, SpillState seen) {
    asm volatile("" ::: "memory");  // for the compiler: x86 keeps loads in order (and TSan knows no fences)
    return SpillState{lane_words::load(lane + SpillShape::state(index))}.number() == seen.number();  // T3
}

// An event in a copy. Its payload lies in pieces: spill_payload().
struct SpillEvent {
    u64 time = 0, lost = 0;  // TSC; the lane's count when it was reserved
    u32 id = 0, bytes = 0;   // of the payload
    u32 cell = 0, cells = 0;
};

// The next event at or behind cell `at`; false if there is none. What lies between is holes.
[[nodiscard]] inline bool next_spill_event(const u64* copy, SpillState state, u32 at, SpillEvent& out) {
    constexpr u32 kWords = kSpillCell / 8;
    for (; at < state.used(); ++at) {
        const u64* words = copy + u64{at} * kWords;
        const u32 cells = SpillCell{words[0]}.cells();
        if (words[0] != SpillCell::of(state.number(), cells, SpillCell::Kind::first).word) continue;
        out = {.time = words[1],
               .lost = words[2],
               .id = static_cast<u32>(words[3]),
               .bytes = static_cast<u32>(words[3] >> 32),
               .cell = at,
               .cells = cells};
        // Else it was scribbled on.
        if (out.bytes <= kMaxEvent && spill_cells(out.bytes) == cells && cells <= state.used() - at) return true;
    }
    return false;
}

// How many events are missing in a copy after which the state was `state` (P4).
[[nodiscard]] inline u32 spill_holes(const u64* copy, SpillState state) {
    u32 without = state.used();
    SpillEvent event;
    for (u32 cell = 0; next_spill_event(copy, state, cell, event); cell = event.cell + event.cells)
        without -= event.cells;
    return without < state.writers() ? without : state.writers();
}

// Its payload, event.bytes of it.
inline void spill_payload(const u64* copy, const SpillEvent& event, u8* to) {
    const auto* cells = reinterpret_cast<const u8*>(copy) + u64{event.cell} * kSpillCell;
    u32 at = kSpillHead;  // in the event's data
    for (u32 i = 0; i < event.bytes; ++i, ++at)
        to[i] = cells[at / kSpillData * kSpillCell + (kSpillCell - kSpillData) + at % kSpillData];
}

// ---- The drain: one per channel at a time, who has made sure of that ----

// The closed sub-buffer that is to be drained next; false if there is none yet. One in which a writer is, is given only
// when more than half of all are closed (P5).
[[nodiscard]] inline bool next_to_drain(const u8* lane, const SpillShape& shape, u32& index) {
    const u32 drained = spill_drained_of(lane);
    u32 closed = 0, lowest = 0;
    bool held = false;
    for (u32 i = 0; i < shape.slots; ++i) {
        const SpillState state = spill_state_of(lane, shape, i);
        if (state.number() == 0 || !state.closed() || state.taken()) continue;
        if (drained != 0 && spill_distance(state.number(), drained) <= 0) continue;
        if (closed++ != 0 && spill_distance(state.number(), lowest) > 0) continue;
        lowest = state.number();
        index = i;
        held = state.writers() != 0;
    }
    return closed > (held ? shape.slots / 2 : 0U);
}

// What was copied of it is in a safe place.
inline void spill_drained(u8* lane, u32 index, u32 number, Mode mode) {
    if (mode == Mode::discard)
        __atomic_fetch_or(reinterpret_cast<u64*>(lane + SpillShape::state(index)), SpillState::kTaken,
                          __ATOMIC_RELEASE);  // T4
    __atomic_store_n(reinterpret_cast<u64*>(lane + SpillShape::kDrained), number, __ATOMIC_RELEASE);
}

}  // namespace cloister::core
