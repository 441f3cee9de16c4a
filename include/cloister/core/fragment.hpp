// Fragments: what events larger than a lane takes at a time are written as. Freestanding.
//
// A lane takes an event of at most Shape::largest() at a time, so that its sequence copies a bounded amount. A larger
// one is written as fragments, each an event of its own, of the reserved class `cloister:fragment`. Between two of them
// anything may happen: other events, further fragmented events of signal handlers, a change of CPU. Readers put them
// together again (src/ctf/fragments.hpp). This header is the specification, staged_event.hpp and
// src/core/staged_event.cpp are the code; lane.hpp specifies what lies below.
//
//
// ROLES
//
//   author   a thread, with all signal handlers on it: {thread, instances}. Nobody else writes to these.
//   event    StagedEvent, on the stack of who builds it; its own.
//   lane     only through Sink::write, one whole event at a time: all that lane.hpp says of events holds for fragments.
//
//
// LAYOUT of a fragment's payload (bytes; little endian, nothing padded; behind the long header of a lane's event)
//
//   0    u64  instance  of the event, among all of its thread
//   8    u64  begun     TSC before the first fragment: how far back a reader that begins in the middle has to look
//   16   u32  thread    of the author
//   20   u32  id        of the event that this is a part of
//   24   u32  index     0, 1, 2 ... of the fragment
//   28   u32  end       0 more follow, 1 the last, 2 abandoned: nothing follows, and the event was never committed
//   32   u32  bytes     of the event's payload in this fragment
//   36   the bytes
//
// A fragment with its header is at most Shape::largest(). All but the last are full, which no reader relies on.
//
//
// WHAT CAN BE LOST, AND HOW IT SHOWS
//
//   An event that is small in the end is never in fragments: it is staged until it does not fit, and written at its
//   commit as any other. Until then, dropping it costs nothing.
//   P1  A fragment finds no room (discard mode): the lane counts it, once. What follows is not written, but for the
//       last, so that a reader knows where the event ended; commit() says so. If it was the first, nothing is written.
//   P2  Sub-buffers with fragments are overwritten: the event's first ones are missing, never those after one that is
//       there, in each lane.
//   P3  The event is dropped after fragments were written: a fragment `abandoned` without bytes says so.
//   P4  The author is killed: the last fragment is missing, and what was written before is there.
//   An event with a fragment missing is incomplete, and readers show it as that.
//
//
// GUARANTEES
//
//   Q1  An event whose commit returned Wrote::done has all of its fragments in lanes, whole, with ascending indexes; in
//       the order of time as far as the clocks of the CPUs agree on the order of what one thread does.
//   Q2  No two events of a thread have the same instance: see below.
//   Q3  append() and commit() write a bounded number of events and wait for nobody. Async-signal-safe; between any two
//       instructions of them another event may be built by the same author.
//
//
// WHY A PLAIN XADD SUFFICES
//
// An instance is taken by one `xadd` without a lock prefix. Only the author's own thread ever touches the counter, so
// other CPUs need not see it atomically; what could come between is a signal handler on that thread (or the kernel,
// which moves the thread with all that it has stored), and an interrupt is taken between two instructions, never in the
// middle of one. `++instances` in C++ would be free to be a load, an addition and a store: a handler in between would
// take the same number (mutant 1).
// A thread's first instance is its TSC when it begins: ids of threads are used again, and a later thread with the id of
// one that ended begins above all that this one has used, as an event takes more than one cycle. That first value is
// put in place by a compare-and-swap from 0, as a handler may come first: with a store, what it has used would be used
// again (mutant 2).
//
// Ring 0 has no thread-local storage, and code there may be moved to another CPU between the reading of a CPU's number
// and the use of its counter. There Sink::author takes the instance from a per-CPU variable, by the same instruction
// with a segment prefix (`xadd %rax, %gs:instances`): the CPU is found and its counter raised in one, which no
// interrupt, exception or NMI divides. Every CPU's counter begins with its own number in the upper 16 bits, so that
// instances are unique by themselves, whatever `thread` says.
//
//
// PSEUDOCODE
//
//   append(data):
//     as long as there is more of it:
//       staged is full (an ordinary event's most before the first fragment, a fragment's most after): fragment(more)
//       stage as much of it as fits
//   fragment(end):
//     first one: {thread, instance} = author(), an xadd; begun = rdtsc
//     one before it was lost, and end == more: ++index, and nothing else                   P1
//     write {head, the first bytes staged}; lost: remember it
//     ++index
//   commit():
//     no fragment was written or lost: an ordinary event of what is staged
//     else: fragment(last), unless nothing was written                                     P1
//   drop():
//     fragments were written: fragment(abandoned) without bytes                            P3
#pragma once

#include "cloister/core/lane.hpp"

namespace cloister::core {

inline constexpr u32 kFragmentId = ~u32{0};  // of the class cloister:fragment, in every channel

enum class FragmentEnd : u32 { more = 0, last = 1, abandoned = 2 };

struct FragmentHead {
    u64 instance, begun;
    u32 thread, id, index, end, bytes;
};
inline constexpr u32 kFragmentHead = 36;  // bytes, of which sizeof(FragmentHead) would make 40
static_assert(offsetof(FragmentHead, bytes) + sizeof(u32) == kFragmentHead);

}  // namespace cloister::core
