// The recursion word: who must not be shown an event, since it comes from inside that very tracer.
//
// A tracer (a recorder, say) is a bit of [0, 64). While one of its probes runs, its bit is set in the word of that
// event's entry (threads.hpp). An event that happens then is not shown to the tracer, but counted, if it is the
// tracer's own doing:
//
//   R1  the probe runs into a tracepoint, however deep in calls: broken off
//   R2  the probe faults or traps (SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS with a positive si_code), and the
//       handler runs into a tracepoint, on whatever stack: broken off. The signal is synchronous; shown to the tracer,
//       its probe would fault again, without end
//   R3  an asynchronous signal (timer, kill, tgkill, I/O) interrupts the probe, and the handler runs into a tracepoint,
//       on whatever stack: shown. It has nothing to do with the probe, and is what a flight recorder is for
//   R4  as R3, and the probe that is then called does R1 or R2: broken off
//   R5  other tracers, in R1 and R2: shown
//
// So there is one word for each stack of control: the thread's own, and one for each asynchronous signal handler on top
// of it. The words need no room of their own: they are the entries that lie above the last asynchronous signal frame.
//
// An event that finds depth 0 has nothing to ask; that is all that it costs the others. At another depth busy() walks
// the stack from the event outwards to the entry's mark. It looks for signal frames: what the kernel has pushed lies
// between two frames (on the same stack or, with sigaltstack, at the upper end of the other), and says which signal it
// was and where the interrupted stack goes on. Only in such a walk is stack memory read, by process_vm_readv, which
// cannot fault.
//
// What cannot be told is taken as R1 (the event is broken off and counted, never the other way round):
//   - a handler without SA_SIGINFO whose sa_mask holds synchronous signals too: the kernel does not say which it was
//   - an event that was left by longjmp, while the thread is deeper in its stack than the mark without having
//     overwritten it
//   - a mark more than 256 KiB away, or where process_vm_readv is forbidden
// The remains of an old signal frame, in a part of a live frame that was not written since, can be taken for a real
// one. Then R1 and R2 are shown once too often, at most kDepth times in a row.
//
// Entries of events that were left by longjmp are found and dropped here: their mark is overwritten, or lies on the
// part of the stack that the walk shows to be free. A tracer's handler must not switch to another user-level context
// (swapcontext) out of a probe: its entry would be dropped as well.
#pragma once

#include <cstdint>

#include "tracepoint/threads.hpp"

namespace cloister::tracepoint {

// The tracers that must not be shown an event that happens at `here`, an address in the event's frame.
// Async-signal-safe; takes some microseconds.
[[nodiscard]] std::uint64_t busy(Thread& thread, const void* here);

// Whether the event of an entry was certainly left by longjmp: its mark is no more. Any thread may ask.
[[nodiscard]] bool is_left(const Entry& entry);

}  // namespace cloister::tracepoint
