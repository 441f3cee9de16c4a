// A program that records its own events all the time, and keeps what led to the moment that mattered.
//
//     engine DIRECTORY          then: cloister view DIRECTORY
//
// While it runs (engine DIRECTORY SECONDS), `cloister snapshot --pid PID -o DIR` looks into it from outside.
#include <sched.h>

#include <chrono>
#include <cloister/record.hpp>
#include <cloister/trace.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <thread>

CLOISTER_EVENT(engine, order, (std::uint64_t, id), (double, price), (std::string_view, venue));
CLOISTER_EVENT(engine, slow, (std::uint64_t, id), (std::uint64_t, ns));

namespace {

using Clock = std::chrono::steady_clock;

// One order in 50,000 takes longer than it should.
bool handle(std::uint64_t id) {
    const auto begin = Clock::now();
    CLOISTER_TRACE(engine, order, id, 100 + static_cast<double>(id % 100) / 100, id % 2 ? "XETR" : "XPAR");
    if (id % 50'000 == 49'999) std::this_thread::sleep_for(std::chrono::microseconds(200));
    const auto ns = static_cast<std::uint64_t>((Clock::now() - begin) / std::chrono::nanoseconds(1));
    if (ns < 150'000) return false;
    CLOISTER_TRACE(engine, slow, id, ns);
    return true;
}

int failed(const std::string& error) {
    std::fputs(error.c_str(), stderr);
    return 1;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) return failed("usage: engine DIRECTORY [SECONDS]\n");
    if (const auto started = cloister::record::start(); !started) return failed(started.error);
    // It stays on one CPU, whose lane has its memory before the first order.
    const int cpu = sched_getcpu();
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<std::size_t>(cpu), &one);
    if (sched_setaffinity(0, sizeof one, &one) != 0) return failed("cannot stay on one CPU\n");
    if (const auto prepared = cloister::record::prepare(cpu); !prepared) return failed(prepared.error);
    if (const auto enabled = cloister::trace::enable("engine:*"); !enabled) return failed(enabled.error);
    const auto end = Clock::now() + std::chrono::seconds(argc > 2 ? std::atoi(argv[2]) : 0);
    bool taken = false;
    for (std::uint64_t id = 0; !taken || Clock::now() < end; ++id) {
        if (!handle(id) || taken) continue;
        if (const auto snapshot = cloister::record::snapshot(argv[1]); !snapshot) return failed(snapshot.error);
        std::printf("order %llu was slow; what led to it is in %s: cloister view --last 5 %s\n",
                    static_cast<unsigned long long>(id), argv[1], argv[1]);
        std::fflush(stdout);
        taken = true;
    }
}
