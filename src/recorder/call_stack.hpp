// The call stack of an event, taken in whatever context the event happens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace cloister::recorder {

inline constexpr std::size_t kMostCalls = 32;

// Return addresses into `out`, innermost first, and how many. `frame`: {caller's frame pointer, return address} of a
// function that was called by the one whose return address comes first (cloister_event::frame).
//
// It follows frame pointers, through signal frames as well: there the handler's return address, that of the C library's
// restorer, is followed by where the program was interrupted (no return address). It ends where a frame pointer does not
// lead further out, as in code that was compiled without. Stack memory is read by the kernel (read_memory.hpp), so that
// no frame pointer, whatever it is, leads to a fault; for each half KiB of stack that takes a system call. Where a sandbox
// forbids that one the stack is empty. Async-signal-safe; changes errno.
[[nodiscard]] std::size_t call_stack(const void* frame, std::span<std::uint64_t> out);

}  // namespace cloister::recorder
