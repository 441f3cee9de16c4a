// The handler of SIGTRAP: what a thread does that has executed the breakpoint byte of a site which is being patched.
//
// The processor is behind the byte (rip = site + 1). The handler looks the site up and continues as the finished
// instruction would: at site + 5 if its class is becoming off, at the code out of line if it is becoming on. It does
// not ask whether a patch is under way: a thread may have executed the byte and be delivered the signal much later.
//
// Every other SIGTRAP belongs to someone else, and goes on to the action that was there before, under that action's
// mask (but for SIGTRAP itself: that handler may have tracepoints too): a handler is called; the default and SIG_IGN
// are what the kernel would have made of them. It is installed at the first patch, for good. A program that installs
// its own handler later takes it away; the next patch takes it back, with the program's handler behind it. If that
// handler in turn calls the one that it has replaced, which is ours, it gets to the first one, and not back to itself:
// ours sees that it was not the kernel who called.
//
// Roles: handlers read the table of sites and the chain; the registry replaces both, and frees the old ones when no
// handler is in flight. A handler does take an atomic read-modify-write: it has cost a trap already.
#pragma once

#include <cloister/trace.h>

#include <vector>

#include "base/error.hpp"

namespace cloister::tracepoint {

// The sites of all registered modules. Returns when no handler uses the old ones. Under the registry's lock.
void know_sites(std::vector<const cloister_site*> sites);

// Makes SIGTRAP ours, if it is not. Under the registry's lock.
[[nodiscard]] Result<void> take_traps();

// In the child of a fork: handlers that other threads were in are not there.
void forget_other_handlers();

// No thread has SIGTRAP blocked, and no handler that is installed would run with it blocked.
[[nodiscard]] bool traps_are_safe();

}  // namespace cloister::tracepoint
