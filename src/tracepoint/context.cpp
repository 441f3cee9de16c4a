#include "tracepoint/context.hpp"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <optional>

#include "tracepoint/kernel_signal.hpp"
#include "tracepoint/read_memory.hpp"

namespace cloister::tracepoint {
namespace {

constexpr std::uintptr_t kFarthest = 256 << 10;  // bytes of stack that are searched for one signal frame
constexpr int kHops = 16;                        // signal frames on the way to one entry

constexpr std::uint64_t bit(int signal) { return std::uint64_t{1} << (signal - 1); }
constexpr std::uint64_t kSynchronous =
    bit(SIGSEGV) | bit(SIGBUS) | bit(SIGILL) | bit(SIGFPE) | bit(SIGTRAP) | bit(SIGSYS);

// More than a restorer's address, which every struct sigaction on the stack has too.
bool is_signal_frame(const SignalFrame& frame, std::uintptr_t at) {
    constexpr std::uint64_t kUserCode = 0x33;                // cs of a 64-bit program
    constexpr std::uintptr_t kLargestExtendedState = 16384;  // and it lies right above, aligned to 64: xsave's format
    return (frame.segments & 0xffff) == kUserCode && frame.fpstate % 64 == 0 && frame.fpstate > at &&
           frame.fpstate - at < kLargestExtendedState;
}

// The first signal frame in [from, to). Chunks are small because the stack that they are read to may be.
std::optional<SignalFrame> find_signal_frame(std::uintptr_t from, std::uintptr_t to) {
    constexpr std::size_t kWords = 64, kHead = 3;
    std::uint64_t words[kWords];
    for (from &= ~std::uintptr_t{7}; from < to; from += (kWords - kHead + 1) * 8) {
        const ssize_t got = read_memory(from, words, sizeof words);
        for (std::size_t i = 0; got > 0 && i + kHead <= static_cast<std::size_t>(got) / 8 && from + i * 8 < to; ++i) {
            // uc_flags has three bits so far, uc_link is always null.
            if (words[i] < 4096 || words[i + 1] > 7 || words[i + 2] != 0 || !is_restorer(words[i])) continue;
            SignalFrame frame;
            const std::uintptr_t at = from + i * 8;
            if (read_memory(at, &frame, sizeof frame) == sizeof frame && is_signal_frame(frame, at)) return frame;
        }
        if (got < static_cast<ssize_t>(sizeof words)) break;
    }
    return std::nullopt;
}

// Whether what has interrupted there was the doing of the interrupted code. `during`: what its handler has blocked.
bool is_synchronous(const SignalFrame& frame, std::uint64_t during) {
    const std::uint64_t added = during & ~frame.mask;  // the signal itself (unless SA_NODEFER), and its sa_mask
    if (added != 0 && (added & kSynchronous) == 0) return false;
    KernelAction action{};
    if (frame.signal >= 1 && frame.signal <= 64 &&
        syscall(SYS_rt_sigaction, frame.signal, nullptr, &action, sizeof action.mask) == 0 &&
        (action.flags & SA_SIGINFO) && ((added & bit(frame.signal)) || (action.flags & SA_NODEFER))) {
        // The kernel fills in the siginfo for SA_SIGINFO only.
        return (bit(frame.signal) & kSynchronous) && frame.code > 0;
    }
    return true;
}

enum class Relation { same, outer, gone };

// How the stack at `here` goes on to the mark: without or with an asynchronous signal in between, or not at all. `here`
// is the mark of the event that asks: one at the same address is that of a frame whose place this one has taken.
Relation relate(std::uintptr_t here, std::uintptr_t mark) {
    std::uint64_t during = 0;
    syscall(SYS_rt_sigprocmask, SIG_BLOCK, nullptr, &during, sizeof during);
    for (int hop = 0; hop < kHops; ++hop) {
        const std::uintptr_t end = here + kFarthest;
        const auto frame = find_signal_frame(here, mark > here ? std::min(mark, end) : end);
        if (!frame) return mark > here ? Relation::same : Relation::gone;
        if (!is_synchronous(*frame, during)) return Relation::outer;
        during = frame->mask;
        here = frame->sp;
    }
    return Relation::same;
}

bool is_overwritten(const Mark* mark) {
    std::uint64_t word = 0;
    const ssize_t got = read_memory(reinterpret_cast<std::uintptr_t>(mark), &word, sizeof word);
    return got == 0 || (got == sizeof word && word != Mark::value_at(mark));
}

}  // namespace

bool is_left(const Entry& entry) { return is_overwritten(entry.mark.load(std::memory_order_relaxed)); }

std::uint64_t busy(Thread& thread, const void* here) {
    const int saved = errno;
    std::uint64_t word = 0;
    bool top = true;
    for (std::uint32_t depth = thread.depth.load(std::memory_order_relaxed); depth > 0; --depth) {
        const Entry& entry = thread.entries[depth - 1];
        const auto mark = reinterpret_cast<std::uintptr_t>(entry.mark.load(std::memory_order_relaxed));
        const Relation relation =
            is_left(entry) ? Relation::gone : relate(reinterpret_cast<std::uintptr_t>(here), mark);
        // What lies further out than an asynchronous signal is another context, and so is all beyond it.
        if (relation == Relation::outer) break;
        if (relation == Relation::gone && top) {
            drop_from(thread, depth - 1);
            continue;
        }
        top = false;
        word |= entry.word.load(std::memory_order_relaxed);
    }
    errno = saved;
    return word;
}

}  // namespace cloister::tracepoint
