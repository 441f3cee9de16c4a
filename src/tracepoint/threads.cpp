#include "tracepoint/threads.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace cloister::tracepoint {
namespace {

constexpr std::uint64_t kNsPerSecond = 1'000'000'000;

bool exists(pid_t tid) { return syscall(SYS_tgkill, getpid(), tid, 0) == 0 || errno != ESRCH; }

// When the thread was started, in ns of CLOCK_BOOTTIME rounded down to a clock tick; 0 if it cannot be read.
// proc(5): field 22 of stat, in clock ticks; the command in field 2 may hold anything, but ends with the last ')'.
std::uint64_t started_ns(pid_t tid) {
    char path[64], text[1024];
    std::snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    const ssize_t got = read(file, text, sizeof text - 1);
    close(file);
    if (got <= 0) return 0;
    text[got] = 0;
    const char* at = std::strrchr(text, ')');
    for (int field = 2; at && field < 22; ++field) at = std::strchr(at + 1, ' ');
    if (!at) return 0;
    return std::strtoull(at, nullptr, 10) * (kNsPerSecond / static_cast<std::uint64_t>(sysconf(_SC_CLK_TCK)));
}

std::uint64_t boottime_ns() {
    timespec now{};
    clock_gettime(CLOCK_BOOTTIME, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * kNsPerSecond + static_cast<std::uint64_t>(now.tv_nsec);
}

// The slot is ours by its tid. Whatever a thread that ended inside an event has left in it goes.
Thread* adopt(Thread& thread) {
    drop_from(thread, 0);
    thread.claimed_ns.store(boottime_ns(), std::memory_order_relaxed);
    current = &thread;
    return current;
}

void raise_used(std::uint32_t used) {
    std::uint32_t seen = threads_used.load(std::memory_order_relaxed);
    while (seen < used && !threads_used.compare_exchange_weak(seen, used, std::memory_order_release)) {
    }
}

}  // namespace

Thread threads[kThreads];
std::atomic<std::uint32_t> threads_used;
constinit thread_local Thread* current = nullptr;

Thread* claim() {
    const int saved = errno;
    const auto tid = static_cast<pid_t>(syscall(SYS_gettid));
    if (tid <= 0) {  // a sandbox forbids it: with -1 for an id, all such threads would share a slot
        errno = saved;
        return nullptr;
    }
    const std::uint32_t used = threads_used.load(std::memory_order_acquire);
    // A slot with our id: a signal handler has just claimed it under us, or a thread that ended had the same id.
    for (std::uint32_t i = 0; i < used; ++i) {
        if (threads[i].tid.load(std::memory_order_relaxed) != tid) continue;
        errno = saved;
        return current ? current : adopt(threads[i]);
    }
    for (const bool may_take_over : {false, true}) {
        for (std::uint32_t i = 0; i < kThreads; ++i) {
            pid_t owner = threads[i].tid.load(std::memory_order_relaxed);
            if (owner != 0 && (!may_take_over || exists(owner))) continue;
            // Before the CAS: whoever waits for readers must look at this slot as soon as it is ours.
            raise_used(i + 1);
            if (!threads[i].tid.compare_exchange_strong(owner, tid)) continue;
            errno = saved;
            return adopt(threads[i]);
        }
    }
    errno = saved;
    return nullptr;
}

bool has_ended(const Thread& thread) {
    const pid_t tid = thread.tid.load();
    if (tid == 0 || !exists(tid)) return true;
    // Another thread may have got the id since. It would have been started after the slot was claimed, and at least
    // once around all process ids later, which takes longer than the clock tick that the time is rounded to.
    return started_ns(tid) > thread.claimed_ns.load(std::memory_order_relaxed);
}

void drop_from(Thread& thread, std::uint32_t depth) {
    for (std::uint32_t i = kDepth; i-- > depth;) {
        thread.entries[i].word.store(0, std::memory_order_relaxed);
        thread.entries[i].period.store(0, std::memory_order_release);
    }
    std::atomic_signal_fence(std::memory_order_seq_cst);
    thread.depth.store(depth, std::memory_order_relaxed);
}

void forget_other_threads() {
    for (std::uint32_t i = 0; i < threads_used.load(); ++i) {
        if (&threads[i] == current) {
            current->tid.store(static_cast<pid_t>(syscall(SYS_gettid)));
        } else if (threads[i].tid.load() != 0) {
            drop_from(threads[i], 0);
            threads[i].tid.store(0);
        }
    }
}

}  // namespace cloister::tracepoint
