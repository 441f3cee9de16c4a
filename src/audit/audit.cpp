#include "audit/audit.hpp"

#include <algorithm>

#include "audit/report_builder.hpp"

namespace cloister::audit {

std::string_view name(Verdict verdict) {
    switch (verdict) {
        case Verdict::pass:
            return "pass";
        case Verdict::fail:
            return "fail";
        case Verdict::unknown:
            break;
    }
    return "unknown";
}

Builder::Builder(const Machine& the_machine, CpuSet the_cpus, CpuSet the_house)
    : machine(the_machine), cpus(std::move(the_cpus)), house(std::move(the_house)) {}

Finding& Builder::add(std::string_view id, Verdict verdict, Seen seen, std::string_view value) {
    const Places places{
        .cpus = cpus.text(), .house = house.text(), .mask = mask_text(house), .value = std::string(value)};
    const Setting* of = setting(id);
    findings_.push_back({.setting = of,
                         .verdict = verdict,
                         .source = std::move(seen.source),
                         .found = std::move(seen.found),
                         .wanted = std::move(seen.wanted),
                         .now = fill(of->now, places),
                         .last = fill(of->last, places)});
    return findings_.back();
}

void Builder::file_is(std::string_view id, const std::string& file, std::string_view wanted, std::string_view missing) {
    const auto text = machine.read(file);
    if (!text) {
        const bool there = machine.exists(file);
        Seen seen{file, there ? "it cannot be read" : std::string(missing), std::string(wanted)};
        if (there)
            unknown(id, std::move(seen));
        else
            pass(id, std::move(seen));
        return;
    }
    const auto found = chosen(*text);
    judge(id, found == wanted, {file, found, std::string(wanted)}, {{file, std::string(wanted)}});
}

CpuSet Builder::bad(const CpuSet& found) const {
    CpuSet out;
    for (const int cpu : cpus.list())
        if (found.has(cpu)) out.add(cpu);
    return out;
}

std::string chosen(std::string_view text) {
    const auto open = text.find('['), close = text.find(']');
    if (open == std::string_view::npos || close == std::string_view::npos || close < open) return std::string(text);
    return std::string(text.substr(open + 1, close - open - 1));
}

CpuSet without(const CpuSet& from, const CpuSet& those) {
    CpuSet out = from;
    for (const int cpu : those.list()) out.remove(cpu);
    return out;
}

std::string enumerate(const std::vector<std::string>& items, std::size_t most) {
    std::string out;
    for (std::size_t i = 0; i < std::min(items.size(), most); ++i) out += (i ? ", " : "") + items[i];
    if (items.size() > most) out += fmt::format(" and {} more", items.size() - most);
    return out;
}

CpuSet housekeeping_of(const Machine& machine, const CpuSet& cpus) {
    const auto& topology = machine.topology();
    const auto rest = without(topology.online, cpus);
    const auto best = without(without(rest, topology.isolated), topology.nohz_full);
    return best.empty() ? rest : best;
}

std::vector<Finding> audit(const Machine& machine, const CpuSet& cpus, std::optional<pid_t> pid) {
    Builder builder(machine, cpus, housekeeping_of(machine, cpus));
    check_boot(builder);
    check_tasks(builder);
    check_interrupts(builder);
    check_memory(builder);
    check_hardware(builder);
    if (pid) check_process(builder, *pid);
    return builder.take();
}

}  // namespace cloister::audit
