// --budget 'syscall=0,fault=0,tick<=10,max<=5us,total<=0.01%'
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hpp"
#include "breach/breach.hpp"

namespace cloister::breach {

class Budget {
public:
    // Limits, with commas between them: a cause, sync or async, = or <= a count; max (the longest departure) <= a
    // duration; total (time lost) <= a duration or a share of the time watched ("0.01%", "100ppm"). Plurals are fine.
    // The error shows where it does not parse and what may stand there.
    [[nodiscard]] static Result<Budget> parse(std::string_view text);

    struct Violation {
        std::string limit;              // as written: "tick<=10"
        std::string found;              // "250", "11.8 us"
        std::vector<std::size_t> rows;  // indices into Summary::rows of the offenders, worst first
    };
    // A limit that cannot be verified (blind to the cause, time lost not known, records dropped) is not a met one: its
    // `found` says why. Counts are over rows at any depth; what lies directly in a row of the same cause or class is
    // part of that. A class, or max, is blind when any of its causes is, firmware apart: that has to be asked for by
    // name.
    [[nodiscard]] std::vector<Violation> check(const Summary& summary) const;

private:
    struct Limit {
        enum class Kind { count_of_cause, count_of_class, max, total, total_share } kind{};
        Cause cause{};
        Class cls{};
        std::uint64_t value = 0;  // count or ns
        double share = 0;
        std::string text;
    };
    std::vector<Limit> limits_;
};

// "60s", "5us", "1.5ms", "100ns", "2m", "1h" to ns; "0" needs no unit. Exact: an error where it is finer than 1 ns,
// negative or longer than 64 bits hold.
[[nodiscard]] Result<std::uint64_t> parse_duration(std::string_view text);
// 4100 -> "4.1 us": one decimal, at most four digits, units ns us ms s; from 1000 s on whole seconds.
[[nodiscard]] std::string format_duration(std::uint64_t ns);

}  // namespace cloister::breach
