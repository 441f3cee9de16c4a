#include "breach/catalog.hpp"

#include <algorithm>
#include <array>
#include <cctype>

#include <fmt/format.h>

namespace cloister::breach {

namespace {

// The first entry whose cause is the same and one of whose words is in the detail holds; an entry without words is the
// cause's last resort. A word with '*' at its end may go on. In the text: {cpu} the watched CPU, {house} another one
// that may do the work, {irq} the interrupt's number, {detail} the detail.
struct Entry {
    Cause cause;
    std::string_view words;  // with '|' between them
    std::string_view text;
};

constexpr auto kCatalog = std::to_array<Entry>({
    // What the program asked for.
    {Cause::syscall, "write|writev|pwrite64|pwritev|pwritev2|syslog",
     "do not write from the loop: hand the line to another thread through shared memory, and let that one write"},
    {Cause::syscall, "read|readv|pread64|preadv|preadv2",
     "do not read from the loop: let another thread read into shared memory, or map the file and touch it before"},
    {Cause::syscall, "futex|futex_wait|futex_wake|futex_waitv|futex_requeue",
     "a lock or condition variable is contended: use a lock-free queue, or spin; wake no one from the loop"},
    {Cause::syscall, "nanosleep|clock_nanosleep|pause",
     "do not sleep: spin (with the pause instruction) until the clock says so"},
    {Cause::syscall, "poll|ppoll|select|pselect6|epoll_wait|epoll_pwait|epoll_pwait2|io_getevents|io_pgetevents",
     "do not wait for events in the kernel: poll the queue in memory, or use busy polling (SO_BUSY_POLL, AF_XDP)"},
    {Cause::syscall,
     "mmap|munmap|mprotect|madvise|brk|mremap|mlock|mlock2|mlockall|munlock|munlockall|msync|process_madvise",
     "allocate, touch and lock all memory before the loop; free it after; mallopt(M_TRIM_THRESHOLD, -1) keeps malloc "
     "quiet"},
    {Cause::syscall, "clock_gettime|gettimeofday|time|clock_getres",
     "the vDSO could not answer: CPU-time clocks never can, others need clocksource tsc (cat "
     "/sys/devices/system/clocksource/clocksource0/current_clocksource); or read the TSC"},
    {Cause::syscall, "sched_yield",
     "do not yield: a task that has the CPU to itself has no one to yield to; spin with the pause instruction"},
    {Cause::syscall, "io_uring_enter|io_uring_setup|io_uring_register",
     "let the kernel poll the ring from another CPU: IORING_SETUP_SQPOLL with IORING_SETUP_SQ_AFF on cpu {house}"},
    {Cause::syscall,
     "recvfrom|recvmsg|recvmmsg|sendto|sendmsg|sendmmsg|accept|accept4|connect|socket|bind|listen|setsockopt|"
     "getsockopt|"
     "shutdown|sendfile|splice|getsockname|getpeername",
     "do the socket's work in a thread on another CPU, with a ring in shared memory between; or bypass the kernel "
     "(AF_XDP)"},
    {Cause::syscall,
     "getpid|getppid|gettid|getuid|geteuid|getgid|getegid|uname|sysinfo|getcpu|sched_getcpu|getrusage|times|"
     "sched_getaffinity|getpgrp|getpgid|getsid",
     "ask once before the loop and keep the answer"},
    {Cause::syscall, "getrandom", "take random bytes in bulk before the loop, or use a generator of your own in it"},
    {Cause::syscall, "clone|clone3|fork|vfork|wait4|waitid",
     "start threads and processes before the loop, and wait for them after"},
    {Cause::syscall, "rt_sigreturn",
     "the end of a signal handler: block that signal in this thread and take it in another with sigwaitinfo or "
     "signalfd"},
    {Cause::syscall, "rt_sigaction|rt_sigprocmask|sigaltstack|rt_sigtimedwait|kill|tkill|tgkill|rt_sigqueueinfo",
     "set up signals once before the loop (sigsetjmp with a saved mask and some locks change the mask each time)"},
    {Cause::syscall,
     "setitimer|alarm|timer_create|timer_settime|timer_delete|timer_gettime|timerfd_settime|timerfd_create|getitimer",
     "set no timers from the loop: compare the TSC instead"},
    {Cause::syscall, "membarrier",
     "membarrier interrupts every CPU that runs this process: use fences, or call it before the loop"},
    {Cause::syscall, "sched_setaffinity|sched_setscheduler|sched_setparam|sched_setattr|setpriority|prctl",
     "set affinity, priority and options once before the loop"},
    {Cause::syscall, "ioctl", "move device control to another thread, or use the device's memory-mapped interface"},
    {Cause::syscall, "exit|exit_group", "none needed: the program ends here"},
    {Cause::syscall,
     "execve|execveat|arch_prctl|set_tid_address|set_robust_list|rseq|prlimit64|access|faccessat|faccessat2",
     "start-up work; cloister run --after 1s leaves it out"},
    {Cause::syscall,
     "open|openat|openat2|close|close_range|stat|fstat|lstat|newfstatat|statx|lseek|fcntl|ftruncate|truncate|fallocate|"
     "unlink|unlinkat|rename|renameat|renameat2|mkdir|mkdirat|rmdir|readlink|readlinkat|getdents64|fsync|fdatasync|"
     "sync_file_range|flock|dup|dup2|dup3|pipe|pipe2|eventfd2|epoll_ctl|epoll_create1|memfd_create|inotify_add_watch",
     "open, create and sync files before the loop or in another thread"},
    {Cause::syscall, "", "take {detail} out of the loop: do it before, or in another thread on another CPU"},

    {Cause::blocked, "yielded|sched_yield",
     "do not yield: another task took the turn; keep it off cpu {cpu}, and spin instead"},
    {Cause::blocked, "page fault",
     "the page had to be read: mlockall(MCL_CURRENT|MCL_FUTURE) before the loop, and no swap"},
    {Cause::blocked, "futex|futex_wait|futex_waitv",
     "waits for another thread: replace the lock by a lock-free queue, or spin for it"},
    {Cause::blocked, "nanosleep|clock_nanosleep|pause|poll|ppoll|select|pselect6|epoll_wait|epoll_pwait|epoll_pwait2",
     "do not wait in the kernel: spin or use busy polling, and the wake-up costs nothing"},
    {Cause::blocked, "stopped", "no debugger, no SIGSTOP and no freezing of its cgroup while the loop runs"},
    {Cause::blocked, "voluntary context switches",
     "it waited in the kernel: use calls that do not block; run cloister as root to see which did"},
    {Cause::blocked, "", "it waited {detail}: use a form that does not block, or let another thread wait"},

    // Page faults; the most telling word first.
    {Cause::fault, "failed",
     "the access was not allowed and ended in a signal or EFAULT: mend the pointer; its code is in the stack"},
    {Cause::fault, "in kernel",
     "the kernel touched the page for a syscall: touch every buffer before it is handed over"},
    {Cause::fault, "major",
     "the page came from a disk: mlockall(MCL_CURRENT|MCL_FUTURE) before the loop, swapoff, huge pages"},
    {Cause::fault, "fetch|exec|instruction",
     "code that ran for the first time: mlockall(MCL_CURRENT) maps all code before the loop"},
    {Cause::fault, "protect*|cow|copy*",
     "written after fork: touch every page again after it, or madvise(MADV_DONTFORK)"},
    {Cause::fault, "write",
     "first write to a page: mlockall(MCL_CURRENT|MCL_FUTURE), MAP_POPULATE, or write to every page before the loop"},
    {Cause::fault, "read",
     "first read of a page: MAP_POPULATE or read every page before the loop; sysctl kernel.numa_balancing=0"},
    {Cause::fault, "", "touch every page before the loop: mlockall(MCL_CURRENT|MCL_FUTURE); no fork after that"},

    {Cause::trap, "SIGFPE",
     "mend the arithmetic (integer division by zero or overflow; unmasked floating-point exceptions)"},
    {Cause::trap, "SIGSEGV",
     "mend the pointer, or do not use protected pages as a barrier in the loop (garbage collectors do)"},
    {Cause::trap, "SIGBUS",
     "the file behind the mapping is too short, or the memory is bad: allocate it with fallocate before"},
    {Cause::trap, "SIGILL",
     "the binary uses instructions that this processor lacks: build for it (-march), or ud2 marks a bug"},
    {Cause::trap, "SIGTRAP",
     "no breakpoints, single steps or uprobes while the loop runs: detach the debugger or tracer"},
    {Cause::trap, "SIGSYS",
     "a seccomp filter or syscall user dispatch caught a syscall: take that syscall out of the loop"},
    {Cause::trap, "", "an exception of the program's own: mend the instruction that raised it"},

    {Cause::signal, "SIGALRM",
     "no interval timer for this process (setitimer, alarm): compare the TSC, or a timerfd in another thread"},
    {Cause::signal, "SIGPROF|SIGVTALRM",
     "stop the profiler: a CPU-time timer interrupts the loop and keeps the tick on as well"},
    {Cause::signal, "SIGURG", "Go preempts goroutines by it: GODEBUG=asyncpreemptoff=1"},
    {Cause::signal, "SIGCHLD", "block it here (pthread_sigmask) and wait for children in another thread"},
    {Cause::signal, "SIGINT|SIGTERM|SIGQUIT|SIGHUP|SIGTSTP|SIGCONT",
     "sent by a person or a service manager: block it in this thread, and take it in another with sigwaitinfo"},
    {Cause::signal, "SIGKILL|SIGSTOP", "it cannot be blocked: whoever sends it (named here) has to stop"},
    {Cause::signal, "",
     "block {detail} in this thread (pthread_sigmask) and take it in another with sigwaitinfo or signalfd"},

    // The CPU's own clockwork.
    {Cause::tick, "",
     "boot with nohz_full={cpu} (kernel built with CONFIG_NO_HZ_FULL), and keep one runnable task and no CPU-time "
     "timers on it"},
    {Cause::timer, "hrtimer_wakeup|process_timeout",
     "a sleep or timeout that was begun on this CPU ran out: keep tasks that sleep off cpu {cpu} (taskset, cpuset)"},
    {Cause::timer, "dl_task_timer|inactive_task_timer",
     "the fair server of the scheduler: echo 0 > /sys/kernel/debug/sched/fair_server/cpu{cpu}/runtime, or no second "
     "task here"},
    {Cause::timer, "watchdog_timer_fn",
     "the lockup watchdog: sysctl kernel.watchdog_cpumask={house}, or boot with nowatchdog"},
    {Cause::timer, "posix_timer_fn|it_real_fn|alarmtimer_fired",
     "the program's own timer (timer_create, setitimer): compare the TSC instead"},
    {Cause::timer, "timerfd_tmrproc", "a timerfd was armed on this CPU: arm it from another CPU"},
    {Cause::timer, "perf_mux_hrtimer_handler|perf_swevent_hrtimer",
     "stop perf: its events rotate or sample by this timer"},
    {Cause::timer, "sched_rt_period_timer", "real-time throttling: sysctl kernel.sched_rt_runtime_us=-1"},
    {Cause::timer, "sched_cfs_period_timer|sched_cfs_slack_timer", "a CPU quota: write max to cpu.max of its cgroup"},
    {Cause::timer, "hrtick", "the scheduler shares this CPU between tasks: leave one runnable task on it"},
    {Cause::timer, "clocksource_watchdog",
     "the TSC is being checked: boot with tsc=reliable (or tsc=nowatchdog) if it is stable"},
    {Cause::timer, "mce_timer_fn",
     "polls for machine checks: echo 0 > /sys/devices/system/machinecheck/machinecheck{cpu}/check_interval"},
    {Cause::timer, "tcp_*|inet_*|neigh_*|dev_watchdog|igmp_*|mld_*|sk_*|napi_watchdog",
     "a network timer armed on this CPU: do no network calls here, and move the card's interrupts and RPS/XPS to cpu "
     "{house}"},
    {Cause::timer, "delayed_work_timer_fn",
     "delayed work that was queued on this CPU; the workqueue row names it: boot with nohz_full={cpu}, or isolate the "
     "CPU"},
    {Cause::timer, "idle_worker_timeout|pool_mayday_timeout",
     "the workqueues' own housekeeping: keep work off cpu {cpu}, and it stops"},
    {Cause::timer, "blk_*|commit_timeout|wb_*|laptop_mode_timer_fn", "do no file or disk I/O from cpu {cpu}"},
    {Cause::timer, "srcu_*|rcu_*", "boot with rcu_nocbs={cpu}, so that RCU works elsewhere"},
    {Cause::timer, "tick_*|sched_timer", "the tick: boot with nohz_full={cpu}, and keep one runnable task on it"},
    {Cause::timer, "bpf_timer_cb", "a timer of a BPF program: unload it, or let it arm its timer on another CPU"},
    {Cause::timer, "",
     "a timer that was armed on this CPU: keep what arms it away, or take the CPU offline and online once, which moves "
     "timers"},

    // Device interrupts and what follows them.
    {Cause::irq, "(managed)",
     "boot with isolcpus=managed_irq,domain,{cpu}, or do no I/O from this CPU: the driver placed a queue on it"},
    {Cause::irq, "",
     "echo {house} > /proc/irq/{irq}/smp_affinity_list; to last: irqaffinity={house} on the kernel's command line, and "
     "ban cpu {cpu} in irqbalance"},
    {Cause::softirq, "TIMER",
     "timers that were armed on this CPU; the row inside names them; nohz_full={cpu} moves most of them"},
    {Cause::softirq, "HRTIMER",
     "soft timers that were armed on this CPU; the row inside names them: arm them elsewhere"},
    {Cause::softirq, "SCHED",
     "load balancing: take the CPU out of it, isolcpus=domain,{cpu} or an isolated cpuset partition"},
    {Cause::softirq, "RCU", "boot with rcu_nocbs={cpu} (nohz_full= implies it), so that RCU callbacks run elsewhere"},
    {Cause::softirq, "NET_RX",
     "move the card's interrupts to cpu {house}, and leave cpu {cpu} out of /sys/class/net/*/queues/rx-*/rps_cpus"},
    {Cause::softirq, "NET_TX", "send from another CPU; leave cpu {cpu} out of /sys/class/net/*/queues/tx-*/xps_cpus"},
    {Cause::softirq, "BLOCK",
     "completions of disk I/O: do none from cpu {cpu}; echo 0 > /sys/block/DISK/queue/rq_affinity keeps them where "
     "they land"},
    {Cause::softirq, "IRQ_POLL", "a storage driver polls here: move its interrupt to cpu {house}"},
    {Cause::softirq, "TASKLET|HI", "a driver's bottom half: move the interrupt that schedules it to cpu {house}"},
    {Cause::softirq, "", "move what raises it (interrupts, timers, I/O) to another CPU"},

    // What other CPUs send. The function's name is in the detail.
    {Cause::ipi, "flush_tlb_func*|TLB flush|TLB shootdowns",
     "do not unmap, protect or discard memory of this process while the loop runs (munmap, mprotect, madvise, exiting "
     "threads, free)"},
    {Cause::ipi, "do_flush_tlb_all|do_kernel_range_flush|kernel TLB flush",
     "the kernel unmapped memory of its own: load no modules or BPF programs while the loop runs"},
    {Cause::ipi, "ipi_mb|ipi_rseq|ipi_sync_core|ipi_sync_rq_state|membarrier",
     "membarrier(2) by a thread of this process (garbage collectors, RCU libraries, allocators): keep it out of this "
     "process"},
    {Cause::ipi, "do_sync_core|text patching",
     "the kernel's code was patched: start tracers, probes and BPF before the loop; change no sysctl or netfilter rule "
     "during it"},
    {Cause::ipi, "remote_function|__perf_event_*|perf event",
     "perf opened, read or closed an event for this CPU: stop system-wide perf and monitoring agents, or leave cpu "
     "{cpu} out (-C)"},
    {Cause::ipi, "sched_ttwu_pending|remote wake-up|wake-up",
     "a task was woken toward this CPU: keep other tasks off it (taskset, cpuset), and let this one spin instead of "
     "sleep"},
    {Cause::ipi, "reschedule|Rescheduling",
     "the scheduler was called here for another task or a signal: keep other tasks off cpu {cpu} "
     "(isolcpus=domain,{cpu}, taskset)"},
    {Cause::ipi, "MSR access|mtrr_*|*rdmsr*|*wrmsr*|*cpuid*|aperfmperf_*|acpi_*|*cpufreq*",
     "another task uses this CPU's registers (MSR, MTRR, cpufreq, cpuid): stop turbostat, powertop and monitoring "
     "agents, "
     "or leave it out"},
    {Cause::ipi, "rcu_*|invoke_rcu_core|smp_call_rcu*|sync_rcu_exp_*",
     "RCU asked this CPU for a quiet moment: boot with nohz_full={cpu} rcu_nocbs={cpu} rcupdate.rcu_normal=1"},
    {Cause::ipi, "nohz_csd_func|idle load balance",
     "load balancing: boot with isolcpus=domain,{cpu}, or make an isolated cpuset partition of it"},
    {Cause::ipi, "__blk_mq_complete_request_remote|block I/O completion",
     "disk I/O that this CPU began is completed here: do none from cpu {cpu}, or echo 0 > "
     "/sys/block/DISK/queue/rq_affinity"},
    {Cause::ipi, "invalidate_bh_lru|buffer cache drop",
     "a block device was closed or unmounted elsewhere: do that before the loop"},
    {Cause::ipi, "", "another CPU called a function here; its sender is named: stop or move what sends it"},

    {Cause::interrupt, "irq_work|IRQ work",
     "deferred work of tracers, perf, printk or RCU on this CPU: stop tracers that are not cloister's"},
    {Cause::interrupt, "thermal|Thermal*",
     "the processor is too hot or limited its power: cooling, and a fixed lower frequency"},
    {Cause::interrupt, "threshold|deferred*|machine check|MCE|MCP",
     "corrected hardware errors: see rasdaemon or the system's event log, and replace the part; ignore_ce hides them "
     "only"},
    {Cause::interrupt, "HYP|hypervisor",
     "the host notifies this guest (paravirtual events): take it up with who runs the hypervisor"},
    {Cause::interrupt, "error|spurious|APIC*",
     "the interrupt controller reports an error: look at dmesg, then at firmware and cabling"},
    {Cause::interrupt, "", "grep the name in /proc/interrupts: move its source to another CPU, or unload its driver"},

    {Cause::nmi, "perf_event_nmi_handler|*perf*",
     "sysctl kernel.nmi_watchdog=0, and no perf with hardware events on cpu {cpu}"},
    {Cause::nmi, "nmi_cpu_backtrace_handler",
     "someone asked for a backtrace of all CPUs (sysrq-l, a stall): see dmesg"},
    {Cause::nmi, "ghes_notify_nmi|mce*", "a hardware error: see dmesg and the system's event log"},
    {Cause::nmi, "", "sysctl kernel.nmi_watchdog=0; else dmesg says whether hardware or firmware raised it"},

    // Who took the CPU.
    {Cause::preempted, "kworker/u*|kworker/R*",
     "unbound work: leave cpu {cpu} out of /sys/devices/virtual/workqueue/cpumask, or boot with isolcpus=domain,{cpu}"},
    {Cause::preempted, "kworker*",
     "work bound to this CPU; the workqueue row inside names the function and who queued it"},
    {Cause::preempted, "ksoftirqd*", "softirqs piled up here: see the softirq rows, and move what raises them"},
    {Cause::preempted, "migration*|stopper*",
     "the CPU was stopped: no CPU hotplug, no affinity changes of tasks here, no module unloading while the loop runs"},
    {Cause::preempted, "rcuc*|rcub*", "boot with rcu_nocbs={cpu}, so that RCU callbacks run elsewhere"},
    {Cause::preempted, "rcu*",
     "RCU's threads may run elsewhere: for p in $(pgrep ^rcu); do taskset -cp {house} $p; done"},
    {Cause::preempted, "irq/*",
     "a threaded interrupt: echo {house} > /proc/irq/N/smp_affinity_list (N follows irq/ in its name)"},
    {Cause::preempted, "cpuhp*", "a CPU went offline or online: no hotplug while the loop runs"},
    {Cause::preempted, "kswapd*|kcompactd*|khugepaged|ksmd|kauditd|oom_reaper",
     "a kernel thread of memory or audit: for p in $(pgrep -x '{name}'); do taskset -cp {house} $p; done"},
    {Cause::preempted, "",
     "keep other tasks off: boot with isolcpus=domain,{cpu}, or a cpuset with cpuset.cpus.partition=isolated; or "
     "taskset them away"},

    {Cause::workqueue, "vmstat_update|vmstat_shepherd",
     "sysctl vm.stat_interval=120; kernels with nohz_full={cpu} leave the CPU alone"},
    {Cause::workqueue, "lru_add_drain_per_cpu",
     "another task drains page caches of all CPUs (mlock, compaction, migration): stop the one that queued it"},
    {Cause::workqueue, "drain_local_pages*|drain_local_stock|flush_cpu_slab|drain_*",
     "another task reclaims memory from all CPUs: more free memory, no memory cgroup limits near, no cgroup removal"},
    {Cause::workqueue, "psi_avgs_work",
     "pressure averages: boot with psi=0, or echo 0 > cgroup.pressure of its cgroups"},
    {Cause::workqueue, "wq_barrier_func", "someone flushes the work of this CPU: stop the one that queued it"},
    {Cause::workqueue, "blk_*|wb_*|flush_to_ldisc|console_*|md_*|dm_*",
     "I/O that was begun on this CPU: do it from another"},
    {Cause::workqueue, "kfree_rcu_*|rcu_*|srcu_*|process_srcu", "RCU's work: boot with rcu_nocbs={cpu}"},
    {Cause::workqueue, "toggle_allocation_gate", "KFENCE's sampling: boot with kfence.sample_interval=0"},
    {Cause::workqueue, "cache_reap", "the slab allocator's housekeeping: a kernel with SLUB has none"},
    {Cause::workqueue, "",
     "leave cpu {cpu} out of /sys/devices/virtual/workqueue/cpumask if it is unbound; else stop or move what queues "
     "it"},

    {Cause::migrated, "",
     "pin it before the loop, from nowhere else: taskset -c {cpu} CMD; change no affinity or cpuset afterwards"},
    {Cause::firmware, "",
     "in a guest: have the vCPU pinned to a host CPU of its own; on metal: turn off SMIs in firmware (turbostat --show "
     "SMI counts them), C-states too"},
    {Cause::entry, "", "goes away with the breaches it surrounds"},
    {Cause::unseen, "",
     "compare /proc/interrupts of cpu {cpu} before and after, and watch as root with a newer kernel to get its name"},
});

bool word_char(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

// Whether `word` stands in `text` as a whole word; with '*' at its beginning or end, as that part of one.
bool has_word(std::string_view text, std::string_view word) {
    const bool open_front = word.starts_with('*'), open_back = word.ends_with('*');
    if (open_front) word.remove_prefix(1);
    if (open_back) word.remove_suffix(1);
    for (std::size_t at = text.find(word); at != std::string_view::npos; at = text.find(word, at + 1)) {
        const std::size_t end = at + word.size();
        const bool front = open_front || at == 0 || !word_char(word.front()) || !word_char(text[at - 1]);
        const bool back = open_back || end == text.size() || !word_char(word.back()) || !word_char(text[end]);
        if (front && back) return true;
    }
    return false;
}

bool fits(const Entry& entry, Cause cause, std::string_view detail) {
    if (entry.cause != cause) return false;
    if (entry.words.empty()) return true;
    for (std::size_t at = 0; at <= entry.words.size();) {
        const std::size_t end = std::min(entry.words.find('|', at), entry.words.size());
        if (has_word(detail, entry.words.substr(at, end - at))) return true;
        at = end + 1;
    }
    return false;
}

// The text comes from the catalog, the values from the machine: values are put in once and not looked at again.
std::string fill(std::string_view text, std::string_view detail, int cpu) {
    const auto value = [&](std::string_view key) -> std::string {
        if (key == "cpu") return cpu < 0 ? "CPU" : fmt::format("{}", cpu);
        if (key == "house") return cpu < 0 ? "OTHER" : cpu == 0 ? "1" : "0";
        if (key == "name") return std::string(detail.starts_with("by ") ? detail.substr(3) : detail);
        if (key == "irq") {
            const auto* from =
                std::find_if(detail.begin(), detail.end(), [](unsigned char c) { return std::isdigit(c); });
            const auto* to = std::find_if_not(from, detail.end(), [](unsigned char c) { return std::isdigit(c); });
            return from == to ? "N" : std::string(from, to);
        }
        return std::string(detail);
    };
    std::string out;
    while (true) {
        const std::size_t open = text.find('{');
        out += text.substr(0, open);
        if (open == std::string_view::npos) return out;
        const std::size_t close = text.find('}', open);
        out += value(text.substr(open + 1, close - open - 1));
        text.remove_prefix(close + 1);
    }
}

std::string remedy(Cause cause, std::string_view detail, bool observer, int cpu) {
    if (observer) return "cloister's own doing: it is not there without cloister";
    const auto* entry =
        std::find_if(kCatalog.begin(), kCatalog.end(), [&](const Entry& e) { return fits(e, cause, detail); });
    return fill(entry->text, detail, cpu);
}

}  // namespace

std::string remedy(const Breach& breach) {
    return remedy(breach.cause, breach.detail, breach.who && breach.who->observer, breach.cpu);
}

std::string remedy(const Row& row, int cpu) { return remedy(row.cause, row.detail, row.observer, cpu); }

std::vector<Advice> advice(Cause cause) {
    std::vector<Advice> out;
    for (const auto& entry : kCatalog) {
        if (entry.cause != cause) continue;
        std::string words;
        for (const char c : entry.words) words += c == '|' ? std::string(", ") : std::string(1, c);
        out.push_back({std::move(words), fill(entry.text, "...", -1)});  // a detail is only known of a breach
    }
    return out;
}

std::string_view meaning(Cause cause) {
    switch (cause) {
        case Cause::syscall:
            return "The program asked the kernel for something, and the kernel's code ran instead of the loop.";
        case Cause::fault:
            return "The program touched a page that was not mapped (yet), and the kernel had to provide it.";
        case Cause::trap:
            return "An instruction of the program raised an exception, which the kernel turned into a signal.";
        case Cause::signal:
            return "The kernel delivered a signal: the program was diverted to its handler, or stopped.";
        case Cause::tick:
            return "The local timer interrupted for the scheduler's tick, CONFIG_HZ times a second.";
        case Cause::timer:
            return "The local timer interrupted for another timer that was armed on this CPU, or a softirq ran one.";
        case Cause::irq:
            return "A device interrupted this CPU, and its driver's handler ran.";
        case Cause::softirq:
            return "Work that an interrupt or the kernel had put off ran right after it, before the program went on.";
        case Cause::ipi:
            return "Another CPU interrupted this one to have a function run here, or the scheduler called.";
        case Cause::nmi:
            return "A non-maskable interrupt: watchdog, profiler, a request for a backtrace, or a hardware error.";
        case Cause::preempted:
            return "The task could have run, but the scheduler gave the CPU to another one.";
        case Cause::blocked:
            return "The task gave up the CPU by itself and waited in the kernel.";
        case Cause::workqueue:
            return "A kernel worker thread ran a work item on this CPU, in the task's place.";
        case Cause::migrated:
            return "The task was moved to another CPU, with cold caches there.";
        case Cause::interrupt:
            return "An interrupt of the processor or its interrupt controller other than timer, device and IPI.";
        case Cause::firmware:
            return "Time passed with no kernel entry: firmware (system management mode), the hypervisor, or the "
                   "processor stood still.";
        case Cause::entry:
            return "Time at the edges of a traced breach: the processor's way into the kernel and back, and what the "
                   "probes cost.";
        case Cause::unseen:
            return "The kernel ran here, but no tracepoint says for what.";
    }
    return "";
}

}  // namespace cloister::breach
