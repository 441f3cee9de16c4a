#include "audit/settings.hpp"

#include <algorithm>
#include <array>

namespace cloister::audit {
namespace {

// Sources: Documentation/admin-guide/cpu-isolation.rst, core-api/housekeeping.rst, timers/no_hz.rst,
// admin-guide/kernel-per-CPU-kthreads.rst and admin-guide/kernel-parameters.txt of Linux; the profiles
// cpu-partitioning and realtime of tuned.
constexpr auto kSettings = std::to_array<Setting>({
    {"online", "an offline CPU runs nothing", "echo 1 > /sys/devices/system/cpu/cpu{value}/online",
     "online is what a CPU is after a boot, unless something takes it away", false, "migrated"},
    {"config_no_hz_full", "the tick, CONFIG_HZ times a second", "",
     "a kernel with CONFIG_NO_HZ_FULL=y (Debian's linux-image-*-rt-amd64 and -amd64 have it)", true, "tick"},
    {"config_rcu_nocb", "RCU callbacks, in softirqs", "", "a kernel with CONFIG_RCU_NOCB_CPU=y", true,
     "softirq preempted"},
    {"config_isolation", "everything that housekeeping CPUs should do instead", "",
     "a kernel with CONFIG_CPU_ISOLATION=y", true, "tick timer preempted"},
    {"config_cpusets", "other tasks, as no partition can be made at run time", "", "a kernel with CONFIG_CPUSETS=y",
     true, "preempted"},
    {"nohz_full", "the tick, CONFIG_HZ times a second, also while one task runs alone", "",
     "nohz_full={cpus} on the kernel's command line", true, "tick timer"},
    {"rcu_nocbs", "RCU callbacks, which run where they were queued", "",
     "rcu_nocbs={cpus} on the kernel's command line (nohz_full={cpus} implies it)", true, "softirq preempted ipi"},
    {"isolated", "load balancing, and every task that the scheduler places there",
     "a cpuset partition: in /sys/fs/cgroup, echo +cpuset > cgroup.subtree_control, mkdir isolated, echo {cpus} > "
     "isolated/cpuset.cpus, echo isolated > isolated/cpuset.cpus.partition; start the program in that group",
     "isolcpus=managed_irq,domain,{cpus} on the kernel's command line, or that partition at every boot", false,
     "preempted softirq ipi migrated"},
    {"isolcpus_flags",
     "all that a flag would have kept away: the kernel skips what it does not know, with a line in dmesg", "",
     "isolcpus=managed_irq,domain,{cpus}: the flags are domain, managed_irq and nohz", true, "irq preempted"},
    {"managed_irq", "interrupts of devices whose driver gives every CPU a queue of its own", "",
     "isolcpus=managed_irq,domain,{cpus} on the kernel's command line (best effort: a queue of isolated CPUs only "
     "stays)",
     true, "irq"},
    {"partition", "other tasks and load balancing: the partition is not what it was asked to be",
     "mend what the reason names, then echo isolated > {value}", "the same where the group is made (systemd, scripts)",
     false, "preempted softirq"},
    {"housekeeping", "everything: with no CPU outside of the isolated ones the kernel does its work on them", "",
     "leave at least one CPU out of nohz_full= and isolcpus=", true, "tick timer preempted workqueue"},
    {"irq_affinity", "interrupts of devices", "for each: echo {house} > /proc/irq/N/smp_affinity_list",
     "irqaffinity={house} on the kernel's command line, and irqbalance told so (IRQBALANCE_BANNED_CPULIST={cpus} in "
     "/etc/default/irqbalance)",
     false, "irq softirq"},
    {"default_smp_affinity", "interrupts of devices that are set up from now on",
     "echo {mask} > /proc/irq/default_smp_affinity", "irqaffinity={house} on the kernel's command line", false, "irq"},
    {"irqbalance", "interrupts that irqbalance moves there", "systemctl stop irqbalance",
     "IRQBALANCE_BANNED_CPULIST={cpus} in /etc/default/irqbalance, and start it again; or systemctl disable irqbalance",
     false, "irq"},
    {"workqueue_cpumask", "work items that may run anywhere", "echo {mask} > /sys/devices/virtual/workqueue/cpumask",
     "the same in a unit that runs at every boot; isolcpus=domain,{cpus} excludes them too", false,
     "workqueue preempted"},
    {"writeback_cpumask", "writing dirty pages to disks", "echo {mask} > /sys/bus/workqueue/devices/writeback/cpumask",
     "the same in a unit that runs at every boot", false, "workqueue preempted"},
    {"tasks", "other programs", "for each: taskset -pc {house} TID",
     "CPUAffinity={house} in /etc/systemd/system.conf; isolcpus=domain,{cpus}", false, "preempted"},
    {"kthreads", "kernel threads that may run elsewhere", "for each: taskset -pc {house} TID",
     "isolcpus=domain,{cpus} or nohz_full={cpus} on the kernel's command line", false, "preempted"},
    {"rcu_kthreads", "RCU's own threads", "for each: taskset -pc {house} TID",
     "the same in a unit that runs at every boot; nohz_full={cpus} does it too", false, "preempted"},
    {"nmi_watchdog", "a non-maskable interrupt every few seconds", "sysctl kernel.nmi_watchdog=0",
     "kernel.nmi_watchdog=0 in /etc/sysctl.d, or nmi_watchdog=0 on the command line", false, "nmi"},
    {"watchdog_cpumask", "the lockup watchdog's timer and its thread, every 4 s",
     "sysctl kernel.watchdog_cpumask={house}", "kernel.watchdog_cpumask={house} in /etc/sysctl.d", false,
     "timer preempted"},
    {"timer_migration",
     "timers: on a nohz_full CPU 1 lets those that are armed there go to housekeeping CPUs; elsewhere 1 lets those of "
     "idle CPUs come",
     "sysctl kernel.timer_migration={value}", "kernel.timer_migration={value} in /etc/sysctl.d", false,
     "timer softirq"},
    {"stat_interval", "vmstat_update, a work item, once in so many seconds", "sysctl vm.stat_interval=120",
     "vm.stat_interval=120 in /etc/sysctl.d", false, "workqueue preempted"},
    {"rt_throttling", "real-time tasks stand still for 5% of each second while others want to run",
     "sysctl kernel.sched_rt_runtime_us=-1", "kernel.sched_rt_runtime_us=-1 in /etc/sysctl.d", false,
     "preempted timer"},
    {"fair_server", "a timer, and time for ordinary tasks, beside a real-time one (since Linux 6.12)",
     "echo 0 > /sys/kernel/debug/sched/fair_server/cpuN/runtime for each CPU",
     "the same in a unit that runs at every boot", false, "timer preempted"},
    {"transparent_hugepage", "khugepaged collapses pages under the task: faults and TLB shootdowns",
     "echo never > /sys/kernel/mm/transparent_hugepage/enabled", "transparent_hugepage=never on the command line",
     false, "fault ipi"},
    {"ksm", "merging equal pages: faults on the next write, and TLB shootdowns", "echo 0 > /sys/kernel/mm/ksm/run",
     "systemctl disable ksm ksmtuned, where they are", false, "fault ipi"},
    {"numa_balancing", "pages that are unmapped to see who uses them: faults and TLB shootdowns",
     "sysctl kernel.numa_balancing=0", "kernel.numa_balancing=0 in /etc/sysctl.d", false, "fault ipi"},
    {"compaction", "moving pages to make room for large ones: faults, TLB shootdowns and draining of caches",
     "sysctl vm.compaction_proactiveness=0", "vm.compaction_proactiveness=0 in /etc/sysctl.d", false,
     "fault ipi workqueue"},
    {"compact_unevictable", "moving pages that are locked, too: faults in spite of mlock",
     "sysctl vm.compact_unevictable_allowed=0", "vm.compact_unevictable_allowed=0 in /etc/sysctl.d", false, "fault"},
    {"rps", "received packets that another CPU hands over",
     "for each: echo {mask} > /sys/class/net/DEVICE/queues/rx-N/rps_cpus",
     "the same in a unit that runs at every boot, or a udev rule", false, "ipi softirq"},
    {"xps", "sent packets whose completion belongs to this CPU",
     "for each: echo {mask} > /sys/class/net/DEVICE/queues/tx-N/xps_cpus",
     "the same in a unit that runs at every boot, or a udev rule", false, "irq softirq"},
    {"clocksource", "a syscall for each clock_gettime, and ticks that cannot stop",
     "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource",
     "clocksource=tsc tsc=reliable on the command line, if the machine's TSC is", false, "syscall tick"},
    {"tsc_watchdog", "the clocksource watchdog's timer, on each CPU in turn, every half second", "",
     "tsc=reliable on the command line, if the machine's TSC is", true, "timer"},
    {"smt", "the other thread of the core: it shares caches and units, and halts both for some microcode",
     "echo 0 > /sys/devices/system/cpu/cpuN/online for each sibling", "nosmt on the command line, or in firmware",
     false, "firmware"},
    {"governor", "changes of frequency",
     "echo performance > /sys/devices/system/cpu/cpuN/cpufreq/scaling_governor for each CPU",
     "cpufreq.default_governor=performance on the command line", false, "firmware interrupt"},
    {"cstates", "waking from a deep idle state, once the loop waits",
     "echo 1 > /sys/devices/system/cpu/cpuN/cpuidle/stateM/disable for those states",
     "intel_idle.max_cstate=1 or processor.max_cstate=1 on the command line; or hold /dev/cpu_dma_latency open", false,
     "firmware"},
    {"machine_check", "polling for corrected hardware errors, a timer every 5 minutes",
     "echo 0 > /sys/devices/system/machinecheck/machinecheckN/check_interval",
     "mce=ignore_ce on the command line (errors are then not reported)", false, "timer interrupt"},
    {"steal", "the hypervisor runs something else on this CPU", "",
     "on the host: a CPU of its own for this virtual one (vcpupin), and isolation there", true, "firmware"},
    // Of one task.
    {"task_affinity", "being moved, or sharing its CPU", "taskset -apc {value}",
     "the same where it is started: taskset, CPUAffinity= of its unit, pthread_setaffinity_np", false,
     "migrated preempted"},
    {"task_memory", "page faults, as its memory is not locked", "mlockall(MCL_CURRENT | MCL_FUTURE) in the program",
     "the same, with LimitMEMLOCK=infinity of its unit", false, "fault"},
    {"task_shared_memory", "TLB shootdowns: whatever other threads unmap or protect interrupts this one",
     "let the others not unmap memory while the loop runs, or put the loop into a process of its own", "the same",
     false, "ipi"},
    {"task_cpu_timers", "the tick: a timer or limit on CPU time is checked at each",
     "set no timers on CPU clocks, and prlimit --cpu=unlimited --pid {value}", "LimitCPU=infinity of its unit", false,
     "tick signal"},
    {"task_quota", "the tick, and standing still when its group's quota is used up",
     "echo max > cpu.max (version 1: echo -1 > cpu.cfs_quota_us) in its group and those above",
     "CPUQuota= empty in its unit; no --cpus of its container", false, "tick preempted"},
    {"task_tracer", "stops and breakpoints of whatever traces it", "detach the debugger or tracer", "the same", false,
     "trap signal blocked"},
});

}  // namespace

std::span<const Setting> settings() { return kSettings; }

const Setting* setting(std::string_view id) {
    const auto* found = std::ranges::find(kSettings, id, &Setting::id);
    return found == kSettings.end() ? nullptr : found;
}

std::string fill(std::string_view text, const Places& places) {
    std::string out;
    for (std::size_t open = text.find('{'); open != std::string_view::npos; open = text.find('{')) {
        out += text.substr(0, open);
        const std::size_t close = text.find('}', open);
        const auto key = text.substr(open + 1, close - open - 1);
        out += key == "cpus" ? places.cpus : key == "house" ? places.house : key == "mask" ? places.mask : places.value;
        text.remove_prefix(close + 1);
    }
    return out += text;
}

}  // namespace cloister::audit
