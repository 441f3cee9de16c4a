// Runs the programs of a layout over the bits of a packet. Whatever these bits are, nothing outside the packet is read
// and every run ends.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "ctf/layout.hpp"

namespace cloister::ctf {

// A field of an event, in the order of the metadata. Structures and arrays are a begin, their parts, and an end.
struct Value {
    enum class Kind : std::uint8_t { unsigned_integer, signed_integer, real, text, begin_structure, begin_array, end };
    Kind kind{};
    const NamedField* field = nullptr;  // null for an end
    std::uint64_t bits = 0;             // an integer's; a real's as a double
    std::string_view text;              // in the packet; without the NUL

    [[nodiscard]] std::int64_t as_signed() const { return static_cast<std::int64_t>(bits); }
    [[nodiscard]] double as_real() const { return std::bit_cast<double>(bits); }
};

// The bits of a packet. Positions are in bits from its begin.
struct Bits {
    const std::uint8_t* data = nullptr;
    std::uint64_t end = 0;  // of the content
    bool cut = false;       // there was more of it once: a string or text that does not end is what there is of it
};

__extension__ typedef unsigned __int128 Wide;  // ISO C++ has none

// `n` bits, 1 to 64, that lie wholly inside.
[[nodiscard]] inline std::uint64_t read_bits(const std::uint8_t* data, std::uint64_t at, unsigned n, bool big) {
    const std::uint8_t* const first = data + at / 8;
    const unsigned shift = at % 8;
    const unsigned bytes = (shift + n + 7) / 8;
    Wide all = 0;  // 64 bits at an odd place touch 9 bytes
    if (big)
        for (unsigned i = 0; i < bytes; ++i) all = all << 8U | first[i];
    else
        for (unsigned i = bytes; i-- > 0;) all = all << 8U | first[i];
    const auto value = static_cast<std::uint64_t>(all >> (big ? bytes * 8 - shift - n : shift));
    return n == 64 ? value : value & ((std::uint64_t{1} << n) - 1);
}

// The clock after an integer of `n` bits that holds its low part: a value smaller than the part before has wrapped.
[[nodiscard]] inline std::uint64_t advance(std::uint64_t clock, std::uint64_t value, unsigned n) {
    if (n == 64) return value;
    const std::uint64_t mask = (std::uint64_t{1} << n) - 1;
    return clock + ((value - clock) & mask);
}

class Decoder {
public:
    explicit Decoder(const TraceLayout& layout) : slots_(layout.slots) {}

    // A packet begins: `clock` is the time before its first event.
    void begin(Bits bits, std::uint64_t clock) {
        bits_ = bits;
        clock_ = clock;
        steps_ = 8 * bits.end + kFreeSteps;
    }
    // Runs a program from `at`. False where the packet ends too soon or says what cannot be: then why() says so in
    // words that follow "event at byte N of packet P:". `values`: null, or where fields are added.
    [[nodiscard]] bool run(const Program& program, std::uint64_t& at, std::vector<Value>* values);

    [[nodiscard]] std::uint64_t clock() const { return clock_; }
    void set_clock(std::uint64_t clock) { clock_ = clock; }
    [[nodiscard]] std::uint64_t role(Role role) const { return roles_[static_cast<std::size_t>(role)]; }
    [[nodiscard]] bool has(Role role) const { return (has_ >> static_cast<unsigned>(role) & 1U) != 0; }
    void forget_roles() { has_ = 0; }
    [[nodiscard]] const std::string& why() const { return why_; }

private:
    struct Loop {
        std::uint64_t left;
        std::size_t begin;
    };
    static constexpr std::uint64_t kFreeSteps = 1U << 16U;

    bool too_short(const Op& op, std::uint64_t at, std::uint64_t bits);
    bool integer(const Op& op, std::uint64_t& at, std::vector<Value>* values);
    bool text(const Op& op, std::uint64_t& at, std::vector<Value>* values);
    bool string(const Op& op, std::uint64_t& at, std::vector<Value>* values);
    bool real(const Op& op, std::uint64_t& at, std::vector<Value>* values);
    bool array(const Program& program, std::size_t& next, std::uint64_t at, std::vector<Value>* values);
    bool choose(const Program& program, std::size_t& next);
    [[nodiscard]] std::uint64_t count_of(const Op& op) const;

    Bits bits_;
    std::uint64_t clock_ = 0;
    // How many elements of arrays may still come in this packet: elements may take no room, but not without end.
    std::uint64_t steps_ = 0;
    std::uint32_t has_ = 0;
    std::array<std::uint64_t, static_cast<std::size_t>(Role::count)> roles_{};
    std::vector<std::uint64_t> slots_;
    std::vector<Loop> loops_;
    std::string why_;
};

}  // namespace cloister::ctf
