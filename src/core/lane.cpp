// The slow path of a lane's writer. Freestanding. lane.hpp is the specification; its ids stand at the code.
#include "cloister/core/lane_writer.hpp"

std::ptrdiff_t cloister_rseq_offset = 0;
bool (*cloister_populate_lane)(const cloister::core::View&, cloister::core::u32) = nullptr;

namespace cloister::core {
namespace {

// A healthy lane ends a round without progress only when another thread has made some, or interrupted this one.
constexpr u32 kMostRounds = 1U << 16;

u32 cpu_id() {
    u32 cpu = 0;
    asm volatile("movl %%fs:4(%[rseq]), %[cpu]" : [cpu] "=r"(cpu) : [rseq] "r"(cloister_rseq_offset));
    return cpu;
}

u64 load(const u64* word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }

enum class Try : u8 { done, again, slow };

// The fast path's sequence with a long header; also when the high part of the clock has changed. Try::slow: no room, or
// the clock has gone back.
Try try_long(const View& view, u32 id, const void* payload, u32 bytes) {
    const u32 need = kLongHeader + bytes;
    asm goto(CLOISTER_RSEQ_BEGIN CLOISTER_FIND_DESCRIPTOR CLOISTER_READ_CLOCK CLOISTER_COMPARE_HIGH
             "jb %l[slow]\n" CLOISTER_FIND_ROOM
             "movl $31, (%%rsi)\n"
             "movl %[id], 4(%%rsi)\n"
             "movq %%rax, 8(%%rsi)\n" CLOISTER_COPY_PAYLOAD("16") CLOISTER_COMMIT
             :
             : [rseq] "r"(cloister_rseq_offset), [view] "r"(&view), [id] "r"(id), [payload] "r"(payload),
               [bytes] "r"(padded(bytes)), [need] "r"(need), [bits] "i"(kTimeBits)
             : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "memory", "cc"
             : again, slow);
    return Try::done;
again:
    return Try::again;
slow:
    return Try::slow;
}

// W8. Closes the sub-buffer of `before`, fills in `next`, and makes it the active one; only on that CPU, and only while
// `before` is what is active.
Try try_open(u32 cpu, u8* lane, Active before, Descriptor* old, Descriptor* next, Active after, u32 left) {
    const u64 number = after.number();
#if CLOISTER_LANE_MUTANT == 4
    next->commit = Commit::of(__builtin_ia32_rdtsc(), left).word;
#endif
    asm goto(
        CLOISTER_RSEQ_BEGIN
        "cmpl %%fs:4(%[rseq]), %[cpu]\n"
        "jne %l[slow]\n"
#if CLOISTER_LANE_MUTANT == 1
        "cmpw %w[before], (%[lane])\n"
#else
        "cmpq %[before], (%[lane])\n"
#endif
        "jne %l[slow]\n" CLOISTER_READ_CLOCK
        "movq 8(%[lane]), %%rdx\n"  // lost
        "movq %%rax, 24(%[old])\n"  // end
        "movq %%rdx, 40(%[old])\n"  // lost_end
        "movq %[number], 8(%[next])\n"
        "movq %%rax, 16(%[next])\n"  // begin
        "movq $0, 24(%[next])\n"     // end
        "movq %%rdx, 32(%[next])\n"  // lost_begin
        "movq %%rdx, 40(%[next])\n"  // lost_end
        "shrq %[bits], %%rax\n"
        "shlq $32, %%rax\n"
        "orq %[left], %%rax\n"
#if CLOISTER_LANE_MUTANT != 4
        "movq %%rax, (%[next])\n"  // commit
#endif
        "movq %[after], (%[lane])\n"  // active
        CLOISTER_RSEQ_END
        :
        : [rseq] "r"(cloister_rseq_offset), [cpu] "r"(cpu), [lane] "r"(lane), [before] "r"(before.word), [old] "r"(old),
          [next] "r"(next), [number] "r"(number), [after] "r"(after.word), [left] "r"(u64{left}), [bits] "i"(kTimeBits)
        : "rax", "rdx", "memory", "cc"
        : again, slow);
    return Try::done;
again:
    return Try::again;
slow:
    return Try::slow;
}

// W6. One more event lost, if this is still that CPU and that sub-buffer.
Try try_drop(u32 cpu, u8* lane, Active before) {
    asm goto(CLOISTER_RSEQ_BEGIN
             "cmpl %%fs:4(%[rseq]), %[cpu]\n"
             "jne %l[slow]\n"
             "cmpq %[before], (%[lane])\n"
             "jne %l[slow]\n"
             "movq 8(%[lane]), %%rax\n"
             "addq $1, %%rax\n"
             "movq %%rax, 8(%[lane])\n" CLOISTER_RSEQ_END
             :
             : [rseq] "r"(cloister_rseq_offset), [cpu] "r"(cpu), [lane] "r"(lane), [before] "r"(before.word)
             : "rax", "memory", "cc"
             : again, slow);
    return Try::done;
again:
    return Try::again;
slow:
    return Try::slow;
}

enum class Opened : u8 { again, dropped, broken };

// Claims the sub-buffer after `before` (or finds it claimed) and opens it. Opened::again: look once more, whoever did
// it.
Opened open_next(const View& view, u32 cpu, u8* lane, Active before) {
    const u64 number = before.number() + 1;
    const u32 index = static_cast<u32>(number) & (view.slots - 1);
    auto* word = reinterpret_cast<u64*>(lane + view.slot0) + index;
    Slot slot{load(word)};  // W5
    if (slot.number() != number) {
#if CLOISTER_LANE_MUTANT == 2
        if (slot.number() > number) return Opened::again;
#else
        if (slot.number() != (number > view.slots ? number - view.slots : 0)) return Opened::again;
#endif
        if (view.mode == static_cast<u32>(Mode::discard) && slot.number() != 0 && !slot.taken())
            return try_drop(cpu, lane, before) == Try::done ? Opened::dropped : Opened::again;
        const Slot claim = Slot::of(number, false, slot.descriptor(index), index);
#if CLOISTER_LANE_MUTANT == 2
        __atomic_store_n(word, claim.word, __ATOMIC_SEQ_CST);
#else
        u64 expected = slot.word;
        if (!__atomic_compare_exchange_n(word, &expected, claim.word, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))  // W7
            return Opened::again;
#endif
        slot = claim;
    }
    if (slot.descriptor(index) >= view.descs || before.descriptor() >= view.descs) return Opened::broken;
    auto* descriptors = reinterpret_cast<Descriptor*>(lane + kLine);
    const u32 next = slot.descriptor(index);
    (void)try_open(cpu, lane, before, descriptors + before.descriptor(), descriptors + next, Active::of(number, next),
                   static_cast<u32>(view.size) - kPacketHeader);
    return Opened::again;
}

Wrote write_rounds(const View& view, u32 id, const void* payload, u32 bytes) {
    for (u32 round = 0; round < kMostRounds;) {
        const u32 cpu = cpu_id();
        if (cpu >= view.cpus) return write_spill(view, id, payload, bytes);
        if (kLongHeader + bytes > kMaxEvent || kLongHeader + bytes > view.size / 4) return Wrote::too_big;
        auto* lane = reinterpret_cast<u8*>(view.lanes + view.stride * cpu);
        const Active before{load(reinterpret_cast<u64*>(lane))};  // W4
        if (before.number() == 0) {
            if (cloister_populate_lane && !cloister_populate_lane(view, cpu)) return Wrote::no_lane;
        } else {
            const Try written = try_long(view, id, payload, bytes);
            if (written == Try::done) return Wrote::done;
            if (written == Try::again) continue;
            // No room where this thread is now: in `before`, unless it has moved or the lane has; then opening fails.
        }
        switch (open_next(view, cpu, lane, before)) {
            case Opened::dropped:
                return Wrote::dropped;
            case Opened::broken:
                return Wrote::no_lane;
            case Opened::again:
                ++round;
        }
    }
    return Wrote::no_lane;
}

}  // namespace

Wrote write_slow(const View& view, u32 id, const void* payload, u32 bytes) {
    const Wrote wrote = write_rounds(view, id, payload, bytes);
    // A sequence that was left before its end, the caller's included, has not cleared rseq_cs.
    asm volatile("movq $0, %%fs:8(%[rseq])" : : [rseq] "r"(cloister_rseq_offset) : "memory");
    return wrote;
}

}  // namespace cloister::core
