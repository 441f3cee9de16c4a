// actor known: an exact number of each kind of breach, phase by phase, and what getrusage(2) says to it.
#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#include "actor.hpp"

namespace actor {
namespace {

constexpr std::size_t kPage = 4096;

constexpr char kHelp[] =
    R"(actor known [OPTIONS]: does what the options say, exactly, and prints it as one JSON object

  --syscalls N        N times each of getppid, getuid, geteuid and getgid
  --touch M           M first touches of a page, by touch_first
  --yield K           K times sched_yield, with a competitor on the same CPU that does nothing else
  --timers T          T expirations of a POSIX timer, 200 us each, delivered as SIGRTMIN
  --shootdowns S      S unmappings by a thread on another CPU, by shoot_down, while this one is in user code. Where it
                      was switched out meanwhile the unmapping is repeated, and counted as uncertain
  --sleep-before MS   before the first phase
  --fifo PATH         reads a byte from here before each phase; prints its pid to stderr first
  --thread            does all of it in a second thread

The CPU is the one that it is pinned to, else the highest it may use. Exit status: 2 bad usage, 3 cannot be done here.
)";

struct Plan {
    std::uint64_t syscalls = 0, touch = 0, yield = 0, timers = 0, shootdowns = 0;
    double sleep_before_ms = 0;
    const char* fifo = nullptr;
    bool thread = false;
};

// What the kernel counts for the calling thread.
struct Counts {
    long minor = 0, major = 0, voluntary = 0, involuntary = 0;
};

Counts counts() {
    rusage usage{};
    getrusage(RUSAGE_THREAD, &usage);
    return {usage.ru_minflt, usage.ru_majflt, usage.ru_nvcsw, usage.ru_nivcsw};
}

// One phase in the report: its own fields, then what the kernel counted meanwhile for this thread.
std::string phase(const char* name, const std::string& fields, const Counts& before, const Counts& after) {
    std::ostringstream out;
    out << ", \"" << name << "\": {" << fields << ", \"rusage\": {\"minflt\": " << after.minor - before.minor
        << ", \"majflt\": " << after.major - before.major << ", \"nvcsw\": " << after.voluntary - before.voluntary
        << ", \"nivcsw\": " << after.involuntary - before.involuntary << "}}";
    return out.str();
}

std::string field(const char* name, std::uint64_t value) {
    return std::string("\"") + name + "\": " + std::to_string(value);
}

std::string call_system(std::uint64_t count) {
    const auto before = counts();
    for (std::uint64_t i = 0; i < count; ++i) {
        syscall(SYS_getppid);
        syscall(SYS_getuid);
        syscall(SYS_geteuid);
        syscall(SYS_getgid);
    }
    const auto after = counts();
    return phase("syscalls",
                 field("getppid", count) + ", " + field("getuid", count) + ", " + field("geteuid", count) + ", " +
                     field("getgid", count),
                 before, after);
}

[[gnu::noinline]] void touch_first(volatile char* memory, std::uint64_t pages) {
    for (std::uint64_t i = 0; i < pages; ++i) memory[i * kPage] = 1;
}

std::string touch_pages(std::uint64_t count) {
    void* memory = mmap(nullptr, count * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) die("mmap");
    // A huge page would make one fault of 512 touches.
    if (madvise(memory, count * kPage, MADV_NOHUGEPAGE) != 0 && errno != EINVAL) die("madvise");
    const auto before = counts();
    touch_first(static_cast<volatile char*>(memory), count);
    const auto after = counts();
    munmap(memory, count * kPage);
    return phase("touch", field("count", count), before, after);
}

std::string yield_to_competitor(std::uint64_t count) {
    // Not std::atomic's wait or std::latch: those call sched_yield themselves.
    sem_t running;
    sem_init(&running, 0, 0);
    std::atomic<bool> stop{false};
    std::uint64_t competitors_count = 0;
    pid_t competitor_tid = 0;
    std::thread competitor([&] {
        competitor_tid = gettid();
        sem_post(&running);
        for (; !stop.load(std::memory_order_relaxed); ++competitors_count) sched_yield();
    });
    while (sem_wait(&running) != 0) {
    }
    const auto before = counts();
    for (std::uint64_t i = 0; i < count; ++i) sched_yield();
    const auto after = counts();
    stop = true;
    competitor.join();
    return phase("yield",
                 field("count", count) + ", " + field("competitors_count", competitors_count) + ", " +
                     field("competitor_tid", static_cast<std::uint64_t>(competitor_tid)),
                 before, after);
}

volatile std::sig_atomic_t expired = 0;

void count_expiration(int) {
    const std::sig_atomic_t so_far = expired;
    expired = so_far + 1;
}

// Each expiration is armed by itself after the one before was handled, so none can overrun and the number is exact.
std::string expire_timers(std::uint64_t count) {
    struct sigaction action {};
    action.sa_handler = count_expiration;
    sigaction(SIGRTMIN, &action, nullptr);
    sigevent event{};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGRTMIN;
    timer_t timer{};
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0) die("timer_create");
    const itimerspec once{{0, 0}, {0, 200'000}};
    const auto before = counts();
    for (std::uint64_t i = 0; i < count; ++i) {
        timer_settime(timer, 0, &once, nullptr);
        while (static_cast<std::uint64_t>(expired) == i) {
        }
    }
    const auto after = counts();
    timer_delete(timer);
    return phase("timers", field("count", count) + ", " + field("signal", static_cast<std::uint64_t>(SIGRTMIN)), before,
                 after);
}

// How often a thread of this process has been switched out, read again and again without opening anything.
class Switches {
public:
    explicit Switches(pid_t tid) : fd_(open(("/proc/self/task/" + std::to_string(tid) + "/status").c_str(), O_RDONLY)) {
        if (fd_ < 0) die("/proc/self/task");
    }
    Switches(const Switches&) = delete;
    Switches& operator=(const Switches&) = delete;
    ~Switches() { close(fd_); }

    [[nodiscard]] std::uint64_t read() const {
        std::array<char, 8192> text{};
        if (pread(fd_, text.data(), text.size() - 1, 0) <= 0) die("/proc/self/task");
        std::uint64_t sum = 0;
        for (const char* label : {"\nvoluntary_ctxt_switches:", "\nnonvoluntary_ctxt_switches:"}) {
            const char* line = std::strstr(text.data(), label);
            if (!line) die("no context switches in /proc/self/task");
            sum += std::strtoull(line + std::strlen(label), nullptr, 10);
        }
        return sum;
    }

private:
    int fd_;
};

int shoot_down_line = 0;

// Touched memory must leave the TLB of every CPU that runs a thread of this process: one IPI to each. But a target that
// is switched out meanwhile may need none; true if it was in its own code all the time, so that there was an IPI.
[[gnu::noinline]] bool shoot_down(const std::atomic<std::uint64_t>& beat, const Switches& target) {
    void* memory = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) die("mmap");
    *static_cast<volatile char*>(memory) = 1;
    const auto switches = target.read();
    const auto seen = beat.load(std::memory_order_relaxed);
    while (beat.load(std::memory_order_relaxed) == seen) {
    }
    munmap(memory, kPage), shoot_down_line = __LINE__;
    return target.read() == switches;
}

// What /proc/interrupts says of TLB shootdowns that `cpu` has received.
std::uint64_t tlb_interrupts(int cpu) {
    std::ifstream file("/proc/interrupts");
    std::string line, word;
    std::getline(file, line);
    std::istringstream head(line);
    int column = 0;
    while (head >> word && word != "CPU" + std::to_string(cpu)) ++column;
    while (std::getline(file, line)) {
        std::istringstream row(line);
        row >> word;
        if (word != "TLB:") continue;
        std::uint64_t value = 0;
        for (int i = 0; i <= column; ++i) row >> value;
        return value;
    }
    return 0;
}

bool pin_elsewhere(int cpu) {
    for (int other = 0; other < CPU_SETSIZE; ++other) {
        if (other != cpu && pin(other)) return true;
    }
    return false;
}

std::string shoot_from_elsewhere(std::uint64_t count, int cpu) {
    std::atomic<std::uint64_t> beat{0};
    std::atomic<bool> done{false};
    std::uint64_t received = 0, uncertain = 0;
    const Switches spinner(gettid());
    pid_t shooter_tid = 0;
    int shooter_cpu = -1;
    std::thread shooter([&] {
        pthread_setname_np(pthread_self(), "shooter");
        if (!pin_elsewhere(cpu)) die("shootdowns need a second CPU");
        shooter_tid = gettid();
        shooter_cpu = sched_getcpu();
        const auto received_before = tlb_interrupts(cpu);
        for (std::uint64_t certain = 0; certain < count;) ++(shoot_down(beat, spinner) ? certain : uncertain);
        received = tlb_interrupts(cpu) - received_before;
        done = true;
    });
    const auto before = counts();
    while (!done.load(std::memory_order_relaxed)) beat.fetch_add(1, std::memory_order_relaxed);
    const auto after = counts();
    shooter.join();
    return phase("shootdowns",
                 field("count", count) + ", " + field("uncertain", uncertain) + ", " + field("received", received) +
                     ", " + field("shooter_tid", static_cast<std::uint64_t>(shooter_tid)) + ", " +
                     field("shooter_cpu", static_cast<std::uint64_t>(shooter_cpu)) + ", " +
                     field("line", static_cast<std::uint64_t>(shoot_down_line)),
                 before, after);
}

Plan parse(Arguments arguments) {
    constexpr double most = 1e9;
    const option options[] = {{"syscalls", required_argument, nullptr, 's'},
                              {"touch", required_argument, nullptr, 'm'},
                              {"yield", required_argument, nullptr, 'y'},
                              {"timers", required_argument, nullptr, 't'},
                              {"shootdowns", required_argument, nullptr, 'i'},
                              {"sleep-before", required_argument, nullptr, 'b'},
                              {"fifo", required_argument, nullptr, 'f'},
                              {"thread", no_argument, nullptr, 'T'},
                              {"help", no_argument, nullptr, 'h'},
                              {nullptr, 0, nullptr, 0}};
    Plan plan;
    // getopt skips the first word as the program's name: give it the subcommand's.
    const int argc = static_cast<int>(arguments.size()) + 1;
    char** argv = arguments.data() - 1;
    for (int found; (found = getopt_long(argc, argv, "", options, nullptr)) != -1;) {
        const auto count = [&](const char* name) { return static_cast<std::uint64_t>(number(optarg, name, 0, most)); };
        switch (found) {
            case 's':
                plan.syscalls = count("--syscalls");
                break;
            case 'm':
                plan.touch = count("--touch");
                break;
            case 'y':
                plan.yield = count("--yield");
                break;
            case 't':
                plan.timers = count("--timers");
                break;
            case 'i':
                plan.shootdowns = count("--shootdowns");
                break;
            case 'b':
                plan.sleep_before_ms = number(optarg, "--sleep-before", 0, most);
                break;
            case 'f':
                plan.fifo = optarg;
                break;
            case 'T':
                plan.thread = true;
                break;
            case 'h':
                std::fputs(kHelp, stdout);
                std::exit(0);
            default:
                std::exit(2);
        }
    }
    if (optind < argc) {
        std::fprintf(stderr, "actor: known: unexpected '%s'\n", argv[optind]);
        std::exit(2);
    }
    return plan;
}

void perform(const Plan& plan, int cpu) {
    int fifo = -1;
    if (plan.fifo) {
        std::fprintf(stderr, "%d\n", getpid());
        fifo = open(plan.fifo, O_RDONLY);
        if (fifo < 0) die(plan.fifo);
    }
    const auto wait = [fifo] {
        char byte = 0;
        if (fifo >= 0 && read(fifo, &byte, 1) != 1) die("the FIFO ended");
    };
    if (plan.sleep_before_ms > 0) {
        const auto ns = static_cast<long long>(plan.sleep_before_ms * 1e6);
        const timespec time{static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
        nanosleep(&time, nullptr);
    }
    std::string report;
    if (plan.syscalls) wait(), report += call_system(plan.syscalls);
    if (plan.touch) wait(), report += touch_pages(plan.touch);
    if (plan.yield) wait(), report += yield_to_competitor(plan.yield);
    if (plan.timers) wait(), report += expire_timers(plan.timers);
    if (plan.shootdowns) wait(), report += shoot_from_elsewhere(plan.shootdowns, cpu);

    rusage process{};
    getrusage(RUSAGE_SELF, &process);
    std::printf(
        "{\"pid\": %d, \"tid\": %d, \"cpu\": %d%s, \"rusage\": {\"minflt\": %ld, \"majflt\": %ld, \"nvcsw\": %ld, "
        "\"nivcsw\": %ld}}\n",
        getpid(), gettid(), cpu, report.c_str(), process.ru_minflt, process.ru_majflt, process.ru_nvcsw,
        process.ru_nivcsw);
}

}  // namespace

int known(Arguments arguments) {
    const Plan plan = parse(arguments);
    // Code and stack are resident before anything is counted; where RLIMIT_MEMLOCK forbids it, the phases' own rusage
    // tells how many faults came on top.
    mlockall(MCL_CURRENT);
    munlockall();
    const int cpu = pin_to_one();
    if (plan.thread) {
        std::thread(perform, plan, cpu).join();
    } else {
        perform(plan, cpu);
    }
    return 0;
}

}  // namespace actor
