#include "breach/gap_watch.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "breach/correlate.hpp"

namespace cloister::breach {

namespace {

// The correlator holds a departure back for a while, to see whether a softirq or a switch belongs to it.
constexpr std::uint64_t kHeldNs = Correlator::kHoldNs + 1'000'000;

}  // namespace

Result<std::unique_ptr<GapWatch>> GapWatch::start(int cpu, std::uint64_t gap_ns, bool traced, GapBook::Sink inferred) {
    auto spinner = Spinner::start(cpu, gap_ns);
    if (!spinner) return fail(spinner.error());
    const auto pid = static_cast<std::uint32_t>(spinner->pid());
    const GapBook::Options options{.tid = pid, .tgid = pid, .threshold_ns = gap_ns, .traced = traced};
    return std::unique_ptr<GapWatch>(new GapWatch(std::move(*spinner), options, std::move(inferred)));
}

GapWatch::GapWatch(Spinner spinner, GapBook::Options options, GapBook::Sink inferred)
    : spinner_(std::move(spinner)), book_(options, std::move(inferred)) {}

void GapWatch::go() {
    clock_.sample();
    spinner_.go();
}

bool GapWatch::take() {
    drained_.clear();
    spinner_.drain(drained_);
    waiting_.insert(waiting_.end(), drained_.begin(), drained_.end());
    clock_.sample();  // after the drain, so that it covers what was drained
    const std::uint64_t first = spinner_.stats().begin_tsc;
    if (!begun_ && first && clock_.ready() && clock_.covers(first)) {
        book_.begin(clock_.to_ns(first));
        begun_ = true;
    }
    while (begun_ && !waiting_.empty() && clock_.covers(waiting_.front().after)) {
        const TscGap& gap = waiting_.front();
        if (gap.moved() && why_ended_.empty())
            why_ended_ = fmt::format(
                "the spinner was moved from cpu {} to cpu {}: was cpu {} taken offline, or its "
                "cpuset changed?",
                gap.cpu_before, gap.cpu_after, gap.cpu_before);
        book_.gap(on_clock(gap, clock_));
        waiting_.pop_front();
    }
    return begun_ && waiting_.empty();
}

void GapWatch::advance(std::uint64_t watermark_ns) {
    const bool placed = take();
    const std::uint64_t until = spinner_.drained_until();
    if (placed && until && clock_.covers(until) && watermark_ns > kHeldNs) {
        book_.advance(std::min(watermark_ns - kHeldNs, clock_.to_ns(until)));
        clock_.forget_before(until - clock_.cycles(1'000'000'000));
    }
    if (why_ended_.empty() && !spinner_.alive()) why_ended_ = "the spinner ended: " + spinner_.ending();
}

void GapWatch::stop() { spinner_.stop(); }

void GapWatch::finish() {
    // A sample is refused only when the reader was interrupted in each of its tries; a few more will do.
    for (int tries = 0; tries < 100 && !take(); ++tries) continue;
    const auto stats = spinner_.stats();
    const std::uint64_t end = stats.end_tsc ? stats.end_tsc : stats.until_tsc;
    if (!begun_ || !clock_.ready()) return;
    if (const std::uint64_t lost = spinner_.overflow())
        book_.missed(lost, clock_.to_ns(stats.begin_tsc + spinner_.overflow_cycles()) - clock_.to_ns(stats.begin_tsc));
    book_.finish(clock_.to_ns(end));
}

}  // namespace cloister::breach
