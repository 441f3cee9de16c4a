// Who may run there: programs, kernel threads, work items; and what watches that they do.
#include <unistd.h>

#include <charconv>

#include "audit/report_builder.hpp"

namespace cloister::audit {
namespace {

void check_mask(Builder& builder, std::string_view id, const std::string& file) {
    const auto text = builder.machine.read(file);
    const auto mask = text ? parse_mask(*text) : std::nullopt;
    if (!mask) {
        builder.unknown(
            id, {file, builder.machine.exists(file) ? "it cannot be read" : "no such file", mask_text(builder.house)});
        return;
    }
    builder.judge(
        id, builder.bad(*mask).empty(),
        {file, fmt::format("{} (CPUs {})", *text, mask->text()), mask_text(builder.house)},
        {{file, mask_text(without(*mask, builder.cpus).empty() ? builder.house : without(*mask, builder.cpus))}});
}

// A task that is pinned to audited CPUs alone was put there on purpose: it is their user.
void check_allowed(Builder& builder) {
    struct Group {
        std::string_view id, what;
        std::vector<std::string> bad = {};
        std::vector<Change> changes = {};
        std::size_t seen = 0;
    };
    Group programs{"tasks", "threads of programs"}, threads{"kthreads", "kernel threads that can be moved"},
        rcu{"rcu_kthreads", "threads of RCU"};
    for (const auto& task : builder.machine.tasks()) {
        if (task.bound || task.tgid == getpid()) continue;  // nor this audit itself
        Group& group = !task.kernel ? programs : task.comm.starts_with("rcu") ? rcu : threads;
        ++group.seen;
        const auto elsewhere = without(task.allowed, builder.cpus);
        if (builder.bad(task.allowed).empty() || (!task.kernel && elsewhere.empty())) continue;
        group.bad.push_back(fmt::format("{}/{}", task.comm, task.tid));
        group.changes.push_back(
            {fmt::format("task:{}", task.tid), elsewhere.empty() ? builder.house.text() : elsewhere.text()});
    }
    for (Group* group : {&programs, &threads, &rcu})
        builder.judge(group->id, group->bad.empty(),
                      {"Cpus_allowed_list in /proc/*/task/*/status",
                       group->bad.empty() ? fmt::format("none of {} {}", group->seen, group->what)
                                          : fmt::format("{} of {} {}: {}", group->bad.size(), group->seen, group->what,
                                                        enumerate(group->bad)),
                       "none may run on CPU " + builder.cpus.text()},
                      std::move(group->changes));
}

void check_watchdogs(Builder& builder) {
    builder.file_is("nmi_watchdog", "/proc/sys/kernel/nmi_watchdog", "0", "this kernel has no NMI watchdog");
    const std::string file = "/proc/sys/kernel/watchdog_cpumask";
    const auto text = builder.machine.read(file);
    const auto on = builder.machine.read("/proc/sys/kernel/watchdog");
    const auto cpus = text ? system::parse_cpu_list(*text) : CpuSet();
    if (!text || !on || *on == "0" || !cpus) {
        builder.pass("watchdog_cpumask",
                     {file, on && *on == "0" ? "the watchdog is off" : "this kernel has no watchdog",
                      "without CPU " + builder.cpus.text()});
        return;
    }
    const auto rest = without(*cpus, builder.cpus);
    builder.judge("watchdog_cpumask", builder.bad(*cpus).empty(), {file, *text, builder.house.text()},
                  {{file, rest.empty() ? builder.house.text() : rest.text()}});
}

// On a nohz_full CPU, timers that are armed there go to housekeeping CPUs if this is 1 (get_nohz_timer_target()); a CPU
// that is not may become the target of others instead.
void check_timer_migration(Builder& builder) {
    const bool kept = without(builder.cpus, builder.machine.topology().nohz_full).empty();
    const std::string wanted = kept ? "1" : "0", file = "/proc/sys/kernel/timer_migration";
    const auto text = builder.machine.read(file);
    if (!text) {
        builder.unknown("timer_migration", {file, "it cannot be read", wanted}, wanted);
        return;
    }
    builder.judge("timer_migration", *text == wanted, {file, *text, wanted}, {{file, wanted}}, wanted);
}

void check_fair_server(Builder& builder) {
    const std::string folder = "/sys/kernel/debug/sched/fair_server";
    if (!builder.machine.exists(folder)) {
        const bool mounted = builder.machine.exists("/sys/kernel/debug/sched");
        int major = 0, minor = 0;
        const auto& kernel = builder.machine.topology().kernel;
        const auto* end = kernel.data() + kernel.size();
        const auto first = std::from_chars(kernel.data(), end, major);
        if (first.ptr != end) (void)std::from_chars(first.ptr + 1, end, minor);
        Seen seen{folder, "this kernel has none", "0"};
        if (mounted || std::pair(major, minor) < std::pair(6, 12)) {
            builder.pass("fair_server", std::move(seen));
        } else {
            seen.found = "debugfs cannot be read here: mount -t debugfs none /sys/kernel/debug";
            builder.unknown("fair_server", std::move(seen));
        }
        return;
    }
    std::vector<std::string> found;
    std::vector<Change> changes;
    for (const int cpu : builder.cpus.list()) {
        const auto file = fmt::format("{}/cpu{}/runtime", folder, cpu);
        const auto text = builder.machine.read(file).value_or("0");
        if (text == "0") continue;
        found.push_back(fmt::format("cpu{}: {} ns of each period", cpu, text));
        changes.push_back({file, "0"});
    }
    builder.judge("fair_server", found.empty(), {folder + "/cpuN/runtime", found.empty() ? "0" : enumerate(found), "0"},
                  std::move(changes));
}

}  // namespace

void check_tasks(Builder& builder) {
    check_allowed(builder);
    check_mask(builder, "workqueue_cpumask", "/sys/devices/virtual/workqueue/cpumask");
    check_mask(builder, "writeback_cpumask", "/sys/bus/workqueue/devices/writeback/cpumask");
    check_watchdogs(builder);
    check_timer_migration(builder);
    builder.file_is("rt_throttling", "/proc/sys/kernel/sched_rt_runtime_us", "-1", "this kernel does not throttle");
    check_fair_server(builder);
}

}  // namespace cloister::audit
