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
    const WideSigned sum = static_cast<WideSigned>(clock.offset) + cycles;
    const WideSigned ns =
        sum * 1'000'000'000 / clock.frequency + static_cast<WideSigned>(clock.offset_s) * 1'000'000'000;
    constexpr WideSigned kLeast = std::numeric_limits<std::int64_t>::min(),
                         kMost = std::numeric_limits<std::int64_t>::max();
    return static_cast<std::int64_t>(ns < kLeast ? kLeast : ns > kMost ? kMost : ns);
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
