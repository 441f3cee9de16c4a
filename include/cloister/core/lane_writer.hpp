// Writing an event into a lane: the restartable sequence, in line. lane.hpp is the specification.
//
// Every sequence here obeys: no call, no push, no syscall; cpu_id is read inside; nothing stands between the store of
// rseq_cs and the start label; registers that carry inputs are not written, so that an abort can begin again; the word
// that steers it is loaded before rdtsc and compared in registers; rseq_cs is cleared after the commit, else it would
// point into this code when it is unmapped (dlclose) and another sequence has not been entered.
// ABI: rseq(2); the area lies at thread pointer + __rseq_offset (glibc 2.35). Sections and the `ud1` before the
// signature are those that debuggers and checkpointers know (librseq).
#pragma once

#include "cloister/core/lane.hpp"

// From the thread pointer to the thread's struct rseq: set once, before any View has CPUs.
extern "C" {
[[gnu::visibility("hidden")]] extern std::ptrdiff_t cloister_rseq_offset;
// Makes room behind a lane that is about to be used for the first time (`cpu` == View::cpus: the spill lane): false if
// there is none. Async-signal-safe. Null: all lanes have it.
[[gnu::visibility("hidden")]] extern bool (*cloister_populate_lane)(const cloister::core::View& view,
                                                                    cloister::core::u32 cpu);
}

// `asm goto` has no outputs here (Clang 14 gives garbage on the goto path), and "?" keeps a descriptor in the group of
// the inline function that it belongs to (else two units with the same function do not link).
#define CLOISTER_RSEQ_BEGIN                                                         \
    ".pushsection __rseq_cs, \"aw?\", @progbits\n.balign 32\n"                      \
    "3: .long 0, 0\n.quad 1f, 2f - 1f, 4f\n.popsection\n"                           \
    ".pushsection __rseq_cs_ptr_array, \"aw?\", @progbits\n.quad 3b\n.popsection\n" \
    "leaq 3b(%%rip), %%rax\n"                                                       \
    "movq %%rax, %%fs:8(%[rseq])\n" /* rseq_cs */                                   \
    "1:\n"
#define CLOISTER_RSEQ_END                                            \
    "2:\n"                                                           \
    "movq $0, %%fs:8(%[rseq])\n"                                     \
    ".pushsection __rseq_failure, \"ax?\", @progbits\n"              \
    ".byte 0x0f, 0xb9, 0x3d\n.long 0x53053053\n" /* ud1, RSEQ_SIG */ \
    "4: jmp %l[again]\n.popsection\n"

// rdi: the descriptor, r8: its commit word, rcx: the lane, rsi: the descriptor's number (W1, W2).
#define CLOISTER_FIND_DESCRIPTOR                                                          \
    "movl %%fs:4(%[rseq]), %%ecx\n" /* cpu_id */                                          \
    "cmpl 0(%[view]), %%ecx\n"      /* View::cpus: also catches what is not registered */ \
    "jae %l[slow]\n"                                                                      \
    "imulq 16(%[view]), %%rcx\n" /* View::stride */                                       \
    "addq 8(%[view]), %%rcx\n"   /* View::lanes */                                        \
    "movzwl (%%rcx), %%esi\n"    /* active.descriptor */                                  \
    "cmpl 4(%[view]), %%esi\n"   /* View::descs */                                        \
    "jae %l[slow]\n"                                                                      \
    "movl %%esi, %%edi\n"                                                                 \
    "shlq $6, %%rdi\n"                                                                    \
    "leaq 64(%%rcx, %%rdi), %%rdi\n"                                                      \
    "movq (%%rdi), %%r8\n"
// rax: now.
#define CLOISTER_READ_CLOCK \
    "rdtsc\n"               \
    "shlq $32, %%rdx\n"     \
    "orq %%rdx, %%rax\n"
// r9: the clock's high part; the flags: it against that of the commit word.
#define CLOISTER_COMPARE_HIGH \
    "movq %%rax, %%r9\n"      \
    "shrq %[bits], %%r9\n"    \
    "movq %%r8, %%rdx\n"      \
    "shrq $32, %%rdx\n"       \
    "cmpl %%edx, %%r9d\n"
// rsi: where the event goes; r8d: what is left after it. An event begins at a multiple of 4 and ends at its last byte.
// Both bounds: a hostile `left` must not lead out of the lane.
#define CLOISTER_FIND_ROOM                            \
    "andl $-4, %%r8d\n"                               \
    "cmpq 32(%[view]), %%r8\n" /* View::size */       \
    "ja %l[slow]\n"                                   \
    "imulq 32(%[view]), %%rsi\n"                      \
    "addq 24(%[view]), %%rsi\n" /* View::first_end */ \
    "addq %%rcx, %%rsi\n"                             \
    "subq %%r8, %%rsi\n"                              \
    "subl %[need], %%r8d\n"                           \
    "jb %l[slow]\n"

#define CLOISTER_SHORT_HEADER \
    "shll $5, %%eax\n"        \
    "orl %[id], %%eax\n"      \
    "movl %%eax, (%%rsi)\n"
// The staged payload to `at`(rsi), from its end to its begin; [bytes] is a multiple of 4.
#define CLOISTER_COPY_PAYLOAD(at)       \
    "movl %[bytes], %%ecx\n"            \
    "5:\n"                              \
    "subl $8, %%ecx\n"                  \
    "jb 6f\n"                           \
    "movq (%[payload], %%rcx), %%rdx\n" \
    "movq %%rdx, " at                   \
    "(%%rsi, %%rcx)\n"                  \
    "jmp 5b\n"                          \
    "6:\n"                              \
    "testl $4, %%ecx\n"                 \
    "jz 7f\n"                           \
    "movl (%[payload]), %%edx\n"        \
    "movl %%edx, " at                   \
    "(%%rsi)\n"                         \
    "7:\n"
// W3. r9: the clock's high part, r8: what is left.
#define CLOISTER_COMMIT \
    "shlq $32, %%r9\n"  \
    "orq %%r9, %%r8\n"  \
    "movq %%r8, (%%rdi)\n" CLOISTER_RSEQ_END

namespace cloister::core {

enum class Wrote : u8 {
    done,
    dropped,  // no room (of a lane: in discard mode only): counted in the lane
    too_big,  // more than Shape::largest(): the caller splits it
    no_lane,  // a child of fork, no rseq and no spill lane either, the lane is broken, or it has no memory
};

// Everything that is not the fast path: opens sub-buffers, writes long headers, counts drops, and has threads without
// rseq write to the spill lane. `payload` must not fault. Async-signal-safe; waits for nobody.
[[nodiscard]] Wrote write_slow(const View& view, u32 id, const void* payload, u32 bytes);

// To the spill lane, from any thread (spill.hpp). Else as write_slow().
[[nodiscard]] Wrote write_spill(const View& view, u32 id, const void* payload, u32 bytes);

inline constexpr u32 padded(u32 bytes) { return (bytes + 3) & ~3U; }

// An event of two 8-byte words, straight from registers.
[[nodiscard, gnu::always_inline]] inline Wrote write_pair(const View& view, u32 id, u64 first, u64 second) {
again:
    if (__builtin_expect(id >= kCompactIds, 0)) goto slow;
    asm goto(CLOISTER_RSEQ_BEGIN CLOISTER_FIND_DESCRIPTOR CLOISTER_READ_CLOCK CLOISTER_COMPARE_HIGH
             "jne %l[slow]\n" CLOISTER_FIND_ROOM CLOISTER_SHORT_HEADER
             "movq %[first], 4(%%rsi)\n"
             "movq %[second], 12(%%rsi)\n" CLOISTER_COMMIT
             :
             : [rseq] "r"(cloister_rseq_offset), [view] "r"(&view), [id] "ri"(id), [first] "r"(first),
               [second] "r"(second), [need] "i"(kShortHeader + 16), [bits] "i"(kTimeBits)
             : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "memory", "cc"
             : again, slow);
    return Wrote::done;
slow:
    const u64 words[2] = {first, second};
    return write_slow(view, id, words, sizeof words);
}

// An event whose payload is staged at `payload`: at most Shape::largest() - kLongHeader bytes, which must not fault
// when read (a fault inside of the sequence would abort it for ever), nor must those that follow up to a multiple of 4.
[[nodiscard, gnu::always_inline]] inline Wrote write_staged(const View& view, u32 id, const void* payload, u32 bytes) {
    const u32 need = kShortHeader + bytes;
again:
    if (__builtin_expect(id >= kCompactIds, 0)) goto slow;
    asm goto(CLOISTER_RSEQ_BEGIN CLOISTER_FIND_DESCRIPTOR CLOISTER_READ_CLOCK CLOISTER_COMPARE_HIGH
             "jne %l[slow]\n" CLOISTER_FIND_ROOM CLOISTER_SHORT_HEADER CLOISTER_COPY_PAYLOAD("4") CLOISTER_COMMIT
             :
             : [rseq] "r"(cloister_rseq_offset), [view] "r"(&view), [id] "ri"(id), [payload] "r"(payload),
               [bytes] "r"(padded(bytes)), [need] "r"(need), [bits] "i"(kTimeBits)
             : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "memory", "cc"
             : again, slow);
    return Wrote::done;
slow:
    return write_slow(view, id, payload, bytes);
}

}  // namespace cloister::core
