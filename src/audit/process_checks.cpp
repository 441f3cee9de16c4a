// What of one process lets its CPU be interrupted.
#include <charconv>

#include "audit/report_builder.hpp"
#include "system/files.hpp"

namespace cloister::audit {
namespace {

long kib(std::string_view status, std::string_view key) {
    const auto value = system::value_of(status, key);
    long out = 0;
    std::from_chars(value.data(), value.data() + value.size(), out);
    return out;
}

void check_cpu_timers(Builder& builder, const std::string& folder, pid_t pid) {
    std::vector<std::string> bad;
    const auto timers = builder.machine.read(folder + "/timers").value_or("");
    std::string id;
    for (const auto line : system::split_lines(timers)) {
        if (line.starts_with("ID: ")) id = line.substr(4);
        if (!line.starts_with("ClockID: ")) continue;
        int clock = 0;
        std::from_chars(line.data() + 9, line.data() + line.size(), clock);
        // CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID, and those of other tasks, which are negative.
        if (clock == 2 || clock == 3 || clock < 0) bad.push_back("timer " + id);
    }
    const auto limits = builder.machine.read(folder + "/limits").value_or("");
    const auto words = system::split_words(system::value_of(limits, "Max cpu time"));
    if (!words.empty() && words[0] != "unlimited") bad.push_back(fmt::format("a limit of {} s of CPU time", words[0]));
    builder.judge("task_cpu_timers", bad.empty(),
                  {folder + "/timers, " + folder + "/limits", bad.empty() ? "none" : enumerate(bad), "none"}, {},
                  std::to_string(pid));
}

void check_quota(Builder& builder, const std::string& folder) {
    const auto groups = builder.machine.read(folder + "/cgroup").value_or("");
    const auto mounts = system::read_mounts(builder.machine.root());
    std::string source = folder + "/cgroup", found;
    for (const auto line : system::split_lines(groups)) {
        const auto first = line.find(':'), second = line.find(':', first + 1);
        if (first == std::string_view::npos || second == std::string_view::npos) continue;
        const auto controllers = fmt::format(",{},", line.substr(first + 1, second - first - 1));
        const bool v2 = controllers == ",,";
        if (!v2 && controllers.find(",cpu,") == std::string::npos) continue;
        for (const auto& mount : mounts) {
            const bool mine =
                v2 ? mount.type == "cgroup2"
                   : mount.type == "cgroup" && fmt::format(",{},", mount.options).find(",cpu,") != std::string::npos;
            if (!mine) continue;
            // The limit of every group above counts as well.
            std::string path(line.substr(second + 1));
            for (;; path.resize(path.rfind('/'))) {
                const auto file = mount.point + (path == "/" ? "" : path) + (v2 ? "/cpu.max" : "/cpu.cfs_quota_us");
                const auto text = builder.machine.read(file);
                if (text && !text->starts_with("max") && *text != "-1") {
                    source = file;
                    found = *text;
                }
                if (path.empty() || path.rfind('/') == std::string::npos) break;
            }
        }
    }
    builder.judge("task_quota", found.empty(), {source, found.empty() ? "none" : found, "none"}, {});
}

}  // namespace

void check_process(Builder& builder, pid_t pid) {
    const std::string folder = fmt::format("/proc/{}", pid), status_file = folder + "/status";
    const auto status = builder.machine.read(status_file).value_or("");
    const auto allowed = std::string(system::value_of(status, "Cpus_allowed_list:"));
    const auto mask = system::parse_cpu_list(allowed).value_or(CpuSet());
    const bool alone = mask.size() == 1 && !builder.bad(mask).empty();
    builder.judge("task_affinity", alone, {status_file, allowed, "exactly one of CPUs " + builder.cpus.text()},
                  alone ? std::vector<Change>{}
                        : std::vector<Change>{{fmt::format("task:{}", pid), fmt::format("{}", builder.cpus.list()[0])}},
                  fmt::format("{} {}", builder.cpus.list()[0], pid));
    const long locked = kib(status, "VmLck:"), resident = kib(status, "VmRSS:");
    builder.judge("task_memory", locked >= resident && resident > 0,
                  {status_file, fmt::format("{} of {} KiB locked", locked, resident), "all of it"}, {});
    const auto threads = system::value_of(status, "Threads:");
    builder.judge("task_shared_memory", threads == "1",
                  {status_file, fmt::format("{} threads share its memory", threads), "1"}, {});
    check_cpu_timers(builder, folder, pid);
    check_quota(builder, folder);
    const auto tracer = system::value_of(status, "TracerPid:");
    builder.judge("task_tracer", tracer == "0",
                  {status_file, tracer == "0" ? "none" : fmt::format("process {} traces it", tracer), "none"}, {});
}

}  // namespace cloister::audit
