#include "breach/gaps.hpp"

#include <algorithm>
#include <limits>
#include <string>

namespace cloister::breach {
namespace {

// How far a departure may reach out of a gap, or lie beside it, and still be set against it however the two are fed. An
// uncertainty beyond it is not believed. It is how long both are kept past their end.
constexpr std::uint64_t kReachNs = 10'000;
// How far beyond the clocks' uncertainty a departure may stick out of its gap before it counts as a misfit: the first
// reading after a gap is some instructions late.
constexpr std::uint64_t kEdgeSlackNs = 200;

// Details; the plain case of each cause needs none.
constexpr const char* kPlain = "";
constexpr const char* kAround = "at the edges of a kernel entry";
constexpr const char* kBlind = "may be firmware or hypervisor as well";

std::uint64_t minus(std::uint64_t a, std::uint64_t b) { return a - std::min(a, b); }

}  // namespace

Gap on_clock(const TscGap& gap, const system::TscClock& clock) {
    return {.start_ns = clock.to_ns(gap.before),
            .end_ns = clock.to_ns(gap.after),
            .uncertainty_ns = std::max(clock.uncertainty_ns(gap.before), clock.uncertainty_ns(gap.after)),
            .cpu = gap.cpu_before,
            .kernel = gap.kernel};
}

GapBook::GapBook(Options options, Sink sink) : options_(options), sink_(std::move(sink)) {}

void GapBook::departure(const Breach& root) {
    if (root.tid != options_.tid || root.known == Known::inferred) return;
    const std::uint64_t end = std::max(root.end_ns, root.departure_end_ns);
    if (end < begin_ns_) return;
    const std::uint64_t start = std::max(root.start_ns, begin_ns_);
    if (start < decided_ns_) ++totals_.late;
    const bool named = root.known == Known::traced && root.cause != Cause::unseen;
    const auto after = [](std::uint64_t e, const Departure& d) { return e < d.end; };
    departures_.insert(std::upper_bound(departures_.begin(), departures_.end(), end, after),
                       {start, end, named, false});
}

void GapBook::gap(const Gap& gap) {
    gaps_.push_back(gap);
    gaps_.back().uncertainty_ns = std::min(gap.uncertainty_ns, kReachNs);
}

void GapBook::missed(std::uint64_t gaps, std::uint64_t ns) {
    totals_.missed += gaps;
    totals_.gaps += gaps;
    totals_.lost_ns += ns;
    totals_.inferred_ns[Cause::unseen] += ns;
}

void GapBook::advance(std::uint64_t watermark_ns) {
    while (!gaps_.empty() && gaps_.front().end_ns + kReachNs < watermark_ns) {
        const Gap gap = gaps_.front();
        gaps_.pop_front();
        settle(gap.start_ns);
        decide(gap);
        decided_ns_ = gap.end_ns;
    }
    settle(gaps_.empty() ? watermark_ns : std::min(watermark_ns, gaps_.front().start_ns));
}

void GapBook::finish(std::uint64_t end_ns) {
    std::erase_if(departures_, [end_ns](const Departure& d) { return d.start > end_ns && !d.in_a_gap; });
    for (Departure& departure : departures_) departure.end = std::min(departure.end, std::max(end_ns, departure.start));
    advance(std::numeric_limits<std::uint64_t>::max());
}

// Departures that end before `before_ns` lie in no gap that is still to be decided.
void GapBook::settle(std::uint64_t before_ns) {
    while (!departures_.empty() && departures_.front().end < minus(before_ns, kReachNs)) {
        const Departure& departure = departures_.front();
        if (!departure.in_a_gap) {
            ++totals_.below_threshold;
            totals_.below_threshold_ns += departure.end - departure.start;
        }
        departures_.pop_front();
    }
}

void GapBook::decide(const Gap& gap) {
    // A gap that left no footprint does not reach for what is only near.
    const std::uint64_t slack = gap.kernel == TscGap::Entry::no ? 0 : gap.uncertainty_ns;
    const std::uint64_t from = minus(gap.start_ns, slack), to = gap.end_ns + slack;
    bool entered = gap.kernel == TscGap::Entry::yes, named = false;
    covered_.clear();
    for (Departure& departure : departures_) {
        if (departure.end < from || departure.start > to) continue;
        departure.in_a_gap = true;
        named = named || departure.named;
        const std::uint64_t sticks_out =
            std::max(minus(gap.start_ns, departure.start), minus(departure.end, gap.end_ns));
        if (sticks_out > gap.uncertainty_ns + kEdgeSlackNs) ++totals_.misfits;
        covered_.emplace_back(std::clamp(departure.start, gap.start_ns, gap.end_ns),
                              std::clamp(departure.end, gap.start_ns, gap.end_ns));
    }
    const std::uint64_t length = gap.end_ns - gap.start_ns;
    ++totals_.gaps;
    totals_.lost_ns += length;
    totals_.worst_ns = std::max(totals_.worst_ns, length);
    if (covered_.empty()) {
        if (entered) ++totals_.kernel;
        const bool known = gap.kernel != TscGap::Entry::unknown || options_.traced;
        const Cause cause = entered || !known ? Cause::unseen : Cause::firmware;
        emit(gap, cause, entered || known ? kPlain : kBlind, gap.start_ns, length);
        return;
    }
    ++totals_.kernel;
    if (named) ++totals_.named;
    if (gap.kernel == TscGap::Entry::no) ++totals_.contradictions;

    struct Pieces {
        std::uint64_t total = 0, largest = 0, at = 0;
    } edges, around;
    std::uint64_t done = gap.start_ns, explained = 0;
    const auto piece = [&](std::uint64_t until, std::uint64_t edge_ns) {
        const std::uint64_t size = until - done;
        Pieces& kind = size <= edge_ns ? edges : around;
        kind.total += size;
        if (size > kind.largest) {
            kind.largest = size;
            kind.at = done;
        }
    };
    std::sort(covered_.begin(), covered_.end());
    bool first = true;
    for (const auto& [start, end] : covered_) {
        if (start > done || first) {
            piece(start, first ? options_.edge_ns : 2 * options_.edge_ns);
            done = start;
        }
        first = false;
        if (end > done) {
            explained += end - done;
            done = end;
        }
    }
    piece(gap.end_ns, options_.edge_ns);
    totals_.explained_ns += explained;
    emit(gap, Cause::entry, kPlain, edges.at, edges.total);
    emit(gap, Cause::firmware, kAround, around.at, around.total);
}

void GapBook::emit(const Gap& gap, Cause cause, const char* detail, std::uint64_t at, std::uint64_t length) {
    if (length == 0) return;
    totals_.inferred_ns[cause] += length;
    Breach breach;
    breach.start_ns = std::min(at, gap.end_ns - length);
    breach.end_ns = breach.start_ns + length;
    breach.cpu = gap.cpu;
    breach.tid = options_.tid;
    breach.tgid = options_.tgid;
    breach.cause = cause;
    breach.cls = Class::async;
    breach.known = Known::inferred;
    breach.detail = detail;
    sink_(breach);
}

void GapBook::fill(Balance& balance) const {
    balance.lost_ns = totals_.lost_ns;
    balance.explained_ns = totals_.explained_ns;
    balance.unexplained_ns = totals_.lost_ns - totals_.explained_ns;
    balance.inferred_ns.clear();
    for (const auto& [cause, ns] : totals_.inferred_ns) balance.inferred_ns[std::string(name(cause))] = ns;
    balance.gaps = totals_.gaps;
    balance.gap_threshold_ns = options_.threshold_ns;
    balance.kernel_gaps = totals_.kernel;
    balance.named_gaps = totals_.named;
    balance.below_threshold = totals_.below_threshold;
    balance.below_threshold_ns = totals_.below_threshold_ns;
}

}  // namespace cloister::breach
