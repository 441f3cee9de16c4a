// The TSC as a clock: where its readings lie on CLOCK_MONOTONIC.
//
// CLOCK_MONOTONIC is slewed (adjtimex, NTP), so it is no straight line over the TSC. The map is therefore piecewise:
// one straight piece between each two samples. Samples taken every few milliseconds follow any slewing that the kernel
// does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>

namespace cloister::system {

class TscClock {
public:
    // CLOCK_MONOTONIC in ns, read somewhere between two readings of the TSC (cycles).
    struct Reading {
        std::uint64_t before = 0, ns = 0, after = 0;
    };
    using Source = std::function<Reading()>;

    [[nodiscard]] static Reading read_machine();

    explicit TscClock(Source source = read_machine) : source_(std::move(source)) {}

    // Takes the tightest of several readings. False if it was not kept: all were much wider than usual (the reader was
    // interrupted each time; the next call will do better), or the clock has not advanced since the last sample.
    // A TSC that went backwards (suspend, migration of a VM) starts the map anew.
    bool sample();

    // Frees what is only needed for times before `tsc`. Never called: all samples are kept.
    void forget_before(std::uint64_t tsc);

    // Whether the map exists: two samples. All of the following need it.
    [[nodiscard]] bool ready() const { return samples_.size() >= 2; }

    // Whether `tsc` lies between two samples. Only then is its time final: beyond the last sample it is extrapolated,
    // and the next sample changes it.
    [[nodiscard]] bool covers(std::uint64_t tsc) const;

    // CLOCK_MONOTONIC ns; never decreases with `tsc`. A duration is the difference of two times, so that the durations
    // of adjoining intervals add up to that of the whole exactly.
    [[nodiscard]] std::uint64_t to_ns(std::uint64_t tsc) const;

    // How far to_ns(tsc) may be off, in ns: the readings' half-widths, the bend of the map around it, and for an
    // extrapolated time 1000 ppm of its distance (the kernel slews by at most 500 ppm each for frequency and offset).
    [[nodiscard]] std::uint64_t uncertainty_ns(std::uint64_t tsc) const;

    // Cycles that last at most `ns`, at the mean frequency over all samples.
    [[nodiscard]] std::uint64_t cycles(std::uint64_t ns) const;

    [[nodiscard]] std::size_t size() const { return samples_.size(); }

private:
    struct Sample {
        std::uint64_t tsc, ns, half_width;  // cycles, ns, cycles
    };
    struct Line {  // through two samples
        Sample from, to;
        [[nodiscard]] double ns_per_cycle() const {
            return static_cast<double>(to.ns - from.ns) / static_cast<double>(to.tsc - from.tsc);
        }
    };

    [[nodiscard]] std::size_t after(std::uint64_t tsc) const;  // index of the first sample at or after it
    [[nodiscard]] Line line_at(std::uint64_t tsc) const;
    [[nodiscard]] double bend_ns(std::size_t right) const;

    Source source_;
    std::deque<Sample> samples_;
    std::uint64_t tightest_ = UINT64_MAX;  // half-width, cycles
};

}  // namespace cloister::system
