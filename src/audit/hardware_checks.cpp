// Clocks, power states, siblings, machine checks, and the hypervisor below.
#include <charconv>
#include <chrono>
#include <thread>

#include "audit/report_builder.hpp"
#include "system/files.hpp"

namespace cloister::audit {
namespace {

constexpr std::string_view kCpu = "/sys/devices/system/cpu/cpu";
constexpr long kDeepLatency = 10;  // us: waking from a state that takes longer would be a breach of its own
constexpr auto kStealWindow = std::chrono::milliseconds(200);

long number(std::string_view text) {
    long value = 0;
    std::from_chars(text.data(), text.data() + text.size(), value);
    return value;
}

void check_clock(Builder& builder) {
    builder.file_is("clocksource", "/sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc",
                    "this kernel does not say");
    // Without these flags the watchdog compares the TSC with another clock: tsc_init() of arch/x86/kernel/tsc.c and
    // Linux 5.16's "Disable clocksource watchdog for TSC on qualified platforms".
    const auto option = builder.machine.boot_option("tsc").value_or("");
    const bool told = option == "reliable" || option == "nowatchdog";
    const bool known = builder.machine.has_cpu_flag("constant_tsc") && builder.machine.has_cpu_flag("nonstop_tsc") &&
                       builder.machine.has_cpu_flag("tsc_adjust");
    const bool reliable = told || known || builder.machine.has_cpu_flag("tsc_reliable");
    builder.judge("tsc_watchdog", reliable,
                  {"/proc/cmdline, flags in /proc/cpuinfo",
                   told    ? "tsc=" + option
                   : known ? "constant_tsc nonstop_tsc tsc_adjust"
                           : "neither tsc=reliable nor all of constant_tsc, nonstop_tsc, tsc_adjust",
                   "a TSC that nobody checks"},
                  {});
}

void check_siblings(Builder& builder) {
    std::vector<std::string> bad;
    for (const int cpu : builder.cpus.list()) {
        const auto file = fmt::format("{}{}/topology/thread_siblings_list", kCpu, cpu);
        auto others = system::parse_cpu_list(builder.machine.read(file).value_or("")).value_or(CpuSet());
        others.remove(cpu);
        if (!others.empty()) bad.push_back(fmt::format("CPU {} shares its core with {}", cpu, others.text()));
    }
    builder.judge("smt", bad.empty(),
                  {fmt::format("{}N/topology/thread_siblings_list", kCpu), bad.empty() ? "none" : enumerate(bad),
                   "no sibling online"},
                  {});
}

void check_governor(Builder& builder) {
    std::vector<std::string> bad;
    std::vector<Change> changes;
    bool seen = false;
    for (const int cpu : builder.cpus.list()) {
        const auto file = fmt::format("{}{}/cpufreq/scaling_governor", kCpu, cpu);
        const auto text = builder.machine.read(file);
        seen |= text.has_value();
        if (!text || *text == "performance") continue;
        bad.push_back(fmt::format("CPU {}: {}", cpu, *text));
        changes.push_back({file, "performance"});
    }
    Seen what{fmt::format("{}N/cpufreq/scaling_governor", kCpu),
              seen ? bad.empty() ? "performance" : enumerate(bad)
                   : "no such file: firmware or a hypervisor decides about frequencies",
              "performance"};
    if (seen)
        builder.judge("governor", bad.empty(), std::move(what), std::move(changes));
    else
        builder.unknown("governor", std::move(what));
}

void check_idle_states(Builder& builder) {
    std::vector<std::string> deep;
    std::vector<Change> changes;
    bool seen = false;
    for (const int cpu : builder.cpus.list()) {
        const auto folder = fmt::format("{}{}/cpuidle", kCpu, cpu);
        for (const auto& state : builder.machine.list(folder)) {
            const auto file = [&](std::string_view name) { return fmt::format("{}/{}/{}", folder, state, name); };
            const auto latency = builder.machine.read(file("latency"));
            if (!latency) continue;
            seen = true;
            if (number(*latency) <= kDeepLatency || builder.machine.read(file("disable")).value_or("0") != "0")
                continue;
            deep.push_back(
                fmt::format("CPU {} {} ({} us)", cpu, builder.machine.read(file("name")).value_or(state), *latency));
            changes.push_back({file("disable"), "1"});
        }
    }
    Seen what{fmt::format("{}N/cpuidle/state*", kCpu),
              !seen          ? "no idle states here: a hypervisor decides about them"
              : deep.empty() ? fmt::format("none that takes over {} us to leave", kDeepLatency)
                             : enumerate(deep),
              fmt::format("at most {} us to leave", kDeepLatency)};
    if (seen)
        builder.judge("cstates", deep.empty(), std::move(what), std::move(changes));
    else
        builder.unknown("cstates", std::move(what));
}

void check_machine_check(Builder& builder) {
    std::vector<std::string> bad;
    std::vector<Change> changes;
    for (const int cpu : builder.cpus.list()) {
        const auto folder = fmt::format("/sys/devices/system/machinecheck/machinecheck{}/", cpu);
        const auto interval = builder.machine.read(folder + "check_interval");
        if (!interval || *interval == "0" || builder.machine.read(folder + "ignore_ce").value_or("0") == "1") continue;
        bad.push_back(fmt::format("CPU {}: every {} s (in hex)", cpu, *interval));
        // One file for all CPUs in truth: each shows the same value.
        if (changes.empty()) changes.push_back({folder + "check_interval", "0"});
    }
    builder.judge("machine_check", bad.empty(),
                  {"/sys/devices/system/machinecheck/machinecheckN/check_interval",
                   bad.empty() ? "no polling" : enumerate(bad), "0, or ignore_ce 1"},
                  std::move(changes));
}

// Clock ticks of steal of a CPU since boot; field 8 of its line, proc(5).
long steal(const Machine& machine, int cpu) {
    const auto text = machine.read("/proc/stat").value_or("");
    const auto line = system::value_of(text, fmt::format("cpu{} ", cpu));
    const auto words = system::split_words(line);
    return words.size() > 7 ? number(words[7]) : 0;
}

void check_steal(Builder& builder) {
    Seen seen{"steal in /proc/stat", "no hypervisor", "no time stolen"};
    if (!builder.machine.has_cpu_flag("hypervisor")) {
        builder.pass("steal", std::move(seen));
        return;
    }
    std::vector<long> before;
    for (const int cpu : builder.cpus.list()) before.push_back(steal(builder.machine, cpu));
    std::this_thread::sleep_for(kStealWindow);
    std::vector<std::string> bad;
    long since_boot = 0;
    std::size_t i = 0;
    for (const int cpu : builder.cpus.list()) {
        const long now = steal(builder.machine, cpu);
        since_boot += now;
        if (now > before[i]) bad.push_back(fmt::format("CPU {}: {} ticks", cpu, now - before[i]));
        ++i;
    }
    seen.found = bad.empty()
                     ? fmt::format("a guest; none in {} ms ({} ticks since boot)", kStealWindow.count(), since_boot)
                     : fmt::format("a guest; in {} ms, {}", kStealWindow.count(), enumerate(bad));
    builder.judge("steal", bad.empty(), std::move(seen), {});
}

}  // namespace

void check_hardware(Builder& builder) {
    check_clock(builder);
    check_siblings(builder);
    check_governor(builder);
    check_idle_states(builder);
    check_machine_check(builder);
    check_steal(builder);
}

}  // namespace cloister::audit
