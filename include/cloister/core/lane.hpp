// Lanes: where events are written, one lane for each CPU and channel. Freestanding: no libc, no allocation.
//
// A lane is a ring of sub-buffers in shared memory. Its writer never holds a reservation: finding the lane, checking
// for room, reading the clock, copying the payload and advancing are one restartable sequence (rseq(2)), and the last
// instruction of it, one 8-byte store, is the commit. Whatever interrupts the sequence on this CPU (preemption,
// migration, a signal) restarts it, so an event is wholly there or not at all.
//
// This header is the specification; lane_writer.hpp, src/core/lane.cpp and lane_reader.hpp are the code, and its ids
// (W1, R3 ...) recur there. tests/models/lane.pml checks the exchange in all interleavings, tests/step/ at every
// instruction. docs/format.md has the same layout byte by byte.
//
//
// ROLES, AND WHICH FIELD EACH MAY TOUCH
//
//   writer    any thread that runs on the lane's CPU with rseq registered. In a sequence on that CPU: active, lost, all
//             of a descriptor, the bytes of the sub-buffer that `active` names. Anywhere: slot words, by
//             compare-and-swap only, from exactly {k-N} to {k} (a claim).
//   snapshot  reads only. Any number of them, from any process.
//   drain     one per channel (a lock on the segment sees to that). Slot words, by compare-and-swap only, of
//             sub-buffers that are full: in overwrite mode it puts its spare descriptor in place of the full one, in
//             discard mode it sets `taken`. `drained` is its own.
//
//
// LAYOUT (offsets in bytes from the lane's begin; N slots, a power of two, at least 2; D = N + 1 descriptors)
//
//   0            active   {sequence number : 48, descriptor : 16}: the sub-buffer that is being written; 0: none yet
//   8            lost     events that found no room in this lane, ever
//   64 + 64 d    descriptor d:
//     +0         commit   {time >> 27 : 32, bytes left : 32}   time of the last event (or of the begin), room after it
//     +8         sequence number of what it holds
//     +16, +24   begin, end: TSC when the sub-buffer was opened; when the next one was
//     +32, +40   `lost` at these two moments
//   64 + 64 D + 8 i      slot i: {sequence number : 46, taken : 2, descriptor ^ i : 16}
//   ... + 8 N, next line: drained: sequence number up to which the drain has put everything in a safe place
//   next page    the sub-buffers, `size` bytes each, that of descriptor d at d * size
//
// Sub-buffers are numbered 1, 2, 3 ...; number k lies in slot k mod N, for ever. Zero bytes are a valid empty lane: no
// sub-buffer is open, every slot s holds descriptor s (that is why the index is xor'ed), and a descriptor of zeros has
// no bytes left, so that a writer takes the slow path and opens sub-buffer 1.
//
// A sub-buffer begins with kPacketHeader bytes of room for a reader to put a packet's header in a copy; events follow.
// An event begins at a multiple of 4: a header of 4 bytes {low 27 bits of the TSC : 27, id : 5}, then its payload.
// If the clock's high part is not that of the commit word, or the id is above 30, the header is 16 bytes {id field 31;
// id : 32; TSC : 64}. One store commits position and reference of the next timestamp. Bytes beyond the commit are
// scratch of sequences that were restarted.
//
//
// WHAT CAN BE LOST, AND HOW IT IS COUNTED
//
//   L1  Discard mode: an event that finds the next slot not yet taken by the drain. Counted in `lost`, in a sequence of
//       its own that checks CPU and `active` again, so the count is exact, and exact per sub-buffer (+32, +40).
//   L2  Overwrite mode: whole sub-buffers, oldest first. Nobody counts them: a hole in the sequence numbers shows them.
//   L3  An event of more than Shape::largest() bytes is refused (Wrote::too_big): its caller writes it as fragments
//       (fragment.hpp), of which what is lost is the whole's loss.
//   L4  A writer that is killed loses the event whose sequence it had not finished, and nothing else. A claim that it
//       made is the lane's: the next writer goes on with it.
//   L5  Events of children of fork, before they have a segment of their own: refused (Wrote::no_lane), and counted by
//       the caller. Threads without rseq (children of vfork too, see recorder/vfork.hpp) write to the channel's spill
//       lane, which is another structure with its own, weaker guarantees: spill.hpp.
//
//
// GUARANTEES
//
//   A  An event whose write returned Wrote::done is in the sub-buffer that `active` named, whole, and after every event
//      that was committed on this CPU before.
//   B  Within a lane, timestamps do not go down: the clock is read inside the sequence. ("RDTSC ... is guaranteed to
//      return a monotonically increasing unique value whenever executed", Intel SDM vol. 3B, 18.17.) A suspended
//      machine or a migrated virtual one may come back with a lower clock: then the writer opens a new sub-buffer (its
//      begin is below the previous one's end, and readers say so). A step back of less than 2^27 cycles goes unnoticed.
//   C  A reader that took [begin of events, position of the commit word) and then found the slot word unchanged has
//      whole events of that sub-buffer, all that were committed before it read the commit word.
//   D  At most one sub-buffer of a lane is open. One is full as soon as `active` has passed it; nobody has to mark it.
//   E  Whatever is in the segment, a writer stores only inside of the lane: everything that steers its stores is either
//      in its private View or compared with it. A hostile peer can spoil the data, and nothing else.
//   F  A sequence copies a bounded amount (kMaxEvent), so it makes progress at any rate of interruptions that lets some
//      hundreds of instructions pass.
//
//
// WHY TWO SWITCHES CANNOT OVERLAP
//
// A switch has two steps, and its thread may die, stall or migrate between any two instructions of them.
//   (1) Claim. From active = {k-1, d}, compare-and-swap slot k mod N from exactly {k-N} (0 before the first lap) to
//       {k}. Whoever finds {k} already there goes on with that claim. Two threads cannot make different claims for k,
//       as the swap begins at a word that occurs once; and nobody can claim k+1, as `active` still says k-1.
//   (2) Open, in one sequence on that CPU that begins by comparing the *whole* active word with the one that step 1
//       began with: close the old descriptor, fill in the new one, and last store {k, d'}. A thread that stalled after
//       (1) and wakes up laps later finds another sequence number. Comparing the descriptor alone would let it through
//       when the same descriptor is active again (mutant 1), and fill in one that has events already.
// As step 2 is one sequence, the descriptor is filled in by the one thread that opens it. Filling it in before (mutant
// 4) would let a stalled thread wipe a sub-buffer that another has opened meanwhile.
// "Raise the slot to k where it is less" (mutant 2: comparison and store are two steps) would let a thread that stalled
// in between take back a sub-buffer that is laps ahead by now.
//
//
// PSEUDOCODE
//
//   write(id, payload):                            # one sequence
//     cpu = rseq.cpu_id                            ; >= view.cpus: slow (never cpu_id_start: some allocators own it)
//     d = lane(cpu).active.descriptor              ; >= view.descs: slow                 W1
//     {high, left} = descriptor(d).commit          ;                                     W2
//     t = rdtsc                                    ; t >> 27 != high: slow
//     left &= ~3; new = left - need                ; left < need or left > size: slow
//     store header, payload at end(d) - left
//     descriptor(d).commit = {high, new}           ; the commit                          W3
//
//   slow(id, payload):
//     again:  a = active                                                                 W4
//             commit has room for it with a long header -> the same sequence with a long header; else:
//             k = a.k + 1; w = slot[k mod N]                                             W5
//             if w.k != k:
//               w.k != max(k - N, 0) -> again
//               discard mode, w.k != 0, not w.taken -> a sequence: cpu, active == a, ++lost; return      W6
//               compare-and-swap slot from w to {k, 0, w.descriptor}; failed -> again    W7
//             a sequence: cpu, active == a, close the old, fill in the new, active       W8
//             again; after kMostRounds without progress the lane is broken: Wrote::no_lane
//     cpu >= view.cpus: spill.hpp
//
//   snapshot(slot i):                                                           R1..R5
//     w = slot[i]; l = lost; a = active; w.k == 0 or w.k > a.k or w.taken -> nothing here
//     descriptor(w).k != w.k -> nothing here; c = commit; copy; fence; slot[i] != w -> overwritten meanwhile
//   It is open if a.k == w.k. Then its losses so far are l, which was loaded before a, so that none of a later
//   sub-buffer's is in it; and its end is not known: the descriptor has what a restarted sequence left there.
//   Checking the slot word alone, without a.k (mutant 3), would take a claimed sub-buffer, with the previous lap's
//   descriptor, for an open one. The begin time comes from the descriptor: one rebuilt from the commit word (mutant 5)
//   is the time of the last event, and lies after the first.
//
//   drain, overwrite mode: of the lowest k > drained with k < active.k, w = slot[k mod N] == {k, not taken}:
//     compare-and-swap w -> {k, taken, spare}; the old descriptor is the drain's now     R6
//     put it in a safe place; drained = k; it is the next spare
//   The spare is the descriptor that no slot holds, so nothing about it needs to be written down. If its sequence
//   number is above `drained`, a drain died with it in its hands: it is read again.
//   drain, discard mode: read in place, put it in a safe place, compare-and-swap w -> {k, taken, same descriptor} (R7),
//   and only then drained = k: a drain that dies between the two must not leave a slot that nobody will ever free.
//   A snapshot in overwrite mode looks at the spare as well: above `drained`, it is a sub-buffer that is in no slot.
//
//
// MEMORY ORDERS (on x86-64 every load acquires and every store releases: these are for the compiler, and for the model)
//
//   id  site                  operation         order    pairs with  what breaks if weaker
//   W1  write, active         load in sequence  relaxed  -           nothing: only this CPU stores it
//   W2  write, commit         load in sequence  relaxed  -           nothing: only this CPU stores it
//   W3  write, commit         store, the last   release  R3          a reader copies bytes that are not there yet
//   W4  slow, active          load              acquire  W8          the slot read next is older than the claim
//   W5  slow, slot            load              acquire  W7 R6 R7    the writer fills what a drain still reads
//   W6  drop, lost            store, the last   release  R4          a count from before the sub-buffer it belongs to
//   W7  claim, slot           compare-and-swap  seq_cst  R1 R5       new bytes are seen before the claim, in a copy
//   W8  open, active          store, the last   release  R2 W4       the new number is seen with the old descriptor
//   R1  snapshot, slot        load              acquire  W7 R6       the descriptor is read before its number
//   R2  snapshot, active      load              acquire  W8          the old descriptor is read under the new number
//   R3  snapshot, commit      load              acquire  W3          bytes that are not there yet
//   R4  snapshot, lost        load              acquire  W6          a count from before the sub-buffer it belongs to
//   R5  snapshot, slot again  fence, load       acquire  W7          bytes of the next lap in the copy
//   R6  drain, overwrite      compare-and-swap  seq_cst  W7          writer and drain own one descriptor
//   R7  drain, discard        compare-and-swap  release  W5          the writer fills what is still being read
#pragma once

#include <cstddef>
#include <cstdint>

// The tests build the wrong algorithms that are named above as well, and must catch each (tests/step).
#ifndef CLOISTER_LANE_MUTANT
#define CLOISTER_LANE_MUTANT 0
#endif

namespace cloister::core {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

inline constexpr u32 kLine = 64, kPage = 4096;
inline constexpr u32 kPacketHeader = 84;  // see docs/format.md; the first event's offset in a sub-buffer
inline constexpr u32 kMaxEvent = 4096;    // bytes of an event with its header, and at most a quarter of a sub-buffer
inline constexpr u32 kMinSize = 4096, kMaxSize = 64U << 20;  // of a sub-buffer, powers of two
inline constexpr u32 kMaxSlots = 4096;
inline constexpr u32 kCompactIds = 31;  // ids below have the short header
inline constexpr u32 kShortHeader = 4, kLongHeader = 16;
inline constexpr u32 kTimeBits = 27;  // of the TSC in a short header

// ---- Words ----

struct Active {
    u64 word = 0;
    [[nodiscard]] constexpr u64 number() const { return word >> 16; }
    [[nodiscard]] constexpr u32 descriptor() const { return word & 0xffff; }
    [[nodiscard]] static constexpr Active of(u64 number, u32 descriptor) { return {number << 16 | descriptor}; }
    bool operator==(const Active&) const = default;
};

struct Slot {
    u64 word = 0;
    [[nodiscard]] constexpr u64 number() const { return word >> 18; }
    [[nodiscard]] constexpr bool taken() const { return (word >> 16 & 3) != 0; }
    [[nodiscard]] constexpr u32 descriptor(u32 index) const { return (word ^ index) & 0xffff; }
    [[nodiscard]] static constexpr Slot of(u64 number, bool taken, u32 descriptor, u32 index) {
        return {number << 18 | u64{taken} << 16 | ((descriptor ^ index) & 0xffff)};
    }
    bool operator==(const Slot&) const = default;
};

struct Commit {
    u64 word = 0;
    [[nodiscard]] constexpr u32 high() const { return static_cast<u32>(word >> 32); }  // time >> kTimeBits
    [[nodiscard]] constexpr u32 left() const { return static_cast<u32>(word); }        // bytes
    [[nodiscard]] static constexpr Commit of(u64 time, u32 left) { return {(time >> kTimeBits) << 32 | left}; }
};

// ---- Where things lie ----

enum class Mode : u32 { overwrite = 0, discard = 1 };

// The shape of a channel's lanes. valid() first: everything else assumes it.
struct Shape {
    u32 slots = 0;  // N: a power of two, 2..kMaxSlots
    u32 size = 0;   // bytes of a sub-buffer: a power of two, kMinSize..kMaxSize
    Mode mode = Mode::overwrite;

    [[nodiscard]] constexpr bool valid() const {
        const auto power = [](u32 n) { return n != 0 && (n & (n - 1)) == 0; };
        return power(slots) && slots >= 2 && slots <= kMaxSlots && power(size) && size >= kMinSize &&
               size <= kMaxSize && (mode == Mode::overwrite || mode == Mode::discard);
    }
    [[nodiscard]] constexpr u32 descriptors() const { return slots + 1; }
    [[nodiscard]] constexpr u64 descriptor(u32 d) const { return kLine + u64{kLine} * d; }
    [[nodiscard]] constexpr u64 slot(u32 i) const { return descriptor(descriptors()) + 8 * u64{i}; }
    [[nodiscard]] constexpr u64 drained() const { return (slot(slots) + kLine - 1) / kLine * kLine; }
    [[nodiscard]] constexpr u64 buffer(u32 d) const {
        return (drained() + kLine + kPage - 1) / kPage * kPage + u64{size} * d;
    }
    [[nodiscard]] constexpr u64 bytes() const { return buffer(descriptors()); }  // of a lane
    [[nodiscard]] constexpr u32 largest() const { return size / 4 < kMaxEvent ? size / 4 : kMaxEvent; }
    bool operator==(const Shape&) const = default;
};

struct Descriptor {  // 64 bytes, at Shape::descriptor(d)
    u64 commit, number, begin, end, lost_begin, lost_end, reserved[2];
};
static_assert(sizeof(Descriptor) == kLine);

// What a writer believes of a channel: private to the process, in a page that fork wipes (MADV_WIPEONFORK), so that a
// child sees no CPUs and takes the slow path. The offsets are in lane_writer.hpp's assembly.
struct alignas(kLine) View {
    u32 cpus = 0;       // lanes; a CPU number at or above has none
    u32 descs = 0;      // D
    u64 lanes = 0;      // address of lane 0
    u64 stride = 0;     // from a lane to the next, bytes
    u64 first_end = 0;  // from a lane's begin to the end of its first sub-buffer
    u64 size = 0;       // of a sub-buffer
    u32 slots = 0;      // N
    u32 mode = 0;
    u64 slot0 = 0;  // Shape::slot(0)
    u64 spill = 0;  // address of the spill lane, which lies behind the last lane; 0: none
};
static_assert(sizeof(View) == kLine);

// The view of a channel of `cpus` lanes whose first is mapped at `lanes`, each `stride` bytes after the other, with or
// without a spill lane behind them.
[[nodiscard]] constexpr View view_of(const Shape& shape, u64 lanes, u64 stride, u32 cpus, bool spills = false) {
    return {.cpus = cpus,
            .descs = shape.descriptors(),
            .lanes = lanes,
            .stride = stride,
            .first_end = shape.buffer(0) + shape.size,
            .size = shape.size,
            .slots = shape.slots,
            .mode = static_cast<u32>(shape.mode),
            .slot0 = shape.slot(0),
            .spill = spills ? lanes + stride * cpus : 0};
}

}  // namespace cloister::core
