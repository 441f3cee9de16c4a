// The book of gaps: sets the time that the spinner missed against the departures that the kernel's tracepoints showed.
//
// For every gap, and so for their sum: length = explained + unexplained, in integer ns. Explained is what the union of
// traced and counted departures covers of it. The rest is named by what can be inferred:
//
//   no departure, no entry of the kernel             firmware  the hypervisor or the firmware took the CPU
//   no departure, the kernel was entered             unseen    no tracepoint told why (a lost record, a blind spot)
//   no departure, neither is known                   firmware if entries of the kernel would show as departures, else
//   unseen beside departures, a piece of at most edge_ns    entry     the way into the kernel or out of it beside
//   departures, a longer piece                firmware  no entry or exit takes that long
//
// A piece between two departures is a way out and a way in: it may be twice as long. edge_ns is what the kernel's own
// code takes; what a hypervisor adds to deliver an interrupt is the hypervisor's.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "breach/breach.hpp"
#include "breach/gap_ring.hpp"
#include "system/tsc.hpp"

namespace cloister::breach {

// Time that the spinner did not see, [start_ns, end_ns) in CLOCK_MONOTONIC ns.
struct Gap {
    std::uint64_t start_ns = 0, end_ns = 0;
    std::uint64_t uncertainty_ns = 0;  // by which both ends may be off against the clock of the departures
    int cpu = -1;                      // where it began
    TscGap::Entry kernel = TscGap::Entry::unknown;
};
// Place it only once clock.covers(gap.after): a later sample moves what is extrapolated.
[[nodiscard]] Gap on_clock(const TscGap& gap, const system::TscClock& clock);

class GapBook {
public:
    struct Options {
        std::uint32_t tid = 0, tgid = 0;  // the spinner
        std::uint64_t threshold_ns = 0;
        std::uint64_t edge_ns = 2000;
        bool traced = true;  // departures of that thread are given here
    };
    struct Totals {
        std::uint64_t gaps = 0, lost_ns = 0, explained_ns = 0;
        std::map<Cause, std::uint64_t> inferred_ns;                 // their sum and explained_ns are lost_ns
        std::uint64_t worst_ns = 0;                                 // the longest gap
        std::uint64_t kernel = 0;                                   // gaps in which the kernel was entered
        std::uint64_t named = 0;                                    // those of them in which a traced departure lies
        std::uint64_t below_threshold = 0, below_threshold_ns = 0;  // departures that lie in no gap
        std::uint64_t missed = 0;                                   // gaps that are known by number and length only
        std::uint64_t misfits = 0;         // departures that stick out of their gap further than the clocks allow
        std::uint64_t contradictions = 0;  // gaps with a departure although the kernel left no footprint
        std::uint64_t late = 0;            // departures given after the gaps of their time were decided
    };
    // Inferred breaches: at most one for each cause and gap. Its length is the sum of the pieces of that cause, its
    // place the largest of them (moved as far as it takes to stay inside the gap).
    using Sink = std::function<void(const Breach&)>;

    GapBook(Options options, Sink sink);

    // When the spinner began. Departures before do not count; one that straddles it is cut.
    void begin(std::uint64_t begin_ns) { begin_ns_ = begin_ns; }
    // A departure of the spinner, roughly in order of its end; of others, and what is inferred itself, is ignored.
    void departure(const Breach& root);
    // Gaps in order; they do not overlap.
    void gap(const Gap& gap);
    // Gaps that found no room in the ring: their time is lost and unexplained, as `unseen`.
    void missed(std::uint64_t gaps, std::uint64_t ns);

    // Every gap that begins, and every departure that ends, before the watermark has been given: decides those gaps.
    void advance(std::uint64_t watermark_ns);
    // The end of the spinning: decides all. What the spinner did after it does not count.
    void finish(std::uint64_t end_ns);

    [[nodiscard]] const Totals& totals() const { return totals_; }
    // The part of the balance that gaps decide: lost, explained, unexplained, inferred, and the counts of gaps.
    void fill(Balance& balance) const;

private:
    struct Departure {
        std::uint64_t start, end;
        bool named;  // traced, with a name
        bool in_a_gap;
    };
    void decide(const Gap& gap);
    void settle(std::uint64_t before_ns);
    void emit(const Gap& gap, Cause cause, const char* detail, std::uint64_t at, std::uint64_t length);

    Options options_;
    Sink sink_;
    std::uint64_t begin_ns_ = 0, decided_ns_ = 0;
    std::deque<Gap> gaps_;
    std::deque<Departure> departures_;                              // in order of end
    std::vector<std::pair<std::uint64_t, std::uint64_t>> covered_;  // scratch
    Totals totals_;
};

}  // namespace cloister::breach
