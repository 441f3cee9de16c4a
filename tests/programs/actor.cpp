// actor SUBCOMMAND [ARGS]: programs that do exactly what they say.
#include "actor.hpp"

#include <sched.h>
#include <x86intrin.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

namespace actor {

double number(const char* text, const char* name, double low, double high) {
    char* rest = nullptr;
    const double value = std::strtod(text, &rest);
    if (rest == text || *rest || !(value >= low && value <= high)) {
        std::fprintf(stderr, "actor: %s: needs a number in [%g, %g], found '%s'\n", name, low, high, text);
        std::exit(2);
    }
    return value;
}

double number(Arguments arguments, std::size_t index, const char* name, double low, double high) {
    if (index >= arguments.size()) {
        std::fprintf(stderr, "actor: %s is missing\n", name);
        std::exit(2);
    }
    return number(arguments[index], name, low, high);
}

void die(const char* what) {
    std::fprintf(stderr, "actor: %s: %s\n", what, std::strerror(errno));
    std::exit(3);
}

std::uint64_t now_ns() {
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(time.tv_nsec);
}

double tsc_hz() {
    const auto begin_ns = now_ns();
    const auto begin = __rdtsc();
    while (now_ns() - begin_ns < 5'000'000) {
    }
    const auto ticks = __rdtsc() - begin;
    return static_cast<double>(ticks) * 1e9 / static_cast<double>(now_ns() - begin_ns);
}

[[gnu::noinline]] void spin_for(double seconds) {
    const auto ticks = static_cast<std::uint64_t>(seconds * tsc_hz());
    const auto begin = __rdtsc();
    while (__rdtsc() - begin < ticks) {
    }
}

bool pin(int cpu) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(cpu, &cpus);
    return sched_setaffinity(0, sizeof cpus, &cpus) == 0;
}

int pin_to_one() {
    cpu_set_t cpus;
    if (sched_getaffinity(0, sizeof cpus, &cpus) != 0) die("sched_getaffinity");
    int highest = CPU_SETSIZE - 1;
    while (!CPU_ISSET(highest, &cpus)) --highest;
    if (CPU_COUNT(&cpus) > 1 && !pin(highest)) die("sched_setaffinity");
    return highest;
}

namespace {

struct Subcommand {
    const char* name;
    int (*run)(Arguments);
    const char* help;
};

constexpr Subcommand kSubcommands[] = {
    {"known", known, "[OPTIONS]  an exact number of each kind of breach; known --help lists them"},
    {"spin", spin, "SECONDS  user code alone"},
    {"syscalls", syscalls, "N  getppid N times; prints how long they took"},
    {"faults", faults, "N  N first touches of a page, 256 pages mapped at a time; prints how long they took"},
    {"pace", pace, "PER_SECOND SECONDS  getppid at even times, else user code; prints how many"},
    {"exit", exit_at_once, "[STATUS]  at once"},
    {"time", print_time, " CLOCK_MONOTONIC at the begin of main, in ns"},
    {"signal", die_by_signal, "NUMBER  dies by this signal"},
    {"fork-exec", fork_exec, "CMD ARGS...  in a child; ends with its status"},
    {"daemonise", daemonise, "SECONDS FILE  the parent ends at once, the daemon spins and then writes FILE"},
    {"affinity", change_affinity, "CPU SECONDS  moves itself to CPU and spins there"},
    {"sigint", on_sigint, "ignore|handle|default SECONDS  spins; handle ends with 42 at the first SIGINT"},
    {"threads", thread_storm, "N  threads that call getppid once, one after another"},
    {"forks", fork_storm, "N  children that call getppid once, one after another"},
    {"ids", print_ids, " real and effective user id"},
};

int usage(std::FILE* out) {
    std::fprintf(out, "usage: actor SUBCOMMAND [ARGS]\n");
    for (const auto& subcommand : kSubcommands) std::fprintf(out, "  %s %s\n", subcommand.name, subcommand.help);
    return out == stdout ? 0 : 2;
}

}  // namespace
}  // namespace actor

int main(int argc, char** argv) {
    if (argc < 2) return actor::usage(stderr);
    for (const auto& subcommand : actor::kSubcommands) {
        if (std::strcmp(argv[1], subcommand.name) == 0) return subcommand.run({argv + 2, argv + argc});
    }
    return actor::usage(std::strcmp(argv[1], "help") == 0 ? stdout : stderr);
}
