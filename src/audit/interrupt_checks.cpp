// Interrupts of devices, who moves them, and packets that other CPUs hand over.
#include "audit/report_builder.hpp"
#include "system/files.hpp"

namespace cloister::audit {
namespace {

// Whose interrupt it is: the names of its handlers are the folders there. None: nobody uses it, so it never comes.
std::string handlers(const Machine& machine, const std::string& folder) {
    std::vector<std::string> out;
    for (const auto& name : machine.list(folder))
        if (machine.exists(folder + "/" + name + "/.") || name.find("affinity") == std::string::npos) {
            constexpr std::string_view kFiles = " node spurious ";
            if (kFiles.find(" " + name + " ") == std::string_view::npos) out.push_back(name);
        }
    return enumerate(out);
}

// A managed one cannot be moved: only debugfs tells, where it is mounted.
bool is_managed(const Machine& machine, const std::string& irq) {
    const auto text = machine.read("/sys/kernel/debug/irq/irqs/" + irq).value_or("");
    return text.find("IRQD_AFFINITY_MANAGED") != std::string::npos;
}

void check_affinities(Builder& builder) {
    std::vector<std::string> bad, managed, leaving;
    std::vector<Change> changes;
    std::size_t seen = 0;
    for (const auto& irq : builder.machine.list("/proc/irq")) {
        const std::string folder = "/proc/irq/" + irq;
        auto text = builder.machine.read(folder + "/effective_affinity_list");
        if (!text) text = builder.machine.read(folder + "/smp_affinity_list");
        const auto name = text ? handlers(builder.machine, folder) : "";
        if (name.empty()) continue;
        ++seen;
        const auto cpus = system::parse_cpu_list(*text);
        if (!cpus || builder.bad(*cpus).empty()) continue;
        if (is_managed(builder.machine, irq)) {
            managed.push_back(fmt::format("{} ({})", irq, name));
            continue;
        }
        // It is told to go already, and does with the next one that comes.
        const auto asked = system::parse_cpu_list(builder.machine.read(folder + "/smp_affinity_list").value_or(""));
        if (asked && builder.bad(*asked).empty()) {
            leaving.push_back(fmt::format("{} ({})", irq, name));
            continue;
        }
        bad.push_back(fmt::format("{} ({})", irq, name));
        changes.push_back({folder + "/smp_affinity_list", builder.house.text()});
    }
    std::string found = bad.empty() ? fmt::format("none of {} stays there", seen) : "there: " + enumerate(bad);
    if (!leaving.empty()) found += "; leaving with the next one that comes: " + enumerate(leaving);
    builder.judge("irq_affinity", bad.empty(),
                  {"/proc/irq/*/effective_affinity_list", std::move(found), builder.house.text()}, std::move(changes));
    if (!managed.empty())
        builder.fail("managed_irq", {"/sys/kernel/debug/irq/irqs/*", "managed, there: " + enumerate(managed),
                                     "none on " + builder.cpus.text()});
}

void check_default(Builder& builder) {
    const std::string file = "/proc/irq/default_smp_affinity";
    const auto text = builder.machine.read(file);
    const auto mask = text ? parse_mask(*text) : std::nullopt;
    if (!mask) {
        builder.unknown("default_smp_affinity", {file, "it cannot be read", mask_text(builder.house)});
        return;
    }
    builder.judge("default_smp_affinity", builder.bad(*mask).empty(),
                  {file, fmt::format("{} (CPUs {})", *text, mask->text()), mask_text(builder.house)},
                  {{file, mask_text(builder.house)}});
}

// It leaves isolated and nohz_full CPUs alone by itself; the others only where it was told so.
void check_irqbalance(Builder& builder) {
    const std::string wanted = "not running, or told to leave CPU " + builder.cpus.text() + " alone";
    for (const auto& task : builder.machine.tasks()) {
        if (task.comm != "irqbalance" || task.tid != task.tgid) continue;
        const std::string file = fmt::format("/proc/{}/environ", task.tid);
        const auto& topology = builder.machine.topology();
        CpuSet banned = topology.isolated;
        for (const int cpu : topology.nohz_full.list()) banned.add(cpu);
        auto environment = builder.machine.read(file).value_or("");
        for (auto& c : environment)
            if (c == '\0') c = '\n';
        if (const auto list = system::parse_cpu_list(system::value_of(environment, "IRQBALANCE_BANNED_CPULIST=")))
            for (const int cpu : list->list()) banned.add(cpu);
        if (const auto mask = parse_mask(system::value_of(environment, "IRQBALANCE_BANNED_CPUS=")))
            for (const int cpu : mask->list()) banned.add(cpu);
        builder.judge(
            "irqbalance", without(builder.cpus, banned).empty(),
            {file, fmt::format("pid {} runs, and leaves alone: {}", task.tid, banned.empty() ? "none" : banned.text()),
             wanted},
            {});
        return;
    }
    builder.pass("irqbalance", {"/proc/*/comm", "not running", wanted});
}

void check_steering(Builder& builder, std::string_view id, std::string_view queue, const std::string& file_name) {
    std::vector<std::string> bad;
    std::vector<Change> changes;
    for (const auto& device : builder.machine.list("/sys/class/net"))
        for (const auto& name : builder.machine.list("/sys/class/net/" + device + "/queues")) {
            if (!name.starts_with(queue)) continue;
            const std::string file = "/sys/class/net/" + device + "/queues/" + name + "/" + file_name;
            const auto text = builder.machine.read(file);
            const auto mask = text ? parse_mask(*text) : std::nullopt;
            if (!mask || builder.bad(*mask).empty()) continue;
            bad.push_back(fmt::format("{} {} ({})", device, name, *text));
            changes.push_back({file, mask_text(without(*mask, builder.cpus))});
        }
    builder.judge(id, bad.empty(),
                  {"/sys/class/net/*/queues/*/" + file_name, bad.empty() ? "none there" : enumerate(bad),
                   "masks without CPU " + builder.cpus.text()},
                  std::move(changes));
}

}  // namespace

void check_interrupts(Builder& builder) {
    check_affinities(builder);
    check_default(builder);
    check_irqbalance(builder);
    check_steering(builder, "rps", "rx-", "rps_cpus");
    check_steering(builder, "xps", "tx-", "xps_cpus");
}

}  // namespace cloister::audit
