// The clock of a trace and the time of day.
#pragma once

#include <cstdint>
#include <limits>

#include "ctf/schema.hpp"

namespace cloister::ctf {

__extension__ typedef __int128 WideSigned;  // ISO C++ has none

// Cycles to ns since 1970 (or since whatever the clock began with, where it is not absolute); rounded down, and at the
// ends of what 64 bits hold where it is beyond them.
[[nodiscard]] constexpr std::int64_t ns_of(const Clock& clock, std::uint64_t cycles) {
    constexpr std::uint64_t kSecond = 1'000'000'000;
    std::uint64_t sum = 0, ns_of_rest = 0;
    std::int64_t seconds = 0, ns = 0;
    // In 64 bits where these are enough, which takes a tenth of the time.
    if (!__builtin_add_overflow(clock.offset, cycles, &sum) &&
        !__builtin_mul_overflow(sum % clock.frequency, kSecond, &ns_of_rest) &&
        !__builtin_add_overflow(clock.offset_s, sum / clock.frequency, &seconds) &&
        !__builtin_mul_overflow(seconds, kSecond, &ns) &&
        !__builtin_add_overflow(ns, ns_of_rest / clock.frequency, &ns))
        return ns;
    const WideSigned wide = (static_cast<WideSigned>(clock.offset) + cycles) * kSecond / clock.frequency +
                            static_cast<WideSigned>(clock.offset_s) * kSecond;
    constexpr WideSigned kLeast = std::numeric_limits<std::int64_t>::min(),
                         kMost = std::numeric_limits<std::int64_t>::max();
    return static_cast<std::int64_t>(wide < kLeast ? kLeast : wide > kMost ? kMost : wide);
}

// The first cycle that is not before a time in ns; at the ends of what 64 bits hold where it is beyond them.
[[nodiscard]] constexpr std::uint64_t cycles_of(const Clock& clock, std::int64_t ns) {
    WideSigned since = static_cast<WideSigned>(ns) - static_cast<WideSigned>(clock.offset_s) * 1'000'000'000;
    if (since <= 0) return 0;
    if (since > std::numeric_limits<std::int64_t>::max()) since = std::numeric_limits<std::int64_t>::max();
    const WideSigned cycles = (since * clock.frequency + 999'999'999) / 1'000'000'000 - clock.offset;
    constexpr WideSigned kMost = std::numeric_limits<std::uint64_t>::max();
    return static_cast<std::uint64_t>(cycles < 0 ? 0 : cycles > kMost ? kMost : cycles);
}

}  // namespace cloister::ctf
