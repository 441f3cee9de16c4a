// From breaches to rows, and from counters to the balance sheet.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "breach/breach.hpp"

namespace cloister::breach {

class Tally {
public:
    // `cpu`: the watched one; what happens to threads elsewhere makes rows of its own (Row::away). -1: all are watched.
    explicit Tally(int cpu = -1);
    ~Tally();
    Tally(Tally&&) noexcept;
    Tally& operator=(Tally&&) noexcept;

    // Adds a departure and everything in it.
    void add(const Breach& departure);

    // The probe's exact counters replace what was counted from records, for syscalls (by name) and faults (by kind of
    // fault): records may have been thinned out in a storm. Times are CLOCK_MONOTONIC ns. Several counters with one
    // detail (one per thread) add up. What they count beyond the records goes to the row of depth 0, since where it
    // happened is not known; a syscall that is still open, and so not in its counter, is added to it.
    void exact(Cause cause, const std::string& detail, const cl_cell& cell, bool away = false);
    // An exact counter of one site of such a row.
    void exact_site(Cause cause, const std::string& detail, std::uint64_t site, const cl_site& counts, StackPtr stack,
                    bool away = false);
    // A counter of the machine: an interrupt that no tracepoint shows ("HYP hypervisor callback", 3 times). Adds up.
    void counted(Cause cause, const std::string& detail, std::uint64_t count);

    // Rows in the order of the report: departures by the time that they took with all that followed before the thread
    // was back, each followed by what lies inside it.
    [[nodiscard]] std::vector<Row> rows() const;
    // These three are about the watched CPU, and include what only the exact counters saw.
    [[nodiscard]] std::uint64_t departures() const;
    [[nodiscard]] std::uint64_t worst_ns() const;
    // The union of the departures' intervals per thread, without those whose end was not seen.
    [[nodiscard]] std::uint64_t lost_ns() const;

private:
    struct Impl;  // rows and sites are bounded; the rest is summed in one row "(more)" per cause
    std::unique_ptr<Impl> impl_;
};

}  // namespace cloister::breach
