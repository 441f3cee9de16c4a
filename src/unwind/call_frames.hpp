// One step up a stack by call frame information: the rules of a place in the code, and their evaluation over copied
// memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include <elfutils/libdw.h>

namespace cloister::unwind {

// DWARF's numbers of the x86-64 registers.
enum : std::size_t { kRax = 0, kRdx, kRcx, kRbx, kRsi, kRdi, kRbp, kRsp, kR8, kR15 = 15, kReturn = 16, kRegisters };

struct Registers {
    std::array<std::uint64_t, kRegisters> value{};
    std::uint32_t known = 0;  // one bit each

    void set(std::size_t index, std::uint64_t to) {
        value[index] = to;
        known |= 1U << index;
    }
    [[nodiscard]] bool has(std::size_t index) const { return (known >> index & 1U) != 0; }
};

// The bytes of a stack that were copied, at the address where they were.
struct StackCopy {
    std::uint64_t base = 0;
    std::span<const unsigned char> bytes;

    // `size` up to 8, little-endian; false when not all of it was copied.
    [[nodiscard]] bool read(std::uint64_t address, std::size_t size, std::uint64_t& value) const;
};

// What holds at one place in the code.
struct FrameRow {
    struct Rule {
        enum class How : std::uint8_t { undefined, same, expression } how = How::undefined;
        std::uint32_t first = 0, count = 0;  // into ops
    };
    Rule cfa;
    std::array<Rule, kRegisters> registers;
    std::vector<Dwarf_Op> ops;
    bool signal_frame = false;  // its caller was interrupted, not calling

    // What holds at the first instruction of a function: nothing is on the stack yet but the return address.
    [[nodiscard]] static const FrameRow& at_call();
};

enum class Step : std::uint8_t {
    done,       // `registers` are the caller's
    outermost,  // there is no caller
    stuck,      // memory that was not copied, or rules that make no sense
};
[[nodiscard]] Step step(const FrameRow& row, const StackCopy& stack, Registers& registers);

// The call frame information of one module, by address in the module.
class CallFrames {
public:
    // Neither is owned; either may be null. `eh` is looked at first.
    CallFrames(Dwarf_CFI* eh, Dwarf_CFI* debug) : eh_(eh), debug_(debug) {}
    // Null where the module has none. Valid until the next call.
    [[nodiscard]] const FrameRow* row(std::uint64_t address);

private:
    Dwarf_CFI* eh_;
    Dwarf_CFI* debug_;
    std::unordered_map<std::uint64_t, std::unique_ptr<const FrameRow>> rows_;  // null: none there
};

}  // namespace cloister::unwind
