#include "breach/kernel_names.hpp"

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>

#include <fmt/format.h>

#include "breach/probe/record.h"

namespace cloister::breach {

namespace {

using Table = std::array<std::string_view, CL_I386>;

constexpr Table kSyscalls64 = [] {
    Table table{};
#define CL_SYSCALL_64(nr, name) table[nr] = #name;
#define CL_SYSCALL_32(nr, name)
#include "breach/syscalls.inc"
#undef CL_SYSCALL_64
#undef CL_SYSCALL_32
    return table;
}();

constexpr Table kSyscalls32 = [] {
    Table table{};
#define CL_SYSCALL_64(nr, name)
#define CL_SYSCALL_32(nr, name) table[nr] = #name;
#include "breach/syscalls.inc"
#undef CL_SYSCALL_64
#undef CL_SYSCALL_32
    return table;
}();

static_assert(CL_SYSCALLS == 2 * CL_I386);

std::string_view bare_syscall_name(std::uint64_t nr) {
    if (nr < CL_I386) return kSyscalls64[nr];
    return nr < CL_SYSCALLS ? kSyscalls32[nr - CL_I386] : std::string_view();
}

struct Exception {
    int signal, code;
    std::string_view text;
};

// SI_KERNEL stands for what the processor does not tell more about: general protection, mostly a non-canonical address.
constexpr Exception kExceptions[] = {
    {SIGFPE, FPE_INTDIV, "integer divide by zero"},
    {SIGFPE, FPE_INTOVF, "integer overflow"},
    {SIGFPE, FPE_FLTDIV, "floating-point divide by zero"},
    {SIGFPE, FPE_FLTOVF, "floating-point overflow"},
    {SIGFPE, FPE_FLTUND, "floating-point underflow"},
    {SIGFPE, FPE_FLTRES, "floating-point inexact result"},
    {SIGFPE, FPE_FLTINV, "invalid floating-point operation"},
    {SIGILL, ILL_ILLOPC, "illegal opcode"},
    {SIGILL, ILL_ILLOPN, "illegal operand"},
    {SIGILL, ILL_PRVOPC, "privileged opcode"},
    {SIGSEGV, SEGV_MAPERR, "address not mapped"},
    {SIGSEGV, SEGV_ACCERR, "access not permitted"},
    {SIGSEGV, SEGV_PKUERR, "protection key"},
    {SIGSEGV, 10, "control protection"},
    {SIGSEGV, SI_KERNEL, "general protection"},
    {SIGBUS, BUS_ADRALN, "misaligned address"},
    {SIGBUS, BUS_ADRERR, "no memory behind the address"},
    {SIGBUS, BUS_OBJERR, "hardware error"},
    {SIGBUS, BUS_MCEERR_AR, "memory error"},
    {SIGBUS, BUS_MCEERR_AO, "memory error elsewhere"},
    {SIGTRAP, TRAP_BRKPT, "breakpoint"},
    {SIGTRAP, TRAP_TRACE, "single step"},
    {SIGTRAP, 4, "hardware breakpoint"},
    {SIGTRAP, 6, "perf event"},
    {SIGTRAP, SI_KERNEL, "breakpoint"},
    {SIGSYS, 1, "seccomp"},
    {SIGSYS, 2, "syscall user dispatch"},
};

struct IpiPurpose {
    std::string_view function, purpose;
};
constexpr IpiPurpose kIpiPurposes[] = {
    {"flush_tlb_func", "TLB flush"},
    {"do_flush_tlb_all", "kernel TLB flush"},
    {"do_kernel_range_flush", "kernel TLB flush"},
    {"do_sync_core", "text patching"},
    {"ipi_mb", "membarrier"},
    {"ipi_sync_core", "membarrier"},
    {"ipi_rseq", "membarrier"},
    {"ipi_sync_rq_state", "membarrier"},
    {"sched_ttwu_pending", "remote wake-up"},
    {"nohz_csd_func", "idle load balance"},
    {"remote_function", "perf event"},
    {"__perf_event_read", "perf event"},
    {"rcu_exp_handler", "RCU expedited grace period"},
    {"mtrr_rendezvous_handler", "MTRR update"},
    {"__rdmsr_on_cpu", "MSR access"},
    {"__wrmsr_on_cpu", "MSR access"},
    {"__rdmsr_safe_on_cpu", "MSR access"},
    {"__wrmsr_safe_on_cpu", "MSR access"},
    {"__blk_mq_complete_request_remote", "block I/O completion"},
    {"invalidate_bh_lru", "buffer cache drop"},
};

constexpr std::string_view kTickFunctions[] = {
    "tick_nohz_handler",        "tick_sched_timer", "tick_nohz_highres_handler",
    "tick_nohz_lowres_handler", "tick_periodic",    "tick_handle_periodic"};

constexpr std::string_view kSoftirqs[] = {"HI",       "TIMER",   "NET_TX", "NET_RX",  "BLOCK",
                                          "IRQ_POLL", "TASKLET", "SCHED",  "HRTIMER", "RCU"};

}  // namespace

std::string_view base_function(std::string_view function) { return function.substr(0, function.find('.')); }

std::string syscall_name(std::uint64_t nr) {
    const std::string_view bare = bare_syscall_name(nr);
    if (nr >= CL_I386 && nr < CL_SYSCALLS)
        return bare.empty() ? fmt::format("i386:syscall {}", nr - CL_I386) : fmt::format("i386:{}", bare);
    return bare.empty() ? fmt::format("syscall {}", nr) : std::string(bare);
}

bool is_syscall(std::int64_t nr, std::string_view name) {
    return nr >= 0 && bare_syscall_name(static_cast<std::uint64_t>(nr)) == name;
}

std::string fault_detail(std::uint64_t error_code, std::uint64_t flags) {
    constexpr std::uint64_t kWrite = 2, kFetch = 16;
    const char* kind = flags & CL_FAULT_END_UNSEEN ? "failed" : flags & CL_FAULT_MAJOR ? "major" : "minor";
    if (flags & CL_FAULT_POINT) return kind;
    const char* access = error_code & kFetch ? "fetch" : error_code & kWrite ? "write" : "read";
    return fmt::format("{}, {}{}", kind, access, flags & CL_FAULT_KERNEL ? ", in kernel" : "");
}

std::string signal_name(int signal) {
    if (const char* name = sigabbrev_np(signal)) return fmt::format("SIG{}", name);
    if (signal >= SIGRTMIN && signal <= SIGRTMAX)
        return signal == SIGRTMIN ? "SIGRTMIN" : fmt::format("SIGRTMIN+{}", signal - SIGRTMIN);
    return fmt::format("signal {}", signal);
}

std::string trap_detail(int signal, int si_code) {
    static constexpr std::array kRaisedByExceptions = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
    if (si_code <= 0 || std::ranges::find(kRaisedByExceptions, signal) == kRaisedByExceptions.end()) return {};
    const auto* found =
        std::ranges::find_if(kExceptions, [&](const Exception& e) { return e.signal == signal && e.code == si_code; });
    if (found != std::end(kExceptions)) return fmt::format("{}, {}", signal_name(signal), found->text);
    return fmt::format("{}, si_code {}", signal_name(signal), si_code);
}

bool is_timer_signal(int signal, int si_code) {
    return si_code == SI_TIMER ||
           (si_code == SI_KERNEL && (signal == SIGALRM || signal == SIGVTALRM || signal == SIGPROF));
}

std::string softirq_name(std::uint64_t vector) {
    return vector < std::size(kSoftirqs) ? std::string(kSoftirqs[vector]) : fmt::format("softirq {}", vector);
}

std::string vector_name(std::uint64_t vector, std::uint64_t apic_vector) {
    switch (vector) {
        case CL_VEC_IRQ_WORK:
            return "irq_work";
        case CL_VEC_PLATFORM_IPI:
            return "platform_ipi";
        case CL_VEC_ERROR:
            return "error";
        case CL_VEC_SPURIOUS:
            return "spurious";
        case CL_VEC_THERMAL:
            return "thermal";
        case CL_VEC_THRESHOLD:
            return "threshold";
        case CL_VEC_DEFERRED_ERROR:
            return "deferred_error";
        default:
            return fmt::format("vector {:#x}", apic_vector);
    }
}

std::string ipi_detail(std::string_view function) {
    function = base_function(function);
    const auto* found = std::ranges::find(kIpiPurposes, function, &IpiPurpose::function);
    if (found == std::end(kIpiPurposes)) return fmt::format("function call: {}", function);
    return fmt::format("{} ({})", found->purpose, function);
}

bool is_tick_function(std::string_view function) {
    return std::ranges::find(kTickFunctions, base_function(function)) != std::end(kTickFunctions);
}

std::string_view steady_comm(std::string_view comm) {
    return comm.starts_with("kworker/") ? comm.substr(0, comm.find(':')) : comm;
}

bool is_pooled(std::string_view comm) { return comm.starts_with("kworker/") || comm.starts_with("ksoftirqd/"); }

}  // namespace cloister::breach
