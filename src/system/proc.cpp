#include "system/proc.hpp"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include <linux/capability.h>
#include <unistd.h>

#include <fmt/format.h>

#include "system/files.hpp"

namespace cloister::system {
namespace {

template <class T>
bool parse(std::string_view text, T& out, int base = 10) {
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), out, base);
    return code == std::errc() && end == text.data() + text.size();
}

std::uint64_t number(std::string_view text) {
    std::uint64_t out = 0;
    return parse(text, out) ? out : 0;
}

// Capabilities and uid 0 of another user namespace open neither perf events nor BPF.
bool in_user_namespace(const std::string& root) {
    const auto map = read_word(root + "/proc/self/uid_map");
    const auto words = split_words(map);
    return !words.empty() && !(words.size() == 3 && words[0] == "0" && words[1] == "0" && words[2] == "4294967295");
}

}  // namespace

std::vector<InterruptLine> read_interrupts(int cpu, const std::string& root) {
    const auto text = read_file(root + "/proc/interrupts").value_or("");
    const auto lines = split_lines(text);
    if (lines.empty()) return {};
    const auto columns = split_words(lines[0]);  // CPU0 CPU2: only those that are online
    const auto column = static_cast<std::size_t>(
        std::distance(columns.begin(), std::find(columns.begin(), columns.end(), fmt::format("CPU{}", cpu))));
    if (column == columns.size()) return {};
    std::vector<InterruptLine> out;
    for (const auto line : lines) {
        const auto colon = line.find(':');
        if (line == lines[0] || colon == std::string_view::npos) continue;
        const auto words = split_words(line.substr(colon + 1));
        InterruptLine entry{std::string(trim(line.substr(0, colon))), {}, 0};
        std::size_t n = 0;
        for (std::uint64_t count = 0; n < columns.size() && n < words.size() && parse(words[n], count); ++n) {
            if (n == column) entry.count = count;
        }
        if (n < columns.size()) continue;  // ERR, MIS: one number for the whole machine
        for (; n < words.size(); ++n) {
            if (!entry.description.empty()) entry.description += ' ';
            entry.description += words[n];
        }
        out.push_back(std::move(entry));
    }
    return out;
}

std::vector<InterruptLine> rise(const std::vector<InterruptLine>& before, const std::vector<InterruptLine>& after) {
    std::map<std::string, std::uint64_t> old;
    for (const auto& line : before) old[line.name] = line.count;
    std::vector<InterruptLine> out;
    for (auto line : after) {
        const auto found = old.find(line.name);
        const auto was = found == old.end() ? 0 : found->second;
        if (line.count <= was) continue;
        line.count -= was;
        out.push_back(std::move(line));
    }
    return out;
}

Result<TaskCounters> read_task(pid_t tid, const std::string& root) {
    // /proc/TID/stat would be the sum over all threads; the file under task/ is the one thread's.
    const auto folder = fmt::format("{}/proc/{}/task/{}/", root, tid, tid);
    const auto stat = read_file(folder + "stat");
    const auto status = read_file(folder + "status");
    // The name may contain anything, so the fields are counted from its closing parenthesis; the first is number 3.
    const auto open = stat ? stat->find('(') : std::string::npos;
    const auto close = stat ? stat->rfind(')') : std::string::npos;
    if (!stat || !status || open == std::string::npos || close == std::string::npos || close < open) {
        return fail({.what = fmt::format("cannot read the counters of thread {}", tid),
                     .needs = "a thread that is alive",
                     .found = fmt::format("no {}stat", folder),
                     .set = {}});
    }
    const auto fields = split_words(std::string_view(*stat).substr(close + 1));
    const auto field = [&](std::size_t n) { return n - 3 < fields.size() ? number(fields[n - 3]) : 0; };
    const auto tick_ns = 1'000'000'000ULL / static_cast<std::uint64_t>(std::max(1L, sysconf(_SC_CLK_TCK)));
    TaskCounters out;
    out.comm = stat->substr(open + 1, close - open - 1);
    out.minor_faults = field(10);
    out.major_faults = field(12);
    out.user_ns = field(14) * tick_ns;
    out.system_ns = field(15) * tick_ns;
    out.voluntary = number(value_of(*status, "voluntary_ctxt_switches:"));
    out.involuntary = number(value_of(*status, "nonvoluntary_ctxt_switches:"));
    const auto schedstat = read_word(folder + "schedstat");
    if (const auto words = split_words(schedstat); words.size() >= 2) {
        out.cpu_ns = number(words[0]);
        out.wait_ns = number(words[1]);
    }
    return out;
}

std::vector<pid_t> threads_of(pid_t tgid, const std::string& root) {
    std::vector<pid_t> out;
    std::error_code error;
    std::filesystem::directory_iterator entry(fmt::format("{}/proc/{}/task", root, tgid), error);
    while (!error && entry != std::filesystem::directory_iterator()) {
        pid_t tid = 0;
        if (parse(std::string_view(entry->path().filename().native()), tid)) out.push_back(tid);
        entry.increment(error);
    }
    std::sort(out.begin(), out.end());
    return out;
}

Privileges read_privileges(const std::string& root) {
    Privileges out;
    const auto status = read_file(root + "/proc/self/status").value_or("");
    const bool foreign = in_user_namespace(root);
    if (!foreign) {
        const auto uids = split_words(value_of(status, "Uid:"));
        out.root = uids.size() > 1 && uids[1] == "0";
        std::uint64_t effective = 0;
        parse(value_of(status, "CapEff:"), effective, 16);
        const auto has = [effective](unsigned capability) { return (effective >> capability & 1) != 0; };
        out.cap_sys_admin = has(CAP_SYS_ADMIN);
        out.cap_perfmon = has(CAP_PERFMON);
        out.cap_bpf = has(CAP_BPF);
    }
    parse(read_word(root + "/proc/sys/kernel/perf_event_paranoid"), out.perf_event_paranoid);
    parse(read_word(root + "/proc/sys/kernel/perf_event_mlock_kb"), out.perf_event_mlock_kb);
    out.btf = access((root + "/sys/kernel/btf/vmlinux").c_str(), R_OK) == 0;
    for (const auto& mount : read_mounts(root)) {
        if (mount.type != "tracefs") continue;
        out.tracefs_mounted = true;
        // It may be mounted twice (debugfs brings its own): the place of its own is the one to name.
        if (out.tracefs.empty() || mount.point == "/sys/kernel/tracing") out.tracefs = mount.point;
    }
    const auto exists = [&](const char* path) { return access((root + path).c_str(), F_OK) == 0; };
    out.container =
        foreign || exists("/.dockerenv") || exists("/run/.containerenv") || exists("/run/systemd/container");
    return out;
}

}  // namespace cloister::system
