// tracepoint_bench ROUNDS: the same loop without a tracepoint, with one that is off, and with one that is on; and with the
// atomic instructions that the walk of the probe list does without. One JSON
// object a round, {variant: ns an iteration}; the variants take turns in random order.
#include <cloister/trace.hpp>

#include <cstdio>
#include <cstdlib>

#include <algorithm>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "common.hpp"

namespace {

CLOISTER_EVENT(bench, turn, (std::uint64_t, number), (std::uint64_t, value));

// A chain of dependent operations, some ns long: what a tracepoint costs is not hidden behind anything that waits.
std::uint64_t next(std::uint64_t value) {
    value ^= value << 13;
    value ^= value >> 7;
    value ^= value << 17;
    return value;
}

using Loop = std::uint64_t (*)(std::uint64_t);

__attribute__((noinline, aligned(64))) std::uint64_t plain(std::uint64_t turns) {
    std::uint64_t value = 88172645463325252U;
    for (std::uint64_t i = 0; i < turns; ++i) {
        __asm__ volatile("");  // neither loop is to be unrolled or vectorised
        value = next(value);
    }
    return value;
}

__attribute__((noinline, aligned(64))) std::uint64_t traced(std::uint64_t turns) {
    std::uint64_t value = 88172645463325252U;
    for (std::uint64_t i = 0; i < turns; ++i) {
        CLOISTER_TRACE(bench, turn, i, value);
        value = next(value);
    }
    return value;
}

// What a walk of the probe list would cost more if it began by counting itself in, as a lock or a counter of readers does.
__attribute__((noinline, aligned(64))) std::uint64_t counted(std::uint64_t turns) {
    static std::uint64_t readers;
    std::uint64_t value = 88172645463325252U;
    for (std::uint64_t i = 0; i < turns; ++i) {
        __atomic_fetch_add(&readers, 1, __ATOMIC_ACQUIRE);
        value = next(value);
        __atomic_fetch_sub(&readers, 1, __ATOMIC_RELEASE);
    }
    return value;
}

void nothing(void*, const cloister_event*) {}

struct Variant {
    const char* name;
    Loop loop;
    bool on;
    int probes;
    const char* filter;
    std::uint64_t turns;
};
constexpr Variant kVariants[] = {
    {"without", plain, false, 0, "", 20'000'000},
    {"without, but a pair of atomic instructions", counted, false, 0, "", 2'000'000},
    {"off", traced, false, 0, "", 20'000'000},
    {"on, no probe", traced, true, 0, "", 2'000'000},
    {"on, one probe", traced, true, 1, "", 2'000'000},
    {"on, two probes", traced, true, 2, "", 2'000'000},
    {"on, one probe, filter does not hold", traced, true, 1, "value == 0 && number > 5", 2'000'000},
};

void check(const cloister::trace::Outcome& outcome) {
    if (outcome) return;
    std::fputs(outcome.error.c_str(), stderr);
    std::exit(1);
}

double measure(const Variant& variant) {
    std::vector<int> probes;
    for (int i = 0; i < variant.probes; ++i) {
        const auto added = cloister::trace::add_probe("bench:*", nothing, nullptr);
        check(added);
        probes.push_back(added.count);
    }
    if (variant.on) check(cloister::trace::enable("bench:*", CLOISTER_DEBUG, variant.filter));
    variant.loop(variant.turns / 10);
    const double begin = cloister::bench::now_ns();
    const std::uint64_t value = variant.loop(variant.turns);
    const double took = cloister::bench::now_ns() - begin;
    if (value == 0) std::abort();
    if (variant.on) check(cloister::trace::disable("bench:*"));
    for (const int probe : probes) check(cloister::trace::remove_probe(probe));
    check(cloister::trace::synchronize());
    return took / static_cast<double>(variant.turns);
}

}  // namespace

int main(int argc, char** argv) {
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 7;  // NOLINT(cert-err34-c): started by tracepoint.py
    std::mt19937 rng{1};
    const Variant* order[std::size(kVariants)];
    for (std::size_t i = 0; i < std::size(kVariants); ++i) order[i] = &kVariants[i];
    for (int round = 0; round < rounds; ++round) {
        std::shuffle(std::begin(order), std::end(order), rng);
        std::string line;
        for (const Variant* variant : order) {
            char text[160];
            std::snprintf(text, sizeof text, "%s\"%s\": %.4f", line.empty() ? "{" : ", ", variant->name,
                          measure(*variant));
            line += text;
        }
        std::puts((line + "}").c_str());
    }
}
