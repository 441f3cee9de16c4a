// What the runtime knows of each thread: the events that it is inside of.
//
// An event is one call of cloister_trace_fire. Events of one thread nest: a probe may run into another tracepoint, and
// a signal handler that interrupts a probe may. Each takes an entry of its thread; the entry says since which grace
// period the event may hold a probe list (grace.hpp), and which tracer's probe it is calling (context.hpp).
//
// Roles
//   the thread itself, and signal handlers on it   write depth and entries; nested like a stack
//   synchronize(), any thread                      reads tid, claimed_ns, entries[].period and entries[].mark
//   claim(), any thread                            takes a slot by CAS on tid: from 0, or from a thread that has ended
//
// Invariants
//   T1  entries at and above depth are clear: period 0, word 0. So whoever finds depth = i may use entry i, even if the
//       code that it interrupted was about to: the interrupted code stores again what it needs after it has taken the
//       entry (the two stores of mark in enter()).
//   T2  an entry below depth belongs to an event whose frame has not been left, or was left by longjmp. The mark tells
//       which: it is a word in that frame, which only the event's regular end clears, and which the next calls
//       overwrite if the frame was left by longjmp. Entries of the latter kind are dropped when the thread's next event
//       finds them (context.cpp), when the event below them ends (leave()), or are seen through by synchronize().
//   T3  a slot belongs to the one live thread whose id is its tid. A thread that ends gives nothing back (nothing
//       async-signal-safe could tell us); its slot is taken over by the first thread that needs one.
//
// Nothing here is an atomic read-modify-write on the path of an event, once the thread has its slot.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace cloister::tracepoint {

inline constexpr std::size_t kThreads = 4096;  // that have fired an event and live at the same time
inline constexpr std::uint32_t kDepth = 8;     // events that a thread may be inside of

// A word in the frame of an event. Its value depends on its address, so that a copy of the frame is no mark.
struct Mark {
    volatile std::uint64_t word;
    [[nodiscard]] static std::uint64_t value_at(const Mark* mark) {
        return 0x636c'6f69'7374'6572U ^ reinterpret_cast<std::uintptr_t>(mark);
    }
};

struct Entry {
    std::atomic<std::uint64_t> period;  // of grace.hpp; 0: not inside
    std::atomic<Mark*> mark;
    std::atomic<std::uint64_t> word;  // the recursion word: one bit, of the tracer whose probe is being called
};

struct alignas(64) Thread {
    std::atomic<pid_t> tid;  // 0: free
    std::atomic<std::uint32_t> depth;
    std::atomic<std::uint64_t> claimed_ns;  // CLOCK_BOOTTIME
    Entry entries[kDepth];
};

// Zero bytes are free slots; pages of slots that were never used take no memory.
extern Thread threads[kThreads];
extern std::atomic<std::uint32_t> threads_used;  // slots at and above were never taken

// Initial-exec: an ordinary TLS access may allocate, which a signal handler must not.
extern constinit thread_local Thread* current __attribute__((tls_model("initial-exec")));

// This thread's slot, or null if there is none left. Async-signal-safe.
[[nodiscard]] Thread* claim();

// Whether the thread that took this slot has ended. Reads /proc.
[[nodiscard]] bool has_ended(const Thread& thread);

// Makes every event of `depth` and above not have been. Async-signal-safe; on this thread's own slot only.
void drop_from(Thread& thread, std::uint32_t depth);

// In the child of a fork: only the calling thread is left.
void forget_other_threads();

// Begins an event; null if the thread is inside of kDepth of them. `now` is the current grace period.
// Signal handlers on this thread must see the stores in order, which the fences make the compiler keep; what other
// threads see of them is ordered by the barriers of synchronize().
[[nodiscard]] inline Entry* enter(Thread& thread, Mark& mark, const std::atomic<std::uint64_t>& now) {
    const std::uint32_t depth = thread.depth.load(std::memory_order_relaxed);
    if (depth >= kDepth) return nullptr;
    Entry& entry = thread.entries[depth];
    mark.word = Mark::value_at(&mark);
    entry.mark.store(&mark, std::memory_order_relaxed);
    std::atomic_signal_fence(std::memory_order_seq_cst);
    thread.depth.store(depth + 1, std::memory_order_relaxed);
    std::atomic_signal_fence(std::memory_order_seq_cst);
    entry.mark.store(&mark,
                     std::memory_order_relaxed);  // T1: a signal just before the line above took the entry as well
    entry.period.store(now.load(std::memory_order_relaxed), std::memory_order_relaxed);  // G1
    std::atomic_signal_fence(std::memory_order_seq_cst);
    return &entry;
}

// Ends it.
inline void leave(Thread& thread, Entry& entry, Mark& mark) {
    const auto depth = static_cast<std::uint32_t>(&entry - thread.entries);
    if (thread.depth.load(std::memory_order_relaxed) != depth + 1) [[unlikely]]
        drop_from(thread, depth + 1);
    entry.period.store(0, std::memory_order_release);  // G5
    std::atomic_signal_fence(std::memory_order_seq_cst);
    thread.depth.store(depth, std::memory_order_relaxed);
    mark.word = 0;
}

}  // namespace cloister::tracepoint
