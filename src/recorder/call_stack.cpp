#include "recorder/call_stack.hpp"

#include <array>
#include <cstring>

#include "tracepoint/kernel_signal.hpp"
#include "tracepoint/read_memory.hpp"

namespace cloister::recorder {
namespace {

using tracepoint::SignalFrame;

// What a frame pointer points to, and the words behind it, which are a signal frame if the return address is that of the
// restorer.
struct Words {
    std::uint64_t caller, return_address, uc_flags, uc_link;
};

// The stack, a piece at a time: frames lie close together, and a system call for each would cost more than the rest.
class Stack {
public:
    // Whether there are such words. Those behind the first two may lie beyond the stack's end: they are zeros then.
    bool read(std::uintptr_t at, Words& words) {
        if (at % 8) return false;
        if (at < from_ || at - from_ + sizeof words > size_) {
            const ssize_t got = tracepoint::read_memory(at, piece_.data(), sizeof piece_);
            from_ = at;
            size_ = got > 0 ? static_cast<std::size_t>(got) : 0;
            if (size_ < sizeof words) std::memset(piece_.data() + size_ / 8, 0, sizeof words - size_ / 8 * 8);
            if (size_ < 16) return false;
        }
        std::memcpy(&words, piece_.data() + (at - from_) / 8, sizeof words);
        return true;
    }

private:
    std::array<std::uint64_t, 64> piece_;
    std::uintptr_t from_ = 1;
    std::size_t size_ = 0;  // bytes
};

constexpr int kRbp = 10;  // in SignalFrame::registers

}  // namespace

std::size_t call_stack(const void* frame, std::span<std::uint64_t> out) {
    Stack stack;
    Words words;
    std::uintptr_t at = reinterpret_cast<std::uintptr_t>(frame);
    if (!stack.read(at, words)) return 0;
    std::size_t n = 0;
    std::uintptr_t beyond = at;  // the next frame must lie there or further out
    while (n < out.size()) {
        at = words.caller;
        if (at <= beyond || !stack.read(at, words) || words.return_address == 0) break;
        beyond = at;
        out[n++] = words.return_address;
        // uc_flags has three bits so far, uc_link is always null: only then the code is looked at.
        SignalFrame signal;
        if (words.uc_flags > 7 || words.uc_link != 0 || n == out.size() ||
            !tracepoint::is_restorer(words.return_address) ||
            tracepoint::read_memory(at + 8, &signal, sizeof signal) != sizeof signal)
            continue;
        out[n++] = signal.ip;
        // The handler may have had a stack of its own. What it interrupted goes on above its own stack pointer.
        words.caller = signal.registers[kRbp];
        beyond = signal.sp - 8;
    }
    return n;
}

}  // namespace cloister::recorder
