// The core without a C library: no startup files, no allocation, its own thread pointer and its own registration for
// rseq(2). Writes events across several laps, then one that takes two fragments; reads them back in place, and exits
// with 0 if they are what was written.
#include "cloister/core/lane_reader.hpp"
#include "cloister/core/lane_writer.hpp"
#include "cloister/core/staged_event.hpp"

using namespace cloister::core;

// What compilers may call, and everyone has to have.
extern "C" void* memcpy(void* to, const void* from, std::size_t bytes) {
    void* at = to;
    asm volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(bytes) : : "memory");
    return to;
}

namespace {

constexpr Shape kShape{.slots = 4, .size = 4096, .mode = Mode::overwrite};
constexpr u32 kCpus = 64;
alignas(kPage) u8 memory[kCpus * kShape.bytes()];

// struct rseq of linux/rseq.h. The thread pointer points at it, so its offset is 0.
struct alignas(32) Area {
    u32 cpu_id_start = 0, cpu_id = static_cast<u32>(-1);
    u64 rseq_cs = 0;
    u32 flags = 0, node_id = 0, mm_cid = 0, reserved = 0;
};
Area area;

long syscall(long number, long a, long b = 0, long c = 0, long d = 0) {
    register long r10 asm("r10") = d;
    long result = number;
    asm volatile("syscall" : "+a"(result) : "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
    return result;
}
constexpr long kExit = 60, kArchPrctl = 158, kSetFs = 0x1002, kRseq = 334, kSignature = 0x53053053;

u64 word_at(const u8* data) {
    u64 word = 0;
    for (u32 b = 0; b < 8; ++b) word |= u64{data[b]} << 8 * b;
    return word;
}

int run() {
    if (syscall(kArchPrctl, kSetFs, reinterpret_cast<long>(&area)) != 0) return 10;
    if (syscall(kRseq, reinterpret_cast<long>(&area), sizeof area, 0, kSignature) != 0) return 11;
    cloister_rseq_offset = 0;
    const View view = view_of(kShape, reinterpret_cast<u64>(memory), kShape.bytes(), kCpus);
    constexpr u64 kEvents = 5000;
    for (u64 n = 0; n < kEvents; ++n)
        if (write_pair(view, n % 3 ? 1 : 40, n, ~n) != Wrote::done) return 12;
    u64 seen = 0, newest = 0;
    for (u32 cpu = 0; cpu < kCpus; ++cpu) {
        const u8* lane = memory + kShape.bytes() * cpu;
        for (u32 i = 0; i < kShape.slots; ++i) {
            SubBuffer at;
            if (!look(lane, kShape, i, at)) continue;
            u64 before = 0;
            for (u32 pos = kPacketHeader; pos < at.content; pos += 16, ++seen) {
                pos += (at.data[pos] & 31) == 31 ? kLongHeader : kShortHeader;
                const u64 n = word_at(at.data + pos);
                if (word_at(at.data + pos + 8) != ~n || (before && n <= before)) return 13;
                before = n;
                newest = n > newest ? n : newest;
            }
            if (!still(lane, kShape, at)) return 14;
        }
    }
    return newest == kEvents - 1 && seen > 400 ? 0 : 15;
}

Author author;
Authorship next_authorship() { return next_of(author); }

// The last two fragments of the lane that they are in are those of an event of twice a fragment's size.
int run_large() {
    const View view = view_of(kShape, reinterpret_cast<u64>(memory), kShape.bytes(), kCpus);
    introduce(author, 7, __builtin_ia32_rdtsc());
    constexpr u32 kWords = 200;
    StagedEvent event(sink_of(view, next_authorship), 3);
    for (u64 n = 0; n < kWords; ++n)
        if (event.append(&n, sizeof n) != Wrote::done) return 20;
    if (event.commit() != Wrote::done) return 21;
    u64 bytes = 0;
    u32 fragments = 0;
    for (u32 cpu = 0; cpu < kCpus; ++cpu)
        for (u32 i = 0; i < kShape.slots; ++i) {
            SubBuffer at;
            if (!look(memory + kShape.bytes() * cpu, kShape, i, at)) continue;
            for (u32 pos = kPacketHeader; pos < at.content;) {
                const bool is_long = (at.data[pos] & 31) == 31;
                if (!is_long || word_at(at.data + pos) >> 32 != kFragmentId) {
                    pos += (is_long ? kLongHeader : kShortHeader) + 16;
                    continue;
                }
                FragmentHead head;
                memcpy(&head, at.data + pos + kLongHeader, kFragmentHead);
                if (head.thread != 7 || head.id != 3 || head.index > 1 || head.end != head.index) return 22;
                ++fragments;
                // The first has 972 bytes: the word in which they end is in both.
                for (u32 b = 0; b < head.bytes; ++b, ++bytes) {
                    const u64 place = head.index * u64{kShape.largest() - kLongHeader - kFragmentHead} + b;
                    const u8 expected = place % 8 == 0 ? static_cast<u8>(place / 8) : u8{0};
                    if (at.data[pos + kLongHeader + kFragmentHead + b] != expected) return 23;
                }
                pos += padded(kLongHeader + kFragmentHead + head.bytes);
            }
        }
    return fragments == 2 && bytes == kWords * 8 ? 0 : 24;
}

}  // namespace

// Jumped to by the kernel, not called: the stack is aligned for the caller of a function, not for one.
extern "C" [[noreturn, gnu::force_align_arg_pointer]] void _start() {
    const int wrong = run();
    syscall(kExit, wrong ? wrong : run_large());
    __builtin_unreachable();
}
