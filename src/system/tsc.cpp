#include "system/tsc.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>

#include <time.h>

namespace cloister::system {
namespace {

__extension__ using Wide = unsigned __int128;

constexpr int kTries = 5;
// A sample much wider than the tightest would bend the map by its error, so it is refused, but not for longer than
// this: a map without samples is worse. Where every reading is slow (clock_gettime is a syscall) the tightest is wide
// too.
constexpr std::uint64_t kMuchWider = 4;
constexpr std::uint64_t kRefuseForNs = 100'000'000;
// Beyond its ends the map goes on with the mean slope over this many samples, as one piece alone is short and its ends
// are uncertain.
constexpr std::size_t kSlopeSamples = 16;

}  // namespace

TscClock::Reading TscClock::read_machine() {
    Reading reading;
    timespec now{};
    // The fences keep the processor from moving the readings of the TSC past each other; the vDSO has its own.
    __builtin_ia32_lfence();
    reading.before = __builtin_ia32_rdtsc();
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    __builtin_ia32_lfence();
    reading.after = __builtin_ia32_rdtsc();
    reading.ns = static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000U + static_cast<std::uint64_t>(now.tv_nsec);
    return reading;
}

bool TscClock::sample() {
    Reading best = source_();
    for (int i = 1; i < kTries; ++i) {
        const Reading next = source_();
        if (next.after - next.before < best.after - best.before) best = next;
    }
    const std::uint64_t half_width = (best.after - best.before + 1) / 2;
    const Sample sample{best.before + (best.after - best.before) / 2, best.ns, half_width};
    if (!samples_.empty()) {
        const Sample& last = samples_.back();
        if (sample.tsc < last.tsc) {
            samples_.clear();
        } else if (sample.tsc == last.tsc || sample.ns <= last.ns) {
            return false;
        } else if (half_width / kMuchWider > tightest_ && sample.ns - last.ns < kRefuseForNs) {
            return false;
        }
    }
    tightest_ = std::min(tightest_, half_width);
    samples_.push_back(sample);
    return true;
}

void TscClock::forget_before(std::uint64_t tsc) {
    // One piece more than needed stays on the left, for the bend of the first one.
    const std::size_t first = after(tsc);
    for (std::size_t i = 2; i < first && samples_.size() > kSlopeSamples; ++i) samples_.pop_front();
}

bool TscClock::covers(std::uint64_t tsc) const {
    return ready() && tsc >= samples_.front().tsc && tsc <= samples_.back().tsc;
}

std::size_t TscClock::after(std::uint64_t tsc) const {
    const auto found = std::lower_bound(samples_.begin(), samples_.end(), tsc,
                                        [](const Sample& sample, std::uint64_t t) { return sample.tsc < t; });
    return static_cast<std::size_t>(found - samples_.begin());
}

TscClock::Line TscClock::line_at(std::uint64_t tsc) const {
    assert(ready());
    const std::size_t n = samples_.size();
    const std::size_t right = after(tsc);
    if (right == n) return {samples_[n - 1 - std::min(n - 1, kSlopeSamples)], samples_[n - 1]};
    if (right == 0) return {samples_[0], samples_[std::min(n - 1, kSlopeSamples)]};
    return {samples_[right - 1], samples_[right]};
}

std::uint64_t TscClock::to_ns(std::uint64_t tsc) const {
    const Line line = line_at(tsc);
    const auto scale = [&line](std::uint64_t cycles) {
        return static_cast<std::uint64_t>(Wide{cycles} * (line.to.ns - line.from.ns) / (line.to.tsc - line.from.tsc));
    };
    if (tsc >= line.to.tsc) return line.to.ns + scale(tsc - line.to.tsc);
    if (tsc >= line.from.tsc) return line.from.ns + scale(tsc - line.from.tsc);
    return line.from.ns - std::min(line.from.ns, scale(line.from.tsc - tsc));
}

// The most by which the clock may have left the straight piece that ends at sample `right`, if its rate changed once in
// it: the pieces beside it show the rates before and after. With one neighbour only, that one and the piece itself.
// What lies beside is taken at least as long as the piece, since the slope of a short one is mostly error.
double TscClock::bend_ns(std::size_t right) const {
    const Line piece{samples_[right - 1], samples_[right]};
    const std::uint64_t length = piece.to.tsc - piece.from.tsc;
    std::size_t first = right - 1, last = right;
    while (first > 0 && piece.from.tsc - samples_[first].tsc < length) --first;
    while (last + 1 < samples_.size() && samples_[last].tsc - piece.to.tsc < length) ++last;
    const Line before{samples_[first], piece.from}, behind{piece.to, samples_[last]};
    const bool has_before = piece.from.tsc - samples_[first].tsc >= length / 2;
    const bool has_behind = samples_[last].tsc - piece.to.tsc >= length / 2;
    const auto cycles = static_cast<double>(length);
    if (has_before && has_behind) return std::abs(before.ns_per_cycle() - behind.ns_per_cycle()) * cycles / 4;
    if (has_before) return std::abs(before.ns_per_cycle() - piece.ns_per_cycle()) * cycles;
    if (has_behind) return std::abs(piece.ns_per_cycle() - behind.ns_per_cycle()) * cycles;
    return 0;
}

std::uint64_t TscClock::uncertainty_ns(std::uint64_t tsc) const {
    const Line line = line_at(tsc);
    // Twice: once for the ends of this piece, once for what the same error does to the measured bend.
    double cycles = 2 * static_cast<double>(std::max(line.from.half_width, line.to.half_width));
    double ns = 1;  // the integer
    const std::size_t right = after(tsc);
    if (covers(tsc)) {
        ns += bend_ns(std::max<std::size_t>(right, 1));
    } else {
        const auto away = static_cast<double>(tsc > line.to.tsc ? tsc - line.to.tsc : line.from.tsc - tsc);
        cycles += cycles * away / static_cast<double>(line.to.tsc - line.from.tsc) + away / 1000;
    }
    return static_cast<std::uint64_t>(std::ceil(ns + cycles * line.ns_per_cycle()));
}

std::uint64_t TscClock::cycles(std::uint64_t ns) const {
    assert(ready());
    const Sample &from = samples_.front(), &to = samples_.back();
    return static_cast<std::uint64_t>(Wide{ns} * (to.tsc - from.tsc) / (to.ns - from.ns));
}

}  // namespace cloister::system
