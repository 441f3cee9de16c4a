// A clock of the kernel as one number.
#pragma once

#include <cstdint>
#include <ctime>

namespace cloister::system {

// ns of clock_gettime(2). Async-signal-safe.
[[nodiscard]] inline std::uint64_t clock_ns(clockid_t clock) {
    timespec t{};
    clock_gettime(clock, &t);
    return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(t.tv_nsec);
}

}  // namespace cloister::system
