// What the benchmarks share: a clock, the CPUs that they may run on, and lists in JSON.
#pragma once

#include <sched.h>
#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

namespace cloister::bench {

inline double now_ns(clockid_t clock = CLOCK_MONOTONIC) {
    timespec now{};
    clock_gettime(clock, &now);
    return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}
// What the calling thread has used of a CPU: what is compared is work, not what else the machine does.
inline double cpu_ns() { return now_ns(CLOCK_THREAD_CPUTIME_ID); }

inline std::vector<int> allowed_cpus() {
    cpu_set_t set;
    sched_getaffinity(0, sizeof set, &set);
    std::vector<int> out;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
        if (CPU_ISSET(static_cast<std::size_t>(cpu), &set)) out.push_back(cpu);
    return out;
}

// The calling thread, to one CPU.
inline void pin(int cpu) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<std::size_t>(cpu), &one);
    if (sched_setaffinity(0, sizeof one, &one) != 0) std::exit(1);
}

inline void print_json(const char* name, const std::vector<double>& values) {
    std::printf("\"%s\": [", name);
    for (std::size_t i = 0; i < values.size(); ++i) std::printf("%s%.3f", i ? ", " : "", values[i]);
    std::printf("]");
}

}  // namespace cloister::bench
