// From records to breaches: nests intervals, joins departures, names causes, pairs IPIs with their senders.
//
// Single-threaded, no clock and no I/O of its own: it is driven by records and by the watermark, so recorded streams
// replay to the same report (tests/breach/fixtures).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "breach/breach.hpp"

namespace cloister::breach {

// What the correlator has to ask about the machine.
struct Names {
    virtual ~Names() = default;
    // Name of the kernel function at `address` ("flush_tlb_func"); "0x..." when unknown.
    [[nodiscard]] virtual std::string kernel_function(std::uint64_t address) const = 0;
};

class Correlator {
public:
    // How long a departure waits for what follows it before the thread is back in its own code (softirqs, a preemption,
    // a signal), which is known only at its end. A preemption that ends later is a departure of its own.
    static constexpr std::uint64_t kHoldNs = 4'000'000;

    // A finished departure: per thread in order of its end (but for late ones), before the watermark has passed
    // its end by more than kHoldNs.
    using Sink = std::function<void(const Breach&)>;
    using NoticeSink = std::function<void(const Notice&)>;

    Correlator(const Names& names, Sink sink, NoticeSink notices);
    ~Correlator();

    // The CPU the watched task belongs on: leaving it is worth a notice. -1: any.
    void expect_cpu(int cpu);

    // Records of one CPU in the order of its ring. They take effect when the watermark passes them.
    void feed(const cl_record& record);
    void feed(const StackPtr& stack);

    // Every record that ends before `watermark_ns` has been fed: process those, in time order over all CPUs.
    void advance(std::uint64_t watermark_ns);

    // End of the watch: process everything, close what is open (end_seen = false).
    void finish(std::uint64_t end_ns);

    // The stack of a site if one was ever seen, else null.
    [[nodiscard]] StackPtr stack_of_site(std::uint64_t site) const;

    struct Stats {
        std::uint64_t records = 0, departures = 0;
        std::uint64_t late = 0;                 // records older than the watermark when they were fed
        std::uint64_t orphans = 0;              // inner intervals whose outer one was lost (not: is open at the end)
        std::uint64_t csd = 0, csd_paired = 0;  // functions called by IPI, and those whose sender was found
    };
    [[nodiscard]] const Stats& stats() const;

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace cloister::breach
