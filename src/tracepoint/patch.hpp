// Patching of text: turns the NOPs of many sites into jumps, or back, while other threads run through them.
//
// A site is five bytes anywhere in the text, aligned to nothing:
//
//     off   0f 1f 44 00 00    nopl 0x0(%rax,%rax,1)
//     on    e9 rel32          jmp to the code out of line, which jumps back behind the site
//
// Roles
//   patcher   one at a time (the registry's lock, held over fork too), in ordinary code
//   runner    any thread or signal handler, the patcher's own included, that comes to a site at any time
//   handler   of SIGTRAP, on a runner that has executed a breakpoint byte (trap.hpp)
//
// Guarantees
//   P1  at every moment a runner behaves as if the site were wholly off or wholly on
//   P2  once apply() has returned, every runner that comes to a site finds it as it was asked for
//   P3  text is never writable for a runner; the child of a fork has text of its own
//   P4  if apply() fails, some sites may be off, some on, and some have kept a breakpoint byte; these behave as their
//       class's `on` says, only slower. The registry sets `on` back and calls apply() again
//
// Protocol, that of the kernel's text_poke_bp (arch/x86/kernel/alternative.c); one pass over all sites in each phase:
//
//   phase          bytes            what a runner makes of them
//   0              old old old old old      the old instruction
//   1 breakpoints  cc  old old old old      traps; the handler does what the class's `on` says, the new state
//     barrier                               ... on every core, so nobody is about to execute a mixture of old first and
//                                           new tail bytes
//   2 tails        cc  new new new new      traps; in whatever order the four bytes become visible
//     barrier                               nobody can see a new first byte with an old tail
//   3 first bytes  new new new new new      the new instruction
//     barrier                               nobody executes the old one, or traps, any more (P2)
//
// Why a breakpoint byte, and not one store of all five: Intel's manual (SDM vol. 3, "Handling Self- and Cross-Modifying
// Code") lets no processor execute bytes that another one is changing, unless both synchronize; a breakpoint in the
// first byte is what the kernel relies on. AMD's manual (APM vol. 2, 7.6.1) allows one aligned store of eight bytes,
// but that takes a second, writable mapping of the page, which a private page of a file cannot have; the write through
// /proc/self/mem, which leaves the mapping as it is, copies bytes in no particular order.
//
// Why not only that: a breakpoint is delivered as SIGTRAP, and the kernel kills a thread that has it blocked. So before
// phase 1 two things are looked at: whether a thread has SIGTRAP blocked (SigBlk in /proc/self/task/*/status), and
// whether a handler would run with it blocked (its sa_mask). If either is so, pages are exchanged instead:
//
//   for each run of pages with sites: map the same pages of the same file elsewhere, copy the text as it is now, change
//   the sites, make it executable, and mremap it over the old pages; at the end, barrier
//
// mremap holds the lock of the address space: a runner that comes to the page in between waits in a page fault, on
// either side it finds whole instructions (P1 without any trap). A site that crosses into the next page is in one run
// with it, and between the removal of both old pages (with their TLB entries, on all cores) and the arrival of the new
// ones there is nothing to execute. Nothing that a program does with its signals can go wrong here; it costs some
// microseconds a page in place of one a site, and is taken too where /proc/self/mem cannot be written.
//
// Left over: a thread that blocks SIGTRAP in the time between the look and the end of phase 3 (some 20 us and 1 us a
// site), *and* comes to one of the sites in it, is killed. Who blocked it before is seen.
//
// Memory orders
//   id  site                        operation                     pairs with  if it were weaker
//   P-a class.on, before phase 1    store release                 P-b         the handler would go the wrong way
//   P-b handler, class.on           load acquire                  P-a         the same
//   P-c between the phases          membarrier SYNC_CORE          runners     a core could execute a mixture of bytes
//   P-d table of sites (trap.hpp)   store release, load acquire   each other  the handler would not know the site
#pragma once

#include <cloister/trace.h>

#include <array>
#include <span>
#include <vector>

#include "base/error.hpp"
#include "tracepoint/text.hpp"

namespace cloister::tracepoint {

// A site, and what it is to become.
[[nodiscard]] Change change(const cloister_site& site, bool on);

// Whether its bytes are, at this moment, the jump.
[[nodiscard]] bool is_on(const cloister_site& site);

// The three phases, one by one; the barriers are the caller's. apply() is what everyone but their test wants.
[[nodiscard]] Result<void> write_breakpoints(const Text& text, std::span<const Change> changes);
[[nodiscard]] Result<void> write_tails(const Text& text, std::span<const Change> changes);
[[nodiscard]] Result<void> write_first_bytes(const Text& text, std::span<const Change> changes);

enum class Way { breakpoints, pages };

// Makes all sites what their class's `on` says. Those that are already are left alone. Under the registry's lock.
// Returns the way it went. The error: text that is neither off nor on (someone else patches it too), or that cannot be
// written in either way.
[[nodiscard]] Result<Way> apply(std::span<const cloister_site* const> sites);

}  // namespace cloister::tracepoint
