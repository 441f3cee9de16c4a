#include "breach/spinner.hpp"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <iterator>
#include <utility>

#include <cpuid.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "breach/probe/record.h"
#include "system/tsc.hpp"

// Code that still runs when everything else is unmapped: one section, no calls, nothing that a compiler puts in.
#if defined(__has_attribute) && __has_attribute(disable_sanitizer_instrumentation)
#define CLOISTER_UNINSTRUMENTED disable_sanitizer_instrumentation,
#else
#define CLOISTER_UNINSTRUMENTED
#endif
#define CLOISTER_SPIN_CODE                                                       \
    __attribute__((section("cloister_spin"), noinline, used, no_stack_protector, \
                   CLOISTER_UNINSTRUMENTED no_sanitize("address", "thread", "undefined")))
#define CLOISTER_SPIN_INLINE [[gnu::always_inline]] inline

extern "C" {
extern const char __start_cloister_spin[];  // by the linker
extern const char __stop_cloister_spin[];
}

namespace cloister::breach {
namespace {

constexpr std::uintptr_t kPage = 4096;
constexpr std::uintptr_t kTaskEnd = 0x7ffffffff000;  // of 47 bits; the kernel maps higher only on request
constexpr std::uint64_t kReadyNs = 2'000'000'000;
constexpr std::uint64_t kGraceNs = 200'000'000;
constexpr std::uint64_t kCalibrateNs = 5'000'000;  // readings 50 ns wide over this are good to 20 ppm
constexpr std::uint64_t kMinGapNs = 200, kMaxGapNs = 1'000'000'000;
constexpr std::uint32_t kCpuMask = 0xfff;  // Linux keeps CPU | node << 12 in TSC_AUX
constexpr std::uint64_t kBeatLoops = 1U << 14;

enum State : std::uint32_t { kStarting, kReady, kFailed };
enum class Stage : std::uint32_t { parent_gone, affinity };

struct Range {
    std::uintptr_t begin, end;
};

std::uint64_t now_ns() { return system::TscClock::read_machine().ns; }

void nap() {
    const timespec time{0, 500'000};
    ::nanosleep(&time, nullptr);
}

}  // namespace

// Written by the parent before go, then only go and stop; by the child: all else.
struct Spinner::Shared {
    struct alignas(64) {
        std::uint32_t go, stop;
        std::uint64_t threshold;  // cycles
        pid_t parent;
        std::uint64_t mask[CL_CPUS / 64];
        Range keep[3];  // in order of address
    } orders;
    struct alignas(64) {
        std::uint32_t state;  // enum State
        Stage stage;
        int error;
        bool sees_entries, locked;
        std::uint64_t begin, until, end, loops, max_step, entries;
    } report;
    GapRing ring;
    alignas(kPage) unsigned char untouched[kPage];  // the child's first fault
    alignas(kPage) unsigned char stack[4 * kPage];
};

// What runs in the child. A footprint of the kernel, without privileges: a data segment register may hold a null
// selector with its two low bits set (1 to 3). iret to user mode replaces a null selector by 0, so 1 in ES survives
// everything but a return from an interrupt, an exception or an NMI. Firmware (SMM) and hypervisors save and restore it
// as it is. sysret leaves it alone too (the spinner makes no syscalls), and so does eret of processors with FRED, which
// is why it is tried out first.
struct SpinnerProcess {
    using Shared = Spinner::Shared;

    CLOISTER_SPIN_INLINE static long sys(long number, std::uintptr_t a, std::uintptr_t b = 0, std::uintptr_t c = 0) {
        long result = number;
        asm volatile("syscall" : "+a"(result) : "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
        return result;
    }
    CLOISTER_SPIN_INLINE static void arm_footprint() { asm volatile("mov %0, %%es" : : "r"(1)); }
    CLOISTER_SPIN_INLINE static bool entered() {
        std::uint32_t es = 0;
        asm volatile("mov %%es, %0" : "=r"(es));
        return es == 0;
    }

    CLOISTER_SPIN_CODE static void spin(Shared* shared);
    CLOISTER_SPIN_CODE static int child(void* argument);
};

void SpinnerProcess::spin(Shared* shared) {
    auto& report = shared->report;
    const bool sees = report.sees_entries;
    while (!__atomic_load_n(&shared->orders.go, __ATOMIC_ACQUIRE)) {
        if (__atomic_load_n(&shared->orders.stop, __ATOMIC_ACQUIRE)) return;
        __builtin_ia32_pause();
    }
    const std::uint64_t threshold = shared->orders.threshold;
    std::uint64_t loops = 0, max_step = 0, entries = 0;
    std::uint32_t last_cpu = 0;
    arm_footprint();
    std::uint64_t last = __builtin_ia32_rdtscp(&last_cpu);
    bool entry_before = false;
    __atomic_store_n(&report.begin, last, __ATOMIC_RELEASE);
    do {
        std::uint32_t cpu = 0;
        const std::uint64_t now = __builtin_ia32_rdtscp(&cpu);
        // An entry between the two instructions shows here, but its time in the next step. So a short step hands the
        // footprint that was seen after it on to the next; one footprint never speaks for two gaps.
        const bool entry = sees && entered();
        if (entry) {
            arm_footprint();
            ++entries;
        }
        const std::uint64_t step = now - last;
        if (step > threshold || cpu != last_cpu) {
            shared->ring.push(TscGap{last, now, static_cast<std::uint16_t>(last_cpu & kCpuMask),
                                     static_cast<std::uint16_t>(cpu & kCpuMask),
                                     !sees                   ? TscGap::Entry::unknown
                                     : entry || entry_before ? TscGap::Entry::yes
                                                             : TscGap::Entry::no});
            entry_before = false;
        } else {
            if (step > max_step) max_step = step;
            entry_before = entry;
        }
        last = now;
        last_cpu = cpu;
        if (++loops % kBeatLoops == 0) {
            __atomic_store_n(&report.loops, loops, __ATOMIC_RELAXED);
            __atomic_store_n(&report.max_step, max_step, __ATOMIC_RELAXED);
            __atomic_store_n(&report.entries, entries, __ATOMIC_RELAXED);
            __atomic_store_n(&report.until, now, __ATOMIC_RELEASE);
        }
    } while (!__atomic_load_n(&shared->orders.stop, __ATOMIC_RELAXED));
    __atomic_store_n(&report.loops, loops, __ATOMIC_RELAXED);
    __atomic_store_n(&report.max_step, max_step, __ATOMIC_RELAXED);
    __atomic_store_n(&report.entries, entries, __ATOMIC_RELAXED);
    __atomic_store_n(&report.until, last, __ATOMIC_RELEASE);
    __atomic_store_n(&report.end, last, __ATOMIC_RELEASE);
}

int SpinnerProcess::child(void* argument) {
    auto* shared = static_cast<Shared*>(argument);
    auto& orders = shared->orders;
    auto& report = shared->report;
    const auto address = reinterpret_cast<std::uintptr_t>(shared);

    sys(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
    sys(SYS_prctl, PR_SET_NAME, reinterpret_cast<std::uintptr_t>("cloister-spin"));
    report.stage = Stage::parent_gone;  // before it could be asked for its signal
    long result = sys(SYS_getppid, 0) == orders.parent ? 0 : -ESRCH;
    if (result == 0) {
        report.stage = Stage::affinity;
        result = sys(SYS_sched_setaffinity, 0, sizeof orders.mask, reinterpret_cast<std::uintptr_t>(orders.mask));
    }
    if (result < 0) {
        report.error = static_cast<int>(-result);
        __atomic_store_n(&report.state, std::uint32_t{kFailed}, __ATOMIC_RELEASE);
        sys(SYS_exit_group, 1);
    }

    // The collector's descriptors must close when it closes them, and its pipes end when it ends.
    sys(SYS_close_range, 0, ~0U, 0);
    // A mapping that is sealed against this stays, which costs a TLB flush when the kernel reclaims it, no more.
    std::uintptr_t from = 0;
    for (const Range& range : orders.keep) {
        if (range.begin > from) sys(SYS_munmap, from, range.begin - from);
        if (range.end > from) from = range.end;
    }
    sys(SYS_munmap, from, kTaskEnd - from);

    arm_footprint();
    const bool kept = !entered();
    (void)*const_cast<const volatile unsigned char*>(shared->untouched);
    report.sees_entries = kept && entered();

    bool locked = true;
    for (const Range& range : orders.keep) {
        if (range.end > range.begin && sys(SYS_mlock, range.begin, range.end - range.begin) < 0) locked = false;
    }
    report.locked = locked;
    for (std::uintptr_t page = address; page < address + sizeof(Shared); page += kPage) {
        __atomic_fetch_add(reinterpret_cast<unsigned char*>(page), 0, __ATOMIC_RELAXED);
    }
    __atomic_store_n(&report.state, std::uint32_t{kReady}, __ATOMIC_RELEASE);
    spin(shared);
    sys(SYS_exit_group, 0);
    return 0;
}

void Spinner::Unmap::operator()(Shared* shared) const { ::munmap(shared, sizeof(Shared)); }

Result<Spinner> Spinner::start(int cpu, std::uint64_t gap_ns) {
    if (gap_ns < kMinGapNs || gap_ns > kMaxGapNs) {
        return fail({.what = "cannot look for gaps with this threshold",
                     .needs = "a threshold from 200ns (several times what one look at the clock takes) to 1s",
                     .found = fmt::format("{} ns", gap_ns),
                     .set = "--gap 1us"});
    }
    if (cpu < 0 || cpu >= CL_CPUS) {
        return fail({.what = fmt::format("cannot spin on CPU {}", cpu),
                     .needs = fmt::format("a CPU number from 0 to {}", CL_CPUS - 1),
                     .found = fmt::format("{}", cpu),
                     .set = "-c with one of /sys/devices/system/cpu/online"});
    }
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    constexpr unsigned kRdtscp = 1U << 27;
    if (__get_cpuid(0x80000001U, &eax, &ebx, &ecx, &edx) == 0 || (edx & kRdtscp) == 0) {
        return fail({.what = "cannot find gaps on this processor",
                     .needs = "the instruction rdtscp (every x86-64 server since 2008)",
                     .found = "a processor, or a virtual one, whose CPUID does not offer it",
                     .set = "in a virtual machine a CPU model that has it: qemu -cpu host, or -cpu max"});
    }
    void* memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return fail({.what = "cannot share memory with the spinning task",
                     .needs = fmt::format("{} KiB of shared memory", sizeof(Shared) / 1024),
                     .found = fmt::format("mmap: {}", std::strerror(errno)),
                     .set = "a higher limit of memory: ulimit -v, or memory.max of this cgroup"});
    }
    Spinner spinner{std::unique_ptr<Shared, Unmap>(static_cast<Shared*>(memory))};
    system::TscClock clock;
    clock.sample();
    const std::uint64_t began = now_ns();
    if (auto launched = spinner.launch(cpu); !launched) return fail(std::move(launched.error()));
    while (now_ns() - began < kCalibrateNs || !clock.sample()) nap();
    spinner.shared_->orders.threshold = clock.cycles(gap_ns);
    return spinner;
}

Result<void> Spinner::launch(int cpu) {
    const auto pages = [](std::uintptr_t begin, std::uintptr_t end) {
        return Range{begin & ~(kPage - 1), (end + kPage - 1) & ~(kPage - 1)};
    };
    auto& orders = shared_->orders;
    orders.parent = ::getpid();
    orders.mask[static_cast<unsigned>(cpu) / 64] = std::uint64_t{1} << (static_cast<unsigned>(cpu) % 64);
    const auto memory = reinterpret_cast<std::uintptr_t>(shared_.get());
    orders.keep[0] = pages(memory, memory + sizeof(Shared));
    orders.keep[1] = pages(reinterpret_cast<std::uintptr_t>(__start_cloister_spin),
                           reinterpret_cast<std::uintptr_t>(__stop_cloister_spin));
    // The kernel writes the number of the CPU to the area of rseq, and kills who does not have it mapped.
    std::uintptr_t thread = 0;
    asm("mov %%fs:0, %0" : "=r"(thread));
    const std::uintptr_t area = thread + static_cast<std::uintptr_t>(__rseq_offset);
    orders.keep[2] = pages(area, area + std::max<std::uintptr_t>(__rseq_size, sizeof(struct rseq)));
    std::sort(std::begin(orders.keep), std::end(orders.keep),
              [](const Range& a, const Range& b) { return a.begin < b.begin; });

    // The child has no memory to run a handler in, so it takes no signal but SIGKILL.
    sigset_t all, before;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    // Without SIGCHLD: waiting for any child, or ignoring that signal, does not take this one away.
    pid_ = ::clone(SpinnerProcess::child, std::end(shared_->stack), 0, shared_.get());
    const int error = errno;
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (pid_ < 0) {
        return fail({.what = "cannot start the spinning task",
                     .needs = "one more process",
                     .found = fmt::format("clone: {}", std::strerror(error)),
                     .set = "a higher limit: ulimit -u, or pids.max of this cgroup"});
    }
    running_ = true;
    const std::uint64_t until = now_ns() + kReadyNs;
    auto& report = shared_->report;
    std::uint32_t state = kStarting;
    while ((state = __atomic_load_n(&report.state, __ATOMIC_ACQUIRE)) == kStarting && alive() && now_ns() < until) {
        nap();
    }
    if (state == kReady) return {};
    if (state == kFailed && report.stage == Stage::affinity) {
        return fail({.what = fmt::format("cannot run on CPU {}", cpu),
                     .needs = "a CPU that is online and in the cpuset of this cgroup",
                     .found = fmt::format("sched_setaffinity: {}", std::strerror(report.error)),
                     .set = "-c with one of /sys/devices/system/cpu/online, or widen cpuset.cpus of this cgroup"});
    }
    return fail({.what = fmt::format("the spinning task did not start on CPU {}", cpu),
                 .needs = "CPU time on that CPU within 2 s",
                 .found = running_ ? "something else holds the CPU (a real-time task?)" : ending_,
                 .set = "chrt -p of what runs there: its priority must let an ordinary task run"});
}

Spinner::Spinner(Spinner&& other) noexcept
    : shared_(std::move(other.shared_)),
      pid_(std::exchange(other.pid_, -1)),
      running_(std::exchange(other.running_, false)),
      drained_until_(other.drained_until_),
      ending_(std::move(other.ending_)) {}

Spinner::~Spinner() { stop(); }

std::uint64_t Spinner::threshold_cycles() const { return shared_->orders.threshold; }

void Spinner::go() { __atomic_store_n(&shared_->orders.go, 1, __ATOMIC_RELEASE); }

std::size_t Spinner::drain(std::vector<TscGap>& gaps) {
    // Read first: what the spinner had put into the ring by then is drained below.
    drained_until_ = __atomic_load_n(&shared_->report.until, __ATOMIC_ACQUIRE);
    return shared_->ring.drain(gaps);
}

std::uint64_t Spinner::overflow() const { return __atomic_load_n(&shared_->ring.lost, __ATOMIC_RELAXED); }

std::uint64_t Spinner::overflow_cycles() const { return __atomic_load_n(&shared_->ring.lost_cycles, __ATOMIC_RELAXED); }

Spinner::Stats Spinner::stats() const {
    const auto& report = shared_->report;
    Stats stats;
    stats.end_tsc = __atomic_load_n(&report.end, __ATOMIC_ACQUIRE);
    stats.until_tsc = __atomic_load_n(&report.until, __ATOMIC_ACQUIRE);
    stats.begin_tsc = __atomic_load_n(&report.begin, __ATOMIC_ACQUIRE);
    stats.loops = __atomic_load_n(&report.loops, __ATOMIC_RELAXED);
    stats.max_step_cycles = __atomic_load_n(&report.max_step, __ATOMIC_RELAXED);
    stats.entries = __atomic_load_n(&report.entries, __ATOMIC_RELAXED);
    stats.sees_entries = report.sees_entries;
    stats.locked = report.locked;
    return stats;
}

bool Spinner::alive() {
    if (!running_) return false;
    int status = 0;
    const pid_t ended = ::waitpid(pid_, &status, WNOHANG | __WALL);
    if (ended != 0) reaped(ended, status);
    return running_;
}

void Spinner::stop() {
    if (!alive()) return;
    __atomic_store_n(&shared_->orders.stop, 1, __ATOMIC_RELEASE);
    const std::uint64_t until = now_ns() + kGraceNs;
    while (alive() && now_ns() < until) nap();
    if (!running_) return;
    ::kill(pid_, SIGKILL);
    int status = 0;
    const pid_t ended = ::waitpid(pid_, &status, __WALL);
    reaped(ended, status);
}

void Spinner::reaped(pid_t ended, int status) {
    running_ = false;
    if (ended < 0) {
        ending_ = fmt::format("gone: {}", std::strerror(errno));
    } else if (WIFSIGNALED(status)) {
        ending_ = fmt::format("killed by signal {} ({})", WTERMSIG(status), ::strsignal(WTERMSIG(status)));
    } else if (WEXITSTATUS(status) != 0) {
        ending_ = fmt::format("ended with status {}", WEXITSTATUS(status));
    }
}

}  // namespace cloister::breach
