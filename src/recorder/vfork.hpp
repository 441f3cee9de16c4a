// vfork(3) for programs that record: the child's events go to the spill lanes, and so do those of its parent's signal
// handlers until the parent runs on.
//
// Why. A child of vfork runs on its parent's memory, the thread's own included, while the parent sleeps. rseq(2) is not
// inherited with it (Linux: rseq_fork, CLONE_VM), but the parent's struct rseq is what the child sees: it reads the
// number of a CPU on which the parent was once, and nothing restarts its sequences. It would write into the lane of a
// CPU that others are writing to. So the parent unregisters before: that makes its cpu_id -1, which every writer takes
// for "no CPU" (lane.hpp), and registers again when it is back.
//
//   parent   cloister_vfork_begin   a slot for the thread's tracepoints, which the child shares; unregister
//            vfork                  returns twice; no instruction between needs the stack, which the child uses
//   child    back to the caller, by a jump: a `ret` would take the entry from a shadow stack that the parent needs
//   parent   cloister_vfork_end     register again; errno
//
// A signal handler may write events between any two of these instructions, in either process. In the parent after
// `begin`, and in the child, they are spilt. A handler that leaves by longjmp in between leaves its thread
// unregistered: it goes on spilling.
//
// Where the kernel refuses to unregister (a seccomp filter), the child gets memory of its own, clone(CLONE_VFORK)
// without CLONE_VM: the parent sleeps as long, and the child is one of fork, whose events are refused and counted.
// Where nothing is registered (rseq turned off, a vfork within the child of one) or no recorder has been made, it is
// vfork and nothing else.
//
// The program's own `vfork` stands before the C library's, also for its shared libraries. posix_spawn, system and popen
// do not call it: their children run nothing but the C library, with all signals blocked. Not covered: clone(CLONE_VM)
// by hand without a thread pointer of its own (CLONE_SETTLS), which has no way to be told from its parent, and vfork
// by a bare system call, and vfork in programs that the recorder was preloaded into, as that library exports nothing.
// Do not fire events there.
#pragma once

#include <cstdint>

namespace cloister::recorder {

// Before the first event of a recorder: from now on vfork() does as above. `offset`: from a thread pointer to its
// struct rseq.
void protect_vfork(std::ptrdiff_t offset);

}  // namespace cloister::recorder
