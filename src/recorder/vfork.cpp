#include "recorder/vfork.hpp"

#include <sys/auxv.h>
#include <sys/rseq.h>
#include <sys/syscall.h>

#include <sched.h>
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>

#include "tracepoint/threads.hpp"

extern "C" {
// What is to be called, and what to register with afterwards (0: nothing), in rax and rdx.
struct CloisterVforkBegin {
    std::uint64_t call, bytes;
};
[[gnu::visibility("hidden"), gnu::used]] CloisterVforkBegin cloister_vfork_begin();
[[gnu::visibility("hidden"), gnu::used]] long cloister_vfork_end(long result, std::uint64_t bytes);
// AddressSanitizer's, if the program has it: forgets what the child has left on the stack.
[[gnu::weak]] void __asan_handle_vfork(void* stack);
}

// pid_t vfork(void). What it needs after the call is in registers that the kernel keeps (all but rax, rcx, r11): r8 the
// caller's address, r9 the bytes. clone takes its flags in rdi and looks at nothing else for these; vfork at nothing.
asm(".pushsection .text\n"
    ".globl vfork\n"
    ".type vfork, @function\n"
    "vfork:\n"
    ".cfi_startproc\n"
    "endbr64\n"
    "subq $8, %rsp\n"
    ".cfi_adjust_cfa_offset 8\n"
    "call cloister_vfork_begin\n"
    "addq $8, %rsp\n"
    ".cfi_adjust_cfa_offset -8\n"
    "movq %rdx, %r9\n"
    "popq %r8\n"
    ".cfi_adjust_cfa_offset -8\n"
    ".cfi_register rip, r8\n"
    "movl $0x4011, %edi\n"  // CLONE_VFORK | SIGCHLD
    "xorl %esi, %esi\n"     // clone's stack: this one
    "syscall\n"
    "testq %rax, %rax\n"
    "jz 1f\n"
    "pushq %r8\n"
    ".cfi_adjust_cfa_offset 8\n"
    ".cfi_offset rip, -8\n"
    "movq %rax, %rdi\n"
    "movq %r9, %rsi\n"
    "jmp cloister_vfork_end\n"
    "1:\n"
    ".cfi_adjust_cfa_offset -8\n"
    ".cfi_register rip, r8\n"
    "jmp *%r8\n"
    ".cfi_endproc\n"
    ".size vfork, .-vfork\n"
    ".popsection\n");
static_assert((CLONE_VFORK | SIGCHLD) == 0x4011);

namespace cloister::recorder {
namespace {

std::atomic<std::ptrdiff_t> offset;        // from the thread pointer to struct rseq
std::atomic<std::uint32_t> registered_as;  // bytes, the C library's; 0: no recorder

// Not syscall(3): errno is the caller's until vfork has failed.
long rseq_call(void* area, std::uint64_t bytes, long flags) {
    register long signature asm("r10") = RSEQ_SIG;
    long result = SYS_rseq;
    asm volatile("syscall" : "+a"(result) : "D"(area), "S"(bytes), "d"(flags), "r"(signature) : "rcx", "r11", "memory");
    return result;
}

rseq* area_of_thread() {
    return reinterpret_cast<rseq*>(static_cast<char*>(__builtin_thread_pointer()) +
                                   offset.load(std::memory_order_relaxed));
}

bool is_registered(const rseq& area) {
    return static_cast<std::int32_t>(__atomic_load_n(&area.cpu_id, __ATOMIC_RELAXED)) >= 0;
}

}  // namespace

void protect_vfork(std::ptrdiff_t from_thread_pointer) {
    constexpr std::uint32_t kFirst = sizeof(rseq), kMost = 1024;  // rseq(2): in steps of its alignment
    offset.store(from_thread_pointer, std::memory_order_relaxed);
    std::uint32_t bytes = kFirst;
    // The C library does not say with how many bytes it has registered (__rseq_size is how many of them are in use),
    // but the kernel does: EBUSY is for exactly what is registered already. All threads have the same.
    rseq* area = area_of_thread();
    if (is_registered(*area))
        while (bytes <= kMost && rseq_call(area, bytes, 0) != -EBUSY) bytes += kFirst;
    registered_as.store(bytes <= kMost ? bytes : kFirst, std::memory_order_release);
}

}  // namespace cloister::recorder

using namespace cloister::recorder;

CloisterVforkBegin cloister_vfork_begin() {
    const std::uint32_t bytes = registered_as.load(std::memory_order_acquire);
    if (bytes == 0) return {SYS_vfork, 0};
    // Claimed by the child it would have the child's id, and be taken for that of a thread that has ended.
    if (!cloister::tracepoint::current) (void)cloister::tracepoint::claim();
    rseq* area = area_of_thread();
    if (!is_registered(*area)) return {SYS_vfork, 0};
    if (rseq_call(area, bytes, RSEQ_FLAG_UNREGISTER) != 0) return {SYS_clone, 0};
    return {SYS_vfork, bytes};
}

long cloister_vfork_end(long result, std::uint64_t bytes) {
    if (bytes != 0) {
        rseq* area = area_of_thread();
        area->rseq_cs = 0;  // of a child that was killed in a sequence
        (void)rseq_call(area, bytes, 0);
    }
    if (__asan_handle_vfork) __asan_handle_vfork(__builtin_frame_address(0));
    if (result >= 0) return result;
    errno = static_cast<int>(-result);
    return -1;
}
