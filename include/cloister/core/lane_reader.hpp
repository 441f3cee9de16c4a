// Reading lanes in place, while their writers run on: looking at sub-buffers, and taking full ones away (the drain).
//
// Freestanding, no allocation, no locks, and never waits for a writer. A reader in another process maps the segment as
// it likes; a lane is the address of its first byte. What is in it is not trusted: a Shape comes from a checked header
// (recorder/segment.hpp), and every index and length found in the lane is compared with it before it is used.
// Pace yourself: a reader that spins on a lane's words takes their cache lines from the writer and slows it down five
// times. lane.hpp is the specification.
#pragma once

#include "cloister/core/lane.hpp"

namespace cloister::core {

namespace lane_words {
[[nodiscard]] inline u64 load(const u8* at) {
    return __atomic_load_n(reinterpret_cast<const u64*>(at), __ATOMIC_ACQUIRE);
}
inline bool exchange(u8* at, u64 expected, u64 desired) {
    return __atomic_compare_exchange_n(reinterpret_cast<u64*>(at), &expected, desired, false, __ATOMIC_SEQ_CST,
                                       __ATOMIC_RELAXED);
}
}  // namespace lane_words

[[nodiscard]] inline Active active_of(const u8* lane) { return {lane_words::load(lane)}; }
[[nodiscard]] inline u64 lost_of(const u8* lane) { return lane_words::load(lane + 8); }
[[nodiscard]] inline u64 drained_of(const u8* lane, const Shape& shape) {
    return lane_words::load(lane + shape.drained());
}

// A sub-buffer as it was when it was looked at. Its bytes are where they are: [data + kPacketHeader, data + content)
// are whole events, as long as still() says so after they have been used.
struct SubBuffer {
    u64 number = 0;
    u32 index = 0, descriptor = 0;
    u32 content = 0;                   // bytes, with the room for the packet's header
    bool open = false;                 // it is being written: there may be more by now
    u64 begin = 0, end = 0;            // TSC; end 0 while it is open
    u64 lost_begin = 0, lost_end = 0;  // of the lane, before and after it (while it is open: until now)
    const u8* data = nullptr;
    Slot seen;
};

// The sub-buffer in slot `index`; false if it holds nothing to be read (never opened, claimed but not open yet, taken).
[[nodiscard]] inline bool look(const u8* lane, const Shape& shape, u32 index, SubBuffer& out) {
    const Slot slot{lane_words::load(lane + shape.slot(index))};  // R1
    const u64 lost = lost_of(lane);         // R4: before R2, else drops of a later one may be in it
    const Active active = active_of(lane);  // R2
    const u32 d = slot.descriptor(index);
    if (slot.number() == 0 || slot.taken() || d >= shape.descriptors()) return false;
#if CLOISTER_LANE_MUTANT != 3
    if (slot.number() > active.number()) return false;
#endif
    const u8* descriptor = lane + shape.descriptor(d);
    if (lane_words::load(descriptor + offsetof(Descriptor, number)) != slot.number()) return false;
    out.number = slot.number();
    out.index = index;
    out.descriptor = d;
    out.open = out.number == active.number();
    out.lost_begin = lane_words::load(descriptor + offsetof(Descriptor, lost_begin));
    out.lost_end =
        lane_words::load(descriptor + offsetof(Descriptor, lost_end));  // left over from before while it is open
    if (out.open) out.lost_end = lost > out.lost_begin ? lost : out.lost_begin;
    const Commit commit{lane_words::load(descriptor)};  // R3
    const u32 left = commit.left();
    if (left > shape.size - kPacketHeader) return false;  // scribbled on
    out.content = shape.size - left;
#if CLOISTER_LANE_MUTANT == 5
    out.begin = u64{commit.high()} << kTimeBits;
#else
    out.begin = lane_words::load(descriptor + offsetof(Descriptor, begin));
#endif
    out.end = out.open ? 0 : lane_words::load(descriptor + offsetof(Descriptor, end));
    out.data = lane + shape.buffer(d);
    out.seen = slot;
    return true;
}

// Whether what was read since look() was that sub-buffer all the time.
[[nodiscard]] inline bool still(const u8* lane, const Shape& shape, const SubBuffer& seen) {
    asm volatile("" ::: "memory");  // for the compiler: x86 keeps loads in order (and TSan knows no fences)
    return Slot{lane_words::load(lane + shape.slot(seen.index))} == seen.seen;  // R5
}

// ---- The drain: one per channel at a time, who has made sure of that ----

// The descriptor that is in no slot; shape.descriptors() if the lane is broken.
[[nodiscard]] inline u32 spare_of(const u8* lane, const Shape& shape) {
    // All of them are 0 .. N, so the missing one is what is left of the sum.
    u64 left = u64{shape.slots} * (shape.slots + 1) / 2;
    for (u32 i = 0; i < shape.slots; ++i) left -= Slot{lane_words::load(lane + shape.slot(i))}.descriptor(i);
    return left < shape.descriptors() ? static_cast<u32>(left) : shape.descriptors();
}

// Fills in what a descriptor in the drain's own hands holds.
[[nodiscard]] inline bool look_at_spare(const u8* lane, const Shape& shape, u32 spare, SubBuffer& out) {
    const u8* descriptor = lane + shape.descriptor(spare);
    out = {};
    out.number = lane_words::load(descriptor + offsetof(Descriptor, number));
    out.index = static_cast<u32>(out.number) & (shape.slots - 1);
    out.descriptor = spare;
    const u32 left = Commit{lane_words::load(descriptor)}.left();
    if (out.number == 0 || left > shape.size - kPacketHeader) return false;
    out.content = shape.size - left;
    out.begin = lane_words::load(descriptor + offsetof(Descriptor, begin));
    out.end = lane_words::load(descriptor + offsetof(Descriptor, end));
    out.lost_begin = lane_words::load(descriptor + offsetof(Descriptor, lost_begin));
    out.lost_end = lane_words::load(descriptor + offsetof(Descriptor, lost_end));
    out.data = lane + shape.buffer(spare);
    return true;
}

enum class Took : u8 {
    nothing,  // no full sub-buffer that has not been drained
    one,
    broken,  // what is in the lane cannot be
};

// The oldest full sub-buffer that has not been drained. It is the caller's, and nobody writes to it, until give_back();
// it is given again to the next drain if the caller dies before.
[[nodiscard]] inline Took take(u8* lane, const Shape& shape, SubBuffer& out) {
    const u64 drained = drained_of(lane, shape);
    const u32 spare = spare_of(lane, shape);
    if (spare >= shape.descriptors()) return Took::broken;
    // One that a drain had in its hands when it died.
    if (shape.mode == Mode::overwrite && look_at_spare(lane, shape, spare, out) && out.number > drained)
        return Took::one;
    for (u32 tries = 0; tries < 64; ++tries) {
        const Active active = active_of(lane);
        if (active.number() < 2 || active.number() - 1 <= drained) return Took::nothing;
        const u64 oldest = active.number() > shape.slots ? active.number() - shape.slots + 1 : 1;
        for (u64 number = drained + 1 > oldest ? drained + 1 : oldest; number < active.number(); ++number) {
            const u32 index = static_cast<u32>(number) & (shape.slots - 1);
            if (!look(lane, shape, index, out) || out.number != number || out.open) continue;  // overtaken
            if (shape.mode == Mode::discard) return Took::one;
            const Slot swapped = Slot::of(number, true, spare, index);
            if (lane_words::exchange(lane + shape.slot(index), out.seen.word, swapped.word)) {  // R6
                (void)look_at_spare(lane, shape, out.descriptor, out);
                return Took::one;
            }
        }
    }
    return Took::nothing;  // a writer that laps its drain 64 times in a row leaves nothing to take
}

// What take() gave is in a safe place. `drained` last: a drain that dies between the two leaves a slot that is free,
// not one that nobody frees.
inline void give_back(u8* lane, const Shape& shape, const SubBuffer& taken) {
    if (shape.mode == Mode::discard) {
        const Slot free = Slot::of(taken.number, true, taken.descriptor, taken.index);
        (void)lane_words::exchange(lane + shape.slot(taken.index), taken.seen.word, free.word);  // R7
    }
    __atomic_store_n(reinterpret_cast<u64*>(lane + shape.drained()), taken.number, __ATOMIC_RELEASE);
}

}  // namespace cloister::core
