// From the registers and the copied bytes of a stack to its return addresses.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "breach/probe/record.h"
#include "unwind/call_frames.hpp"

namespace cloister::unwind {

// What is known of the code that a stack refers to.
struct Code {
    virtual ~Code() = default;
    // The call frame information of a place; null where there is none. Valid until the next call.
    [[nodiscard]] virtual const FrameRow* row(std::uint64_t pc) = 0;
    // Whether code is known to be mapped there.
    [[nodiscard]] virtual bool executable(std::uint64_t pc) = 0;
    // The bytes before it, the last one next to it; empty when they cannot be had.
    [[nodiscard]] virtual std::optional<std::array<unsigned char, 7>> bytes_before(std::uint64_t pc) = 0;
    // Whether it is 64-bit code, the only kind whose stack can be read.
    [[nodiscard]] virtual bool readable(std::uint64_t pc) = 0;
};

struct StackPc {
    std::uint64_t pc = 0;
    bool after = false;  // the instruction of interest is the one before: a return address, or past a syscall
    bool guessed = false;
    [[nodiscard]] std::uint64_t lookup() const { return after ? pc - 1 : pc; }
};

inline constexpr std::size_t kMaxStackPcs = 64;

// Innermost first. Empty when the stack has no user part.
[[nodiscard]] std::vector<StackPc> walk(const cl_stack& stack, Code& code);

}  // namespace cloister::unwind
