// Signals as the kernel has them on x86-64, where libc hides it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cloister::tracepoint {

// struct sigaction of rt_sigaction(2): arch/x86/include/uapi/asm/signal.h.
struct KernelAction {
    void* handler;
    std::uint64_t flags;
    void* restorer;
    std::uint64_t mask;
};

// What the kernel pushes for a signal: struct rt_sigframe of arch/x86/include/asm/sigframe.h. Up to siginfo all of it
// is ABI: the handler's third argument points to what begins with uc_flags, and sigreturn reads it.
struct SignalFrame {
    std::uint64_t restorer;
    std::uint64_t uc_flags, uc_link, uc_stack[3];
    std::uint64_t registers[15];  // r8 to rcx of struct sigcontext
    std::uint64_t sp, ip, flags, segments, err, trapno, oldmask, cr2, fpstate, reserved[8];
    std::uint64_t mask;  // what was blocked before
    std::int32_t signal, error, code;
};
static_assert(offsetof(SignalFrame, sp) == 8 + 40 + 15 * 8 && offsetof(SignalFrame, mask) == 8 + 296 &&
              offsetof(SignalFrame, signal) == 8 + 304);

// Whether the code at the address is what a signal handler returns to: every restorer is the same two instructions, by
// which libgcc's unwinder and gdb know it too. Async-signal-safe; the address may be any.
[[nodiscard]] bool is_restorer(std::uintptr_t address);

}  // namespace cloister::tracepoint
