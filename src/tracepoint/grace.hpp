// Grace periods: replacing what events read, and freeing the old version when nobody can be reading it any more.
//
// What is replaced: the probe list and the filter of each class. Each is an immutable block of memory; the class points
// to it. Events read the pointers and use what they point to from enter() to leave() (threads.hpp), in any context.
//
// Roles
//   reader       an event. No atomic read-modify-write, no fence, no system call; it may be interrupted anywhere and
//   left
//                by longjmp, and its thread may end inside it
//   writer       holds the registry's lock (so never a signal handler): publishes a new block, retires the old one
//   synchronize  waits until no reader can hold a block that was retired before; then frees those
//
// Protocol. `period` counts synchronizations, from 1.
//   reader                                   synchronize
//     entry.period = period         (G1)       membarrier                                    (G3)
//     block = class.pointer         (G2)       period = now = period + 1
//     ... use the block ...                    membarrier
//     entry.period = 0              (G5)       for each entry of each thread: wait until its period is 0 or >= now (G4)
//                                              free what was retired before
//
// Claim: a reader whose period was found to be 0 or >= now holds no block that was retired before.
//   - It was 0 because the reader has not yet done G1, as others see it. At the second membarrier its thread was then
//     before G1's store became visible, or had not executed it; membarrier acts as a full fence on it, so its load G2
//     comes after the membarrier, hence after the new pointers were published. It holds a new block.
//   - It was 0 because the reader has done G5: release, so it has finished with its block.
//   - It was >= now: the reader loaded `period` after it was raised, so after the new pointers were published; G2 comes
//     later in program order. It holds a new block.
//   A reader with a smaller period may have either; it is waited for.
// One flip is enough, since a period is never used twice (64 bits).
//
// Readers that never come to G5
//   - left by longjmp: their mark (threads.hpp) is overwritten sooner or later by the thread's next calls, as that of a
//     live frame never is. synchronize() looks at the mark and goes on when it is no more. Until then it waits.
//   - the thread has ended: synchronize() asks the kernel.
//   - the process has forked: the child has only the calling thread; forget_other_threads().
//   - the reader waits for the synchronizing thread, or is that thread: an error, after 10 s or at once.
//
// Memory orders
//   id  site                          operation       pairs with  if it were weaker
//   G1  enter(), entry.period         store relaxed   G3          (the membarrier on the other side is what orders it)
//   G2  fire, class.probes, .filter   load acquire    G6          the block would be read before its contents
//   G3  synchronize, both sides       membarrier      G1, G2      a reader that is about to read would be overlooked
//   G4  synchronize, entry.period     load acquire    G5          the block would be freed under its last uses
//   G5  leave(), entry.period         store release   G4          the same
//   G6  publish(), class pointers     store release   G2          as G2
#pragma once

#include <atomic>
#include <cstdint>

#include "base/error.hpp"

namespace cloister::tracepoint {

extern std::atomic<std::uint64_t> period;

// Publishes a block and retires the one that was there. Under the registry's lock.
void publish(const void*& pointer, const void* block);  // both from malloc, or null

// Frees all that was retired, once no reader can hold it. Not under the registry's lock: probes may be slow.
// The error: a thread did not come out of its probe within the time limit; or the caller is in a probe itself.
[[nodiscard]] Result<void> synchronize(std::uint64_t limit_ns = 10'000'000'000);

// How much is retired. Under the registry's lock.
[[nodiscard]] std::size_t retired();

}  // namespace cloister::tracepoint
