#include <cloister/trace.hpp>

#include <time.h>

#include <atomic>

CLOISTER_EVENT(cloister, gap, (std::uint64_t, duration));

namespace cloister::tracepoint {
namespace {

// Where the thread's beats began, as a point on both clocks, and when the last one was. The longer ago the beginning,
// the more exact the rate: by the time of a gap of d after an age of a, the error is that of two readings, times d / a
// <= 1.
struct Beats {
    std::uint64_t first_tsc, first_ns, last_tsc;
};
constinit thread_local Beats beats __attribute__((tls_model("initial-exec"))) = {};

std::atomic<std::uint64_t> threshold_ns{10'000};

std::uint64_t monotonic_ns() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

__attribute__((cold, noinline)) void first_beat(std::uint64_t tsc) { beats = {tsc, monotonic_ns(), tsc}; }

__attribute__((cold, noinline)) void long_beat(std::uint64_t tsc, std::uint64_t gap) {
    const std::uint64_t age_tsc = tsc - beats.first_tsc, age_ns = monotonic_ns() - beats.first_ns;
    const auto duration = static_cast<std::uint64_t>(static_cast<double>(gap) * static_cast<double>(age_ns) /
                                                     static_cast<double>(age_tsc));
    if (duration > threshold_ns.load(std::memory_order_relaxed)) CLOISTER_TRACE(cloister, gap, duration);
}

}  // namespace
}  // namespace cloister::tracepoint

using namespace cloister::tracepoint;

extern "C" void cloister_beat() {
    const std::uint64_t tsc = __builtin_ia32_rdtsc();
    const std::uint64_t last = beats.last_tsc;
    if (last == 0) [[unlikely]]
        return first_beat(tsc);
    beats.last_tsc = tsc;
    // No TSC runs slower than 1 GHz: what is below the threshold in cycles is below it in ns. The rest is measured.
    // Read in a signal handler between the two lines above, the TSC can be behind the last one: no gap.
    if (tsc > last && tsc - last > threshold_ns.load(std::memory_order_relaxed)) [[unlikely]]
        long_beat(tsc, tsc - last);
}

extern "C" void cloister_beat_threshold(std::uint64_t ns) { threshold_ns.store(ns, std::memory_order_relaxed); }
