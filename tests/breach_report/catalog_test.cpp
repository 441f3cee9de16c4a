#include "breach/catalog.hpp"

#include <map>
#include <set>

#include <gtest/gtest.h>

#include <csignal>

#include "breach/kernel_names.hpp"
#include "breach/probe/record.h"

namespace cloister::breach {
namespace {

constexpr int kCauses = static_cast<int>(Cause::unseen) + 1;

std::string fix(Cause cause, std::string detail, int cpu = 1) {
    Row row;
    row.cause = cause;
    row.detail = std::move(detail);
    return remedy(row, cpu);
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

TEST(Catalog, EveryCauseHasAMeaningAndARemedyOfItsOwn) {
    std::set<std::string> meanings, remedies;
    for (int c = 0; c < kCauses; ++c) {
        const auto cause = static_cast<Cause>(c);
        EXPECT_GT(meaning(cause).size(), 20U) << name(cause);
        EXPECT_TRUE(meanings.insert(std::string(meaning(cause))).second) << name(cause);
        EXPECT_FALSE(fix(cause, "").empty()) << name(cause);
        EXPECT_TRUE(remedies.insert(fix(cause, "no such thing")).second) << name(cause);
    }
}

TEST(Catalog, NoPlaceholderIsLeftAndNoLineBroken) {
    for (int c = 0; c < kCauses; ++c)
        for (const char* detail : {"", "write", "minor, write", "by kworker/u4", "by kswapd0", "irq 36 disk", "irq",
                                   "TIMER", "SIGALRM", "mce_timer_fn"})
            for (const int cpu : {-1, 0, 5}) {
                const auto text = fix(static_cast<Cause>(c), detail, cpu);
                EXPECT_EQ(text.find_first_of("{}\n"), std::string::npos) << text;
                EXPECT_LT(text.size(), 180U) << text;
            }
}

// Details that the namer gives must meet an entry of their own, not the cause's last resort.
TEST(Catalog, DetailsOfTheKernelAreRecognised) {
    const std::map<Cause, std::vector<std::string>> details{
        {Cause::syscall, {"write",          "read",         "futex",     "nanosleep",  "clock_nanosleep", "poll",
                          "epoll_wait",     "mmap",         "munmap",    "mprotect",   "madvise",         "brk",
                          "clock_gettime",  "sched_yield",  "getpid",    "getppid",    "sendto",          "recvmsg",
                          "io_uring_enter", "rt_sigreturn", "getrandom", "membarrier", "ioctl",           "openat",
                          "execve",         "exit_group",   "i386:write"}},
        {Cause::blocked, {"in nanosleep", "in futex", "yielded", "in page fault", "in epoll_wait", "stopped"}},
        {Cause::signal,
         {signal_name(SIGALRM), signal_name(SIGPROF), signal_name(SIGCHLD), signal_name(SIGURG), signal_name(SIGINT),
          signal_name(SIGKILL)}},
        {Cause::trap,
         {trap_detail(SIGFPE, FPE_INTDIV), trap_detail(SIGSEGV, SEGV_MAPERR), trap_detail(SIGBUS, BUS_ADRERR),
          trap_detail(SIGILL, ILL_ILLOPC), trap_detail(SIGTRAP, TRAP_BRKPT), trap_detail(SIGSYS, 1)}},
        {Cause::timer,
         {"hrtimer_wakeup", "dl_task_timer", "watchdog_timer_fn", "delayed_work_timer_fn", "process_timeout",
          "posix_timer_fn", "it_real_fn", "timerfd_tmrproc", "perf_mux_hrtimer_handler", "sched_rt_period_timer",
          "sched_cfs_period_timer", "clocksource_watchdog", "mce_timer_fn", "tcp_write_timer", "neigh_timer_handler",
          "tick_sched_timer"}},
        {Cause::ipi,
         {ipi_detail("flush_tlb_func"), ipi_detail("do_flush_tlb_all"), ipi_detail("do_kernel_range_flush"),
          ipi_detail("ipi_mb"), ipi_detail("ipi_rseq"), ipi_detail("ipi_sync_core"), ipi_detail("do_sync_core"),
          ipi_detail("remote_function"), ipi_detail("__perf_event_read"), ipi_detail("sched_ttwu_pending"),
          ipi_detail("nohz_csd_func"), ipi_detail("rcu_exp_handler"), ipi_detail("mtrr_rendezvous_handler"),
          ipi_detail("__rdmsr_safe_on_cpu"), ipi_detail("__blk_mq_complete_request_remote"),
          ipi_detail("invalidate_bh_lru"), "reschedule"}},
        {Cause::irq, {"irq 129 nvme0q5 (managed)"}},
        {Cause::interrupt,
         {vector_name(CL_VEC_IRQ_WORK, 0), vector_name(CL_VEC_THERMAL, 0), vector_name(CL_VEC_THRESHOLD, 0),
          vector_name(CL_VEC_DEFERRED_ERROR, 0), vector_name(CL_VEC_ERROR, 0), vector_name(CL_VEC_SPURIOUS, 0),
          "HYP hypervisor callback"}},
        {Cause::nmi, {"perf_event_nmi_handler", "nmi_cpu_backtrace_handler", "ghes_notify_nmi"}},
        {Cause::preempted,
         {"by kworker/1", "by kworker/u4", "by ksoftirqd/1", "by migration/1", "by rcu_preempt", "by rcuop/1",
          "by rcuc/1", "by irq/36-eth0", "by cpuhp/1", "by kswapd0"}},
        {Cause::workqueue,
         {"vmstat_update", "vmstat_shepherd", "lru_add_drain_per_cpu", "drain_local_stock", "psi_avgs_work",
          "wq_barrier_func", "toggle_allocation_gate", "kfree_rcu_monitor", "blk_mq_run_work_fn"}},
    };
    for (const auto& [cause, list] : details) {
        const std::string last_resort = fix(cause, "zzz");
        for (const auto& detail : list) {
            // The last resort may quote the detail, so both are compared without it.
            auto text = fix(cause, detail);
            if (const auto at = text.find(detail); at != std::string::npos) text.replace(at, detail.size(), "zzz");
            EXPECT_NE(text, last_resort) << name(cause) << ": " << detail;
        }
    }
    for (int v = 0; v < 10; ++v)
        EXPECT_NE(fix(Cause::softirq, softirq_name(static_cast<unsigned>(v))), fix(Cause::softirq, "zzz")) << v;
}

TEST(Catalog, EveryFaultIsToldByWhatMattersMost) {
    enum Error : std::uint64_t { kRead = 4, kWrite = 4 | 2, kFetch = 4 | 16 };
    EXPECT_TRUE(contains(fix(Cause::fault, fault_detail(kWrite, 0)), "first write"));
    EXPECT_TRUE(contains(fix(Cause::fault, fault_detail(kRead, 0)), "first read"));
    EXPECT_TRUE(contains(fix(Cause::fault, fault_detail(kFetch, 0)), "code"));
    EXPECT_TRUE(contains(fix(Cause::fault, fault_detail(kWrite, CL_FAULT_MAJOR)), "disk"));
    EXPECT_TRUE(contains(fix(Cause::fault, fault_detail(kWrite, CL_FAULT_KERNEL)), "syscall"));
    EXPECT_TRUE(contains(fix(Cause::fault, fault_detail(kWrite, CL_FAULT_END_UNSEEN)), "pointer"));
}

TEST(Catalog, OnlyWholeWordsAreMatched) {
    EXPECT_NE(fix(Cause::syscall, "readahead"), fix(Cause::syscall, "read"));
    EXPECT_NE(fix(Cause::syscall, "times"), fix(Cause::syscall, "time"));
    EXPECT_EQ(fix(Cause::syscall, "i386:write"), fix(Cause::syscall, "write"));
    EXPECT_NE(fix(Cause::preempted, "by my_rcu_tool"), fix(Cause::preempted, "by rcu_preempt"));
    EXPECT_NE(fix(Cause::preempted, "by kworker/u4"), fix(Cause::preempted, "by kworker/1"));
}

TEST(Catalog, CommandsCanBePasted) {
    EXPECT_TRUE(contains(fix(Cause::irq, "irq 36 virtio1-req.0", 3), "echo 0 > /proc/irq/36/smp_affinity_list"));
    EXPECT_TRUE(contains(fix(Cause::irq, "irq 36 virtio1-req.0", 0), "echo 1 > /proc/irq/36/"))
        << "not to the watched CPU itself";
    EXPECT_TRUE(contains(fix(Cause::irq, "irq 129 nvme0q5 (managed)", 5), "isolcpus=managed_irq,domain,5"));
    EXPECT_TRUE(contains(fix(Cause::tick, "", 7), "nohz_full=7"));
    EXPECT_TRUE(contains(fix(Cause::timer, "dl_task_timer", 2), "/sys/kernel/debug/sched/fair_server/cpu2/runtime"));
    EXPECT_TRUE(contains(fix(Cause::tick, "", -1), "nohz_full=CPU"));
}

TEST(Catalog, BreachAndRowSayTheSame) {
    Breach breach;
    breach.cause = Cause::irq;
    breach.detail = "irq 36 disk";
    breach.cpu = 4;
    EXPECT_EQ(remedy(breach), fix(Cause::irq, "irq 36 disk", 4));
}

TEST(Catalog, NamesCannotForgeARemedy) {
    EXPECT_TRUE(contains(fix(Cause::syscall, "odd{cpu}"), "odd{cpu}"))
        << "what the machine says is not looked at again";
}

TEST(Catalog, CloistersOwnIsNotBlamedOnTheUser) {
    Row row;
    row.cause = Cause::ipi;
    row.detail = "perf event (remote_function)";
    row.observer = true;
    EXPECT_TRUE(contains(remedy(row, 1), "cloister"));
    Breach breach;
    breach.cause = Cause::ipi;
    breach.who = Party{};
    breach.who->observer = true;
    EXPECT_EQ(remedy(breach), remedy(row, 1));
}

TEST(Words, CausesAreFoundByNameAndPlural) {
    for (int c = 0; c < kCauses; ++c) {
        const auto cause = static_cast<Cause>(c);
        EXPECT_EQ(cause_named(name(cause)), cause);
        EXPECT_EQ(cause_named(std::string(name(cause)) + "s"), cause);
    }
    EXPECT_EQ(cause_named("preemption"), Cause::preempted);
    EXPECT_EQ(cause_named("hypervisor"), Cause::firmware);
    for (const char* none : {"", "s", "async", "tic", "tickss", "TICK", "and"})
        EXPECT_EQ(cause_named(none), std::nullopt) << none;
}

TEST(Words, Parties) {
    Party p{0, 4411, 4400, "logger", false, 0, nullptr};
    EXPECT_EQ(p.text(), "logger/4411 on cpu 0");
    p.cpu = -1;
    EXPECT_EQ(p.text(), "logger/4411");
    p.observer = true;
    EXPECT_EQ(p.text(), "cloister itself");
    EXPECT_EQ(Party{}.text(), "kernel");
    EXPECT_EQ((Party{3, 0, 0, "swapper/3", false, 0, nullptr}.text()), "kernel on cpu 3");
}

}  // namespace
}  // namespace cloister::breach
