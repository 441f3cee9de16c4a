// The spill lane: where threads write that have no CPU of their own, one for each channel. Freestanding.
//
// A lane (lane.hpp) belongs to a CPU, and its writers need restartable sequences. A thread that the kernel does not
// restart has none: rseq(2) is turned off (GLIBC_TUNABLES=glibc.pthread.rseq=0), the kernel is too old, the thread has
// unregistered, or it is a child of vfork. Such threads reserve, write and commit, with atomic instructions: some five
// times slower than a lane, and with weaker guarantees (below). No word here is ever touched by a sequence, and no word
// of a lane by these writers: two disciplines never meet.
//
// This header is the specification; src/core/spill.cpp and spill_reader.hpp are the code, and its ids (S1, T2 ...)
// recur there. tests/models/spill.pml checks it in all interleavings, tests/step/spill_steps.cpp at every instruction.
//
//
// ROLES, AND WHICH FIELD EACH MAY TOUCH
//
//   writer    any thread, and any signal handler on it, on any CPU. active and state words by compare-and-swap, `lost`
//             by addition; the cells that it has reserved, until it commits.
//   snapshot  reads only. Any number of them, from any process.
//   drain     one per channel, as in lane.hpp. `taken` of a state word, by an atomic or; `drained` is its own.
//
//
// LAYOUT (offsets in bytes from the spill lane's begin; N sub-buffers of `size` bytes: the channel's Shape)
//
//   0            active   {sequence number : 48, sub-buffer : 16}: the one that is being written; 0: none yet
//   8            lost     events that found no room, ever
//   16           drained  sequence number up to which the drain has put everything in a safe place
//   64 + 8 i     state of sub-buffer i: {sequence number : 32, used cells : 20, taken : 1, closed : 1, writers : 10}
//   next page    the sub-buffers, `size` bytes each, in cells of 64 bytes
//
// Sub-buffers are numbered 1, 2, 3 ... as they are opened (after 2^32 - 1 comes 1 again: the numbers are compared as
// distances). Which one gets a number is decided when it is opened: the next in the ring that nobody holds. `writers`
// is how many events are reserved there and not committed. Zero bytes are a valid empty spill lane.
//
// An event takes whole cells, one after the other. A cell is a word {sequence number : 32, cells : 16, kind : 16} and
// 56 bytes of data. Kind 1: the first cell of an event that is committed, `cells` of them; kind 2: a further one. The
// data of all of them together is {TSC : 64; `lost` at that time : 64; id : 32; bytes : 32}, then the payload.
//
//
// WHAT CAN BE LOST, AND HOW IT IS COUNTED
//
//   P1  An event that finds no room: discard mode, and nothing is taken by the drain; or every sub-buffer has a writer
//       in it. Exact, in `lost`. Each event says what it was when it was reserved, so readers know between which two.
//   P2  Overwrite mode: whole sub-buffers, oldest first. A hole in the sequence numbers shows them.
//   P3  An event larger than Shape::largest() is refused, as in a lane.
//   P4  A writer that is killed, or left by longjmp, or stalled between reservation and commit leaves a hole, which
//       readers pass over: a cell whose word is not that of this sub-buffer's number is no event. As many events are
//       missing as there are `writers`, but not more than cells without an event: a writer may have stopped between S5
//       and S6. (Where that is so while another's event of several cells is missing, it is counted as well: the only
//       count that is not exact.) The sub-buffer is never overwritten, as the writer may yet wake up: it is out of use
//       for as long.
//   P5  A drain passes over a hole when more than half of the sub-buffers are full: an event whose writer sleeps longer
//       is counted as lost although its write returns Wrote::done later. The only case in which that can be.
//
//
// GUARANTEES
//
//   A  An event whose write returned Wrote::done is committed, whole, behind every event whose write had returned
//      before it began. (Not behind each that was *reserved* before.)
//   B  In the order of sequence numbers and cells, time does not go down: the clock is read between the load of the
//      state word and the compare-and-swap that finds it unchanged, and a sub-buffer is closed before the next is open.
//   C  A reader that copied a sub-buffer and then found its number unchanged has whole events, all that were committed
//      when it began.
//   D  Nobody waits for anybody: a compare-and-swap fails only because another thread got on. Async-signal-safe.
//   E  Whatever is in the segment, a writer stores only inside of the spill lane: the number of sub-buffers and their
//      size are those of its private View, and every index and count found in the lane is compared with them.
//   F  A sub-buffer is written to again only when writers == 0: no two writers ever own one cell.
//
//
// WHY A STALLED THREAD DOES NO HARM
//
// Opening the next sub-buffer has three steps, each a compare-and-swap of one word, from what was found to what shall
// be: close the active one, give the next one a free sub-buffer, make it active. A thread may stop between any two.
//   - closed, nothing further: whoever writes next goes on.
//   - a sub-buffer has number k + 1, `active` still k: whoever comes next to it goes on with that one. If it chose
//     another (one became free meanwhile), there are two of number k + 1, one of which becomes active. The other never
//     was, so nobody writes to it; it stays empty until it is given a later number.
//   - a thread that wakes up with an old `active` finds numbers ahead of its own and starts again (mutant 2 does not,
//     and takes the sub-buffer that is active back to an old number: nobody can write any more).
// Closing is what keeps B: without it (mutant 1) a thread that found room in k, and slept while k + 1 was opened and
// written to, would put a later time before an earlier one.
//
//
// PSEUDOCODE
//
//   write(id, payload):
//     n = cells of it
//     again:  a = active                                                                     S1
//             s = state[a.index]                                                             S2
//             s.number == a.number, not closed, s.used + n <= cells, s.writers < most:
//               l = lost; t = clock                                                          S3
//               compare-and-swap state: s -> used + n, writers + 1; failed -> again          S4
//               store cells [s.used, + n): data first, the first cell's word last            S5
//               state: writers - 1; return done                                              S6
//             open the next; nothing free -> ++lost, return dropped                          S7
//             again; after kMostRounds -> ++lost, return dropped
//
//   open the next:
//     s.number == a.number, not closed: compare-and-swap state: s -> closed; failed -> again     O1
//     for each sub-buffer i, the one behind a.index first:  w = state[i]                         O2
//       w.number is a.number + 1, not closed: compare-and-swap active: a -> {that, i}; again     O4
//       w.number is beyond that, and `active` is no longer a -> again
//       free: never used; or writers == 0, and used == 0 or closed, and (overwrite or taken or used == 0):
//         compare-and-swap state: w -> {a.number + 1, 0, 0}; failed -> again                     O3
//         compare-and-swap active: a -> {a.number + 1, i}; again                                 O4
//
//   snapshot(i):  s = state[i]; copy cells [0, s.used), of each its word first; fence; state[i]       T1 T2 T3
//     number unchanged -> cells of kind 1 and that number begin whole events. The whole word unchanged -> of s.writers
//     events some are missing (P4).
//
//   drain: the lowest number > drained that is closed; writers != 0 -> only if more than half are (P5)
//     as a snapshot; put it in a safe place; discard mode: state or= taken (T4); drained = number
//
//
// MEMORY ORDERS (on x86-64 only S4 .. O4 cost more than a plain access, whatever is written here)
//
//   id  site               operation         order    pairs with  what breaks if weaker
//   S1  write, active      load              acquire  O4          the state read next is older than the number
//   S2  write, state       load              acquire  S4 O1 O3    time is read before, `lost` goes down
//   S3  write, clock       fence both sides  -        S2 S4       time goes down (B)
//   S4  reserve, state     compare-and-swap  acq_rel  O3 T3       new bytes are seen before the reservation, in a copy
//   S5  write, cell word   store             release  T2          a reader takes bytes that are not there yet
//   S6  commit, state      subtraction       release  O3 T3       the next number's writer is overwritten by this one
//   S7  drop, lost         addition          relaxed  -           nothing: it is a count
//   O1  close, state       compare-and-swap  acq_rel  S4          time goes down (B)
//   O2  open, state        load              acquire  S6 T4       the drain still reads what is given away
//   O3  open, state        compare-and-swap  acq_rel  S6 T3       new bytes are seen before the new number, in a copy
//   O4  open, active       compare-and-swap  acq_rel  S1          a number is seen, and the sub-buffer still has
// another
//   T1  snapshot, state    load              acquire  S4          cells that are reserved are not looked at
//   T2  snapshot, cell     load              acquire  S5          bytes that are not there yet
//   T3  snapshot, state    fence, load       acquire  S4 O3       bytes of another number in the copy
//   T4  drain, taken       or                release  O2          a writer fills what is still being read
#pragma once

#include "cloister/core/lane.hpp"

// The tests build the wrong algorithms that are named above as well, and must catch each (tests/step).
#ifndef CLOISTER_SPILL_MUTANT
#define CLOISTER_SPILL_MUTANT 0
#endif

namespace cloister::core {

inline constexpr u32 kSpillCell = 64, kSpillData = 56;  // bytes of a cell; of data in it
inline constexpr u32 kSpillHead = 24;                   // bytes of an event's data before its payload
inline constexpr u32 kMostSpillWriters = (1U << 10) - 1;
inline constexpr u32 kMostSpillCells = (1U << 20) - 1;  // of a sub-buffer of 64 MiB one cell stays empty

struct SpillState {
    u64 word = 0;
    [[nodiscard]] constexpr u32 number() const { return static_cast<u32>(word >> 32); }
    [[nodiscard]] constexpr u32 used() const { return static_cast<u32>(word) >> 12; }  // cells
    [[nodiscard]] constexpr bool taken() const { return (word & kTaken) != 0; }
    [[nodiscard]] constexpr bool closed() const { return (word & kClosed) != 0; }
    [[nodiscard]] constexpr u32 writers() const { return static_cast<u32>(word) & kMostSpillWriters; }
    [[nodiscard]] static constexpr SpillState open(u32 number) { return {u64{number} << 32}; }
    [[nodiscard]] constexpr SpillState reserved(u32 cells) const { return {word + (u64{cells} << 12) + 1}; }
    static constexpr u64 kClosed = 1U << 10, kTaken = 1U << 11;
    bool operator==(const SpillState&) const = default;
};

struct SpillCell {
    u64 word = 0;
    enum class Kind : u16 { none = 0, first = 1, further = 2 };
    [[nodiscard]] static constexpr SpillCell of(u32 number, u32 cells, Kind kind) {
        return {u64{number} << 32 | (cells & 0xffff) << 16 | static_cast<u16>(kind)};
    }
    [[nodiscard]] constexpr u32 cells() const { return static_cast<u32>(word) >> 16; }
    bool operator==(const SpillCell&) const = default;
};

// How far number `a` lies behind `b`; negative if it comes before it. They go round.
[[nodiscard]] constexpr std::int32_t spill_distance(u32 a, u32 b) { return static_cast<std::int32_t>(a - b); }

[[nodiscard]] constexpr u32 next_spill_number(u32 number) { return number + 1 != 0 ? number + 1 : 1; }

// Cells that an event of so many bytes takes.
[[nodiscard]] constexpr u32 spill_cells(u32 bytes) { return (kSpillHead + bytes + kSpillData - 1) / kSpillData; }

// Where things lie in the spill lane of a channel of this shape. It takes less than a lane of it.
struct SpillShape {
    u32 slots = 0, size = 0;
    [[nodiscard]] constexpr u32 cells() const {  // of a sub-buffer
        const u32 all = size / kSpillCell;
        return all < kMostSpillCells ? all : kMostSpillCells;
    }
    static constexpr u64 kLost = 8, kDrained = 16;
    [[nodiscard]] static constexpr u64 state(u32 i) { return kLine + 8 * u64{i}; }
    [[nodiscard]] constexpr u64 buffer(u32 i) const {
        return (state(slots) + kPage - 1) / kPage * kPage + u64{size} * i;
    }
    [[nodiscard]] constexpr u64 bytes() const { return buffer(slots); }
};

}  // namespace cloister::core
