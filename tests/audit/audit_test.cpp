// A machine on which nothing is wrong, and then one thing after the other.
#include "audit/audit.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "../system/fake_root.hpp"
#include "audit/report.hpp"

namespace cloister::audit {
namespace {

using testing::HasSubstr;
using tests::FakeRoot;

CpuSet cpus(std::string_view text) { return system::parse_cpu_list(text).value(); }

// Fields 3 to 22 of /proc/PID/stat; flags is the ninth.
std::string stat_line(int pid, const std::string& comm, unsigned flags) {
    return fmt::format("{} ({}) S 0 0 0 0 -1 {} 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0\n", pid, comm, flags);
}

constexpr unsigned kKernel = 0x00200000, kBound = 0x04000000;

void task(FakeRoot& root, int pid, const std::string& comm, unsigned flags, const std::string& allowed) {
    for (const auto& folder : {fmt::format("/proc/{}/", pid), fmt::format("/proc/{}/task/{}/", pid, pid)})
        root.file(folder + "stat", stat_line(pid, comm, flags))
            .file(folder + "status",
                  "Name:\t" + comm +
                      "\nVmLck:\t 100 kB\nVmRSS:\t 100 kB\nThreads:\t1\nTracerPid:\t0\nCpus_allowed_list:\t" + allowed +
                      "\n");
}

// CPUs 2 and 3 of four are kept.
void prepare(FakeRoot& root) {
    const std::string cpu = "/sys/devices/system/cpu/";
    root.file("/proc/cmdline", "quiet nohz_full=2-3 isolcpus=managed_irq,domain,2-3 rcu_nocbs=2-3 tsc=reliable\n")
        .file("/proc/self/status", "Cpus_allowed_list:\t0-1\n")
        .file("/proc/sys/kernel/osrelease", "6.12.0-rt\n")
        .file("/boot/config-6.12.0-rt",
              "CONFIG_NO_HZ_FULL=y\nCONFIG_RCU_NOCB_CPU=y\nCONFIG_CPU_ISOLATION=y\nCONFIG_CPUSETS=y\n# CONFIG_X is not "
              "set\n")
        .file("/proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu tsc constant_tsc\n")
        .file("/proc/stat", "cpu  1 2\ncpu2 1 1 1 1 1 1 1 0 0 0\ncpu3 1 1 1 1 1 1 1 0 0 0\n")
        .file(cpu + "possible", "0-3\n")
        .file(cpu + "present", "0-3\n")
        .file(cpu + "online", "0-3\n")
        .file(cpu + "isolated", "2-3\n")
        .file(cpu + "nohz_full", "2-3\n")
        .file("/proc/irq/default_smp_affinity", "00000000,00000003\n")
        .file("/proc/irq/24/effective_affinity_list", "0\n")
        .file("/proc/irq/24/smp_affinity_list", "0-1\n")
        .file("/proc/irq/24/eth0/x", "")
        .file("/proc/irq/26/smp_affinity_list", "0\n")  // an old kernel does not say where it really is
        .file("/proc/irq/26/disk/x", "")
        .file("/sys/devices/virtual/workqueue/cpumask", "3\n")
        .file("/sys/bus/workqueue/devices/writeback/cpumask", "3\n")
        .file("/proc/sys/kernel/nmi_watchdog", "0\n")
        .file("/proc/sys/kernel/watchdog", "1\n")
        .file("/proc/sys/kernel/watchdog_cpumask", "0-1\n")
        .file("/proc/sys/kernel/timer_migration", "1\n")
        .file("/proc/sys/kernel/sched_rt_runtime_us", "-1\n")
        .file("/proc/sys/kernel/numa_balancing", "0\n")
        .file("/proc/sys/vm/stat_interval", "120\n")
        .file("/proc/sys/vm/compaction_proactiveness", "0\n")
        .file("/proc/sys/vm/compact_unevictable_allowed", "0\n")
        .file("/sys/kernel/debug/sched/fair_server/cpu2/runtime", "0\n")
        .file("/sys/kernel/debug/sched/fair_server/cpu3/runtime", "0\n")
        .file("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n")
        .file("/sys/kernel/mm/ksm/run", "0\n")
        .file("/sys/class/net/eth0/queues/rx-0/rps_cpus", "0\n")
        .file("/sys/class/net/eth0/queues/tx-0/xps_cpus", "3\n")
        .file("/sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n");
    for (const int n : {2, 3})
        root.file(fmt::format("{}cpu{}/topology/thread_siblings_list", cpu, n), fmt::format("{}\n", n))
            .file(fmt::format("{}cpu{}/cpufreq/scaling_governor", cpu, n), "performance\n")
            .file(fmt::format("{}cpu{}/cpuidle/state0/latency", cpu, n), "0\n")
            .file(fmt::format("{}cpu{}/cpuidle/state1/latency", cpu, n), "170\n")
            .file(fmt::format("{}cpu{}/cpuidle/state1/disable", cpu, n), "1\n")
            .file(fmt::format("/sys/devices/system/machinecheck/machinecheck{}/check_interval", n), "0\n");
    task(root, 1, "init", 0x400, "0-1");
    task(root, 2, "kthreadd", kKernel, "0-1");
    task(root, 15, "rcu_preempt", kKernel, "0-1");
    task(root, 20, "rcuop/2", kKernel, "0-1");
    task(root, 21, "rcuop/3", kKernel, "0-1");
    task(root, 30, "ksoftirqd/2", kKernel | kBound, "2");
}

std::set<std::string> failing(const FakeRoot& root, std::optional<pid_t> pid = std::nullopt) {
    std::set<std::string> out;
    for (const auto& finding : audit(Machine(root.path()), cpus("2-3"), pid))
        if (finding.verdict == Verdict::fail) out.emplace(finding.setting->id);
    return out;
}

const Finding& find(const std::vector<Finding>& findings, std::string_view id) {
    const auto at = std::ranges::find_if(findings, [&](const Finding& f) { return f.setting->id == id; });
    EXPECT_NE(at, findings.end()) << id;
    return *at;
}

using Ids = std::set<std::string>;

TEST(Audit, NothingIsWrongOnAPreparedMachine) {
    FakeRoot root;
    prepare(root);
    const auto findings = audit(Machine(root.path()), cpus("2-3"), std::nullopt);
    for (const auto& finding : findings)
        EXPECT_EQ(finding.verdict, Verdict::pass) << finding.setting->id << ": " << finding.found;
    EXPECT_GT(findings.size(), 30U);
}

struct Wrong {
    std::string_view id, file, text;
    bool can_be_fixed = true;
};

class OneThing : public testing::TestWithParam<Wrong> {};

TEST_P(OneThing, IsFoundAndNothingElse) {
    FakeRoot root;
    prepare(root);
    root.file(std::string(GetParam().file), std::string(GetParam().text));
    EXPECT_EQ(failing(root), Ids{std::string(GetParam().id)});
    const auto findings = audit(Machine(root.path()), cpus("2-3"), std::nullopt);
    const auto& finding = find(findings, GetParam().id);
    EXPECT_EQ(!finding.changes.empty(), GetParam().can_be_fixed) << finding.found;
    EXPECT_FALSE(finding.source.empty());
    EXPECT_NE(finding.found, finding.wanted);
    EXPECT_FALSE(finding.last.empty());
    for (const auto& part : {finding.now, finding.last}) EXPECT_EQ(part.find('{'), std::string::npos) << part;
}

INSTANTIATE_TEST_SUITE_P(
    Settings, OneThing,
    testing::Values(Wrong{"online", "/sys/devices/system/cpu/online", "0-2\n"},
                    Wrong{"config_no_hz_full", "/proc/config.gz",
                          "CONFIG_RCU_NOCB_CPU=y\nCONFIG_CPU_ISOLATION=y\nCONFIG_CPUSETS=y\n", false},
                    Wrong{"rcu_nocbs", "/proc/21/task/21/stat", "21 (gone) S 0\n", false},
                    Wrong{"isolcpus_flags", "/proc/cmdline", "isolcpus=managed_irq,domian,2-3 tsc=reliable\n", false},
                    Wrong{"managed_irq", "/proc/cmdline", "isolcpus=domain,2-3 tsc=reliable\n", false},
                    Wrong{"irq_affinity", "/proc/irq/26/smp_affinity_list", "2\n"},
                    Wrong{"managed_irq", "/proc/cmdline", "isolcpus=2-3 tsc=reliable\n", false},
                    Wrong{"default_smp_affinity", "/proc/irq/default_smp_affinity", "0,0000000f\n"},
                    Wrong{"workqueue_cpumask", "/sys/devices/virtual/workqueue/cpumask", "00000007\n"},
                    Wrong{"writeback_cpumask", "/sys/bus/workqueue/devices/writeback/cpumask", "f\n"},
                    Wrong{"nmi_watchdog", "/proc/sys/kernel/nmi_watchdog", "1\n"},
                    Wrong{"watchdog_cpumask", "/proc/sys/kernel/watchdog_cpumask", "0-3\n"},
                    Wrong{"timer_migration", "/proc/sys/kernel/timer_migration", "0\n"},
                    Wrong{"rt_throttling", "/proc/sys/kernel/sched_rt_runtime_us", "950000\n"},
                    Wrong{"numa_balancing", "/proc/sys/kernel/numa_balancing", "1\n"},
                    Wrong{"stat_interval", "/proc/sys/vm/stat_interval", "1\n"},
                    Wrong{"compaction", "/proc/sys/vm/compaction_proactiveness", "20\n"},
                    Wrong{"compact_unevictable", "/proc/sys/vm/compact_unevictable_allowed", "1\n"},
                    Wrong{"fair_server", "/sys/kernel/debug/sched/fair_server/cpu3/runtime", "50000000\n"},
                    Wrong{"transparent_hugepage", "/sys/kernel/mm/transparent_hugepage/enabled",
                          "[always] madvise never\n"},
                    Wrong{"ksm", "/sys/kernel/mm/ksm/run", "1\n"},
                    Wrong{"rps", "/sys/class/net/eth0/queues/rx-0/rps_cpus", "00000000,00000004\n"},
                    Wrong{"xps", "/sys/class/net/eth0/queues/tx-0/xps_cpus", "f\n"},
                    Wrong{"clocksource", "/sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n"},
                    Wrong{"tsc_watchdog", "/proc/cmdline", "isolcpus=managed_irq,domain,2-3\n", false},
                    Wrong{"smt", "/sys/devices/system/cpu/cpu3/topology/thread_siblings_list", "1,3\n", false},
                    Wrong{"governor", "/sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "schedutil\n"},
                    Wrong{"cstates", "/sys/devices/system/cpu/cpu2/cpuidle/state1/disable", "0\n"},
                    Wrong{"machine_check", "/sys/devices/system/machinecheck/machinecheck2/check_interval", "12c\n"}),
    [](const auto& test) { return fmt::format("{}_{}", test.param.id, test.index); });

TEST(Audit, CpusThatTheKernelKeepsOtherwiseThanAsked) {
    FakeRoot root;
    prepare(root);
    root.file("/sys/devices/system/cpu/nohz_full", "(null)\n").file("/proc/sys/kernel/timer_migration", "0\n");
    EXPECT_EQ(failing(root), Ids{"nohz_full"});
    const auto findings = audit(Machine(root.path()), cpus("2-3"), std::nullopt);
    EXPECT_THAT(find(findings, "nohz_full").found, HasSubstr("the command line asks for nohz_full=2-3"));
}

TEST(Audit, NoHousekeepingCpuIsLeft) {
    FakeRoot root;
    prepare(root);
    root.file("/sys/devices/system/cpu/online", "2-3\n");
    EXPECT_EQ(failing(root), Ids{"housekeeping"});
}

TEST(Audit, TasksThatMayRunThere) {
    FakeRoot root;
    prepare(root);
    task(root, 40, "a (b) c", 0x400, "0-3");
    task(root, 41, "kswapd0", kKernel, "0-2");
    task(root, 42, "rcu_exp", kKernel, "0-3");
    task(root, 43, "the loop", 0x400, "2");  // put there on purpose
    EXPECT_EQ(failing(root), (Ids{"tasks", "kthreads", "rcu_kthreads"}));
    const auto findings = audit(Machine(root.path()), cpus("2-3"), std::nullopt);
    EXPECT_THAT(find(findings, "tasks").found, HasSubstr("1 of 3 threads of programs: a (b) c/40"));
    EXPECT_EQ(find(findings, "tasks").changes, (std::vector<Change>{{"task:40", "0-1"}}));
    EXPECT_EQ(find(findings, "kthreads").changes, (std::vector<Change>{{"task:41", "0-1"}}));
}

TEST(Audit, ManagedInterruptsAreToldApart) {
    FakeRoot root;
    prepare(root);
    root.file("/proc/irq/24/effective_affinity_list", "3\n")
        .file("/sys/kernel/debug/irq/irqs/24", "dstate: 0x1 IRQD_AFFINITY_MANAGED\n");
    EXPECT_EQ(failing(root), Ids{"managed_irq"});
}

TEST(Audit, AnInterruptThatIsLeavingDoesNotStay) {
    FakeRoot root;
    prepare(root);
    root.file("/proc/irq/24/effective_affinity_list", "3\n");  // its smp_affinity_list is 0-1
    EXPECT_EQ(failing(root), Ids{});
    const auto findings = audit(Machine(root.path()), cpus("2-3"), std::nullopt);
    EXPECT_THAT(find(findings, "irq_affinity").found, HasSubstr("leaving with the next one that comes: 24 (eth0)"));
}

TEST(Audit, AnInterruptThatNobodyUsesDoesNotCount) {
    FakeRoot root;
    prepare(root);
    root.file("/proc/irq/25/effective_affinity_list", "3\n").file("/proc/irq/25/smp_affinity_list", "0-3\n");
    EXPECT_EQ(failing(root), Ids{});
}

TEST(Audit, IrqbalanceIsToldWhatToLeaveAlone) {
    FakeRoot root;
    prepare(root);
    root.file("/sys/devices/system/cpu/isolated", "\n");
    task(root, 50, "irqbalance", 0x400, "0-1");
    using namespace std::string_literals;
    // nohz_full CPUs it leaves alone by itself.
    EXPECT_EQ(failing(root), Ids{"isolated"});
    root.file("/sys/devices/system/cpu/nohz_full", "\n").file("/proc/sys/kernel/timer_migration", "0\n");
    EXPECT_EQ(failing(root), (Ids{"isolated", "nohz_full", "irqbalance"}));
    root.file("/proc/50/environ", "A=b\0IRQBALANCE_BANNED_CPULIST=2-3\0"s);
    EXPECT_EQ(failing(root), (Ids{"isolated", "nohz_full"}));
}

TEST(Audit, PartitionsThatTheKernelMadeInvalid) {
    FakeRoot root;
    prepare(root);
    root.file("/proc/self/mountinfo", "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
        .file("/sys/fs/cgroup/rt/cpuset.cpus", "2-3\n")
        .file("/sys/fs/cgroup/rt/cpuset.cpus.partition", "isolated invalid (Cpu list in cpuset.cpus not exclusive)\n");
    EXPECT_EQ(failing(root), Ids{"partition"});
    const auto findings = audit(Machine(root.path()), cpus("2-3"), std::nullopt);
    EXPECT_THAT(find(findings, "partition").found, HasSubstr("not exclusive"));
    EXPECT_THAT(find(findings, "partition").now, HasSubstr("/sys/fs/cgroup/rt/cpuset.cpus.partition"));
    root.file("/sys/fs/cgroup/rt/cpuset.cpus.partition", "isolated\n");
    EXPECT_EQ(failing(root), Ids{});
}

TEST(Audit, WhatCannotBeReadIsUnknown) {
    FakeRoot root;
    prepare(root);
    for (const auto* file : {"/boot/config-6.12.0-rt", "/sys/devices/virtual/workqueue/cpumask"})
        std::filesystem::remove(root.path() + file);
    std::filesystem::remove_all(root.path() + "/sys/kernel/debug");
    std::set<std::string> unknown;
    for (const auto& finding : audit(Machine(root.path()), cpus("2-3"), std::nullopt))
        if (finding.verdict == Verdict::unknown) unknown.emplace(finding.setting->id);
    EXPECT_EQ(unknown, (Ids{"config_no_hz_full", "config_rcu_nocb", "config_isolation", "config_cpusets",
                            "workqueue_cpumask", "fair_server"}));
}

TEST(Audit, OfAProcess) {
    FakeRoot root;
    prepare(root);
    task(root, 60, "loop", 0x400, "2");
    root.file("/proc/60/timers", "")
        .file("/proc/60/limits", "Max cpu time              unlimited  unlimited  seconds\n");
    EXPECT_EQ(failing(root, 60), Ids{});
    root.file("/proc/60/timers", "ID: 3\nsignal: 14/0\nnotify: signal/pid.60\nClockID: 2\n");
    EXPECT_EQ(failing(root, 60), Ids{"task_cpu_timers"});
    root.file("/proc/60/timers", "ID: 3\nsignal: 14/0\nnotify: signal/pid.60\nClockID: 1\n");
    EXPECT_EQ(failing(root, 60), Ids{});
    root.file("/proc/60/limits", "Max cpu time              60         unlimited  seconds\n");
    EXPECT_EQ(failing(root, 60), Ids{"task_cpu_timers"});
    root.file("/proc/60/status",
              "VmLck:\t 0 kB\nVmRSS:\t 900 kB\nThreads:\t3\nTracerPid:\t7\nCpus_allowed_list:\t2-3\n");
    EXPECT_EQ(failing(root, 60),
              (Ids{"task_cpu_timers", "task_memory", "task_shared_memory", "task_tracer", "task_affinity"}));
    root.file("/proc/self/mountinfo", "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
        .file("/proc/60/cgroup", "0::/a/b\n")
        .file("/sys/fs/cgroup/a/cpu.max", "50000 100000\n")
        .file("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    EXPECT_TRUE(failing(root, 60).contains("task_quota"));
}

TEST(Mask, IsANumber) {
    EXPECT_EQ(parse_mask("3")->text(), "0-1");
    EXPECT_EQ(parse_mask("00000000,00000003\n")->text(), "0-1");
    EXPECT_EQ(parse_mask("1,00000000,80000000")->text(), "31,64");
    EXPECT_EQ(parse_mask("0")->text(), "");
    EXPECT_FALSE(parse_mask(""));
    EXPECT_FALSE(parse_mask("0x3"));
    EXPECT_FALSE(parse_mask("3,"));
    EXPECT_FALSE(parse_mask("g"));
    for (const char* text : {"0-1", "31,64", "5", "0-127"}) EXPECT_EQ(parse_mask(mask_text(cpus(text)))->text(), text);
    EXPECT_EQ(mask_text(cpus("0,32")), "1,00000001");
}

TEST(Settings, AreWholeAndOfOneName) {
    std::set<std::string_view> ids;
    for (const auto& setting : settings()) {
        EXPECT_TRUE(ids.insert(setting.id).second) << setting.id;
        EXPECT_FALSE(setting.interrupts.empty() || setting.last.empty() || setting.causes.empty()) << setting.id;
        EXPECT_EQ(setting.reboot, setting.now.empty()) << setting.id;
    }
}

TEST(Report, SaysWhatIsWrongAndCounts) {
    FakeRoot root;
    prepare(root);
    root.file("/proc/sys/vm/stat_interval", "1\n");
    const auto findings = audit(Machine(root.path()), cpus("2-3"), std::nullopt);
    const auto shown = text(findings, false);
    EXPECT_THAT(shown, HasSubstr("fail  stat_interval\n"));
    EXPECT_THAT(shown, HasSubstr("      found   1 s   (/proc/sys/vm/stat_interval)\n"));
    EXPECT_THAT(shown, HasSubstr("      now     sysctl vm.stat_interval=120\n"));
    EXPECT_EQ(shown.find('\033'), std::string::npos);
    EXPECT_EQ(totals(findings).fail, 1U);
    EXPECT_EQ(totals(findings).pass + 1, findings.size());
    std::ifstream golden(CLOISTER_GOLDEN "/audit.jsonl");
    std::string finding, sum;
    ASSERT_TRUE(std::getline(golden, finding) && std::getline(golden, sum));
    EXPECT_EQ(json(find(findings, "stat_interval")), finding);
    EXPECT_EQ(json({.pass = 36, .fail = 1, .unknown = 2}, "2-3"), sum);
}

}  // namespace
}  // namespace cloister::audit
