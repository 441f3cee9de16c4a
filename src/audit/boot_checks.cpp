// What only a boot decides: the kernel's options and its command line, against what has come of it.
#include <algorithm>
#include <array>
#include <filesystem>

#include "audit/report_builder.hpp"
#include "system/files.hpp"

namespace cloister::audit {
namespace {

constexpr std::string_view kCpu = "/sys/devices/system/cpu/";

void check_config(Builder& builder) {
    constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kOptions{
        {{"config_no_hz_full", "CONFIG_NO_HZ_FULL"},
         {"config_rcu_nocb", "CONFIG_RCU_NOCB_CPU"},
         {"config_isolation", "CONFIG_CPU_ISOLATION"},
         {"config_cpusets", "CONFIG_CPUSETS"}}};
    for (const auto& [id, option] : kOptions) {
        const auto value = builder.machine.config(option);
        if (!value) {
            builder.unknown(id, {"/proc/config.gz, /boot/config-" + builder.machine.topology().kernel,
                                 "neither can be read", fmt::format("{}=y", option)});
            continue;
        }
        builder.judge(id, *value == "y",
                      {builder.machine.config_file(),
                       value->empty() ? fmt::format("{} is not set", option) : fmt::format("{}={}", option, *value),
                       fmt::format("{}=y", option)},
                      {});
    }
}

void check_online(Builder& builder) {
    const auto missing = without(builder.cpus, builder.machine.topology().online);
    Seen seen{fmt::format("{}online", kCpu), builder.machine.topology().online.text(), builder.cpus.text()};
    if (missing.empty()) {
        builder.pass("online", std::move(seen));
        return;
    }
    auto& finding = builder.fail("online", std::move(seen), missing.text());
    for (const int cpu : missing.list()) finding.changes.push_back({fmt::format("{}cpu{}/online", kCpu, cpu), "1"});
}

void check_nohz_full(Builder& builder) {
    const auto file = fmt::format("{}nohz_full", kCpu);
    const auto asked = builder.machine.boot_option("nohz_full");
    const auto& found = builder.machine.topology().nohz_full;
    std::string words = found.text();
    if (!builder.machine.exists(file))
        words = "no such file: this kernel is built without CONFIG_NO_HZ_FULL";
    else if (found.empty())
        words = "none";
    if (asked && !without(builder.cpus, found).empty())
        words += fmt::format(" (the command line asks for nohz_full={}; dmesg | grep -i nohz says why not)", *asked);
    builder.judge("nohz_full", without(builder.cpus, found).empty(), {file, words, builder.cpus.text()}, {});
}

// The threads rcuop/N (rcuos/N where the kernel does not preempt) are there only where callbacks are really offloaded.
void check_rcu_nocbs(Builder& builder) {
    CpuSet offloaded;
    for (const auto& task : builder.machine.tasks()) {
        if (!task.kernel || !(task.comm.starts_with("rcuop/") || task.comm.starts_with("rcuos/"))) continue;
        if (const auto cpu = system::parse_cpu_list(std::string_view(task.comm).substr(6)))
            for (const int n : cpu->list()) offloaded.add(n);
    }
    const bool good = without(builder.cpus, offloaded).empty();
    std::string words = offloaded.empty() ? "none" : offloaded.text();
    if (const auto asked = builder.machine.boot_option("rcu_nocbs"); asked && !good)
        words += fmt::format(" (the command line asks for rcu_nocbs={})", *asked);
    builder.judge("rcu_nocbs", good, {"the kernel threads rcuop/N and rcuos/N", words, builder.cpus.text()}, {});
}

void check_isolated(Builder& builder) {
    const auto& isolated = builder.machine.topology().isolated;
    builder.judge("isolated", without(builder.cpus, isolated).empty(),
                  {fmt::format("{}isolated and cpuset.cpus.isolated", kCpu),
                   isolated.empty() ? "none" : isolated.text(), builder.cpus.text()},
                  {});
    const auto option = builder.machine.boot_option("isolcpus");
    if (!option) return;
    // [flag,...,]LIST, see kernel/sched/isolation.c: the first word that begins with a digit begins the list.
    std::vector<std::string> unknown;
    bool managed = false;
    std::string_view rest = *option;
    while (!rest.empty() && (rest[0] < '0' || rest[0] > '9')) {
        const auto flag = rest.substr(0, rest.find(','));
        if (flag == "managed_irq")
            managed = true;
        else if (flag != "domain" && flag != "nohz" && flag != "all" && flag != "N")
            unknown.emplace_back(flag);
        rest.remove_prefix(std::min(flag.size() + 1, rest.size()));
    }
    const std::string words = "isolcpus=" + *option;
    builder.judge("isolcpus_flags", unknown.empty(),
                  {"/proc/cmdline", unknown.empty() ? words : words + ": the kernel skips " + enumerate(unknown),
                   "domain, managed_irq, nohz"},
                  {});
    builder.judge("managed_irq", managed,
                  {"/proc/cmdline", words, "isolcpus=managed_irq,domain," + builder.cpus.text()}, {});
}

// Both versions: what is asked for lies in cpuset.cpus, what has come of it in cpuset.cpus.partition ("isolated
// invalid (reason)"), and in version 1 in sched_load_balance.
void check_partitions(Builder& builder) {
    const std::string& root = builder.machine.root();
    for (const auto& mount : system::read_mounts(root)) {
        const bool v2 = mount.type == "cgroup2";
        if (!v2 && !(mount.type == "cgroup" && mount.options.find("cpuset") != std::string::npos)) continue;
        std::error_code error;
        const auto options = std::filesystem::directory_options::skip_permission_denied;
        for (std::filesystem::recursive_directory_iterator at(root + mount.point, options, error), end;
             !error && at != end; at.increment(error)) {
            if (!at->is_directory(error)) continue;
            const std::string folder = at->path().string().substr(root.size());
            const auto cpus =
                system::parse_cpu_list(builder.machine.read(folder + "/cpuset.cpus").value_or("")).value_or(CpuSet());
            if (builder.bad(cpus).empty()) continue;
            if (v2) {
                const auto file = folder + "/cpuset.cpus.partition";
                const auto state = builder.machine.read(file).value_or("");
                if (state.starts_with("isolated"))
                    builder.judge("partition", state == "isolated", {file, state, "isolated"}, {}, file);
            } else if (const auto balance = builder.machine.read(folder + "/cpuset.sched_load_balance")) {
                // Such a set keeps its CPUs out of balancing only while no set above balances over them.
                const auto above = builder.machine.read(mount.point + "/cpuset.sched_load_balance").value_or("1");
                if (*balance == "0")
                    builder.judge("partition", above == "0",
                                  {mount.point + "/cpuset.sched_load_balance", above + " at the top, 0 in " + folder,
                                   "0 in both"},
                                  {}, mount.point + "/cpuset.sched_load_balance");
            }
        }
    }
}

void check_housekeeping(Builder& builder) {
    const auto& topology = builder.machine.topology();
    const auto kept = without(without(topology.online, topology.isolated), topology.nohz_full);
    const auto left = without(kept, builder.cpus);
    builder.judge("housekeeping", !left.empty(),
                  {fmt::format("{}{{online,isolated,nohz_full}}", kCpu), left.empty() ? "none is left" : left.text(),
                   "at least one CPU that is neither, beside " + builder.cpus.text()},
                  {});
}

}  // namespace

void check_boot(Builder& builder) {
    check_online(builder);
    check_config(builder);
    check_nohz_full(builder);
    check_rcu_nocbs(builder);
    check_isolated(builder);
    check_partitions(builder);
    check_housekeeping(builder);
}

}  // namespace cloister::audit
