#include "system/cpu.hpp"

#include <algorithm>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "system/files.hpp"

namespace cloister::system {
namespace {

// The kernel writes a missing list as an empty line or as "(null)".
CpuSet read_list(const std::string& path) {
    const auto text = read_word(path);
    return parse_cpu_list(text).value_or(CpuSet());
}

CpuSet both(const CpuSet& a, const CpuSet& b) {
    CpuSet out;
    for (const int cpu : a.list()) {
        if (b.has(cpu)) out.add(cpu);
    }
    return out;
}

void add_all(CpuSet& to, const CpuSet& from) {
    for (const int cpu : from.list()) to.add(cpu);
}

// The list of "rcu_nocbs=..." on the command line, in which "all" stands for every CPU and "N" for the last.
CpuSet boot_list(std::string_view command_line, std::string_view key, const CpuSet& possible) {
    CpuSet out;
    for (const auto word : split_words(command_line)) {
        if (word == "--") break;  // what follows is for init
        if (!word.starts_with(key)) continue;
        std::string list(word.substr(key.size()));
        if (list == "all") {
            out = possible;
            continue;
        }
        const auto last = possible.empty() ? std::string("0") : fmt::format("{}", possible.list().back());
        for (auto at = list.find('N'); at != std::string::npos; at = list.find('N')) list.replace(at, 1, last);
        out = parse_cpu_list(list).value_or(CpuSet());
    }
    return out;
}

struct CgroupFolder {
    std::string cgroup, mount, folder;  // folder: mount point + cgroup, as seen from here
};

// Where the cgroup at `path` is under a mount whose own root may be some way down the tree (containers).
CgroupFolder place(const Mount& mount, std::string path) {
    const auto shown = path;
    if (mount.root != "/" && (path == mount.root || path.starts_with(mount.root + "/")))
        path.erase(0, mount.root.size());
    // "/../x": outside of the cgroup namespace and not visible from here.
    if (path == "/" || path.starts_with("/..")) path.clear();
    return {shown, mount.point, mount.point + path};
}

std::optional<CgroupFolder> cgroup_v1(const std::vector<Mount>& mounts, std::string_view cgroups) {
    for (const auto line : split_lines(cgroups)) {  // 3:cpuset:/path
        const auto first = line.find(':');
        const auto second = line.find(':', first + 1);
        if (first == std::string_view::npos || second == std::string_view::npos) continue;
        const auto controllers = fmt::format(",{},", line.substr(first + 1, second - first - 1));
        if (controllers.find(",cpuset,") == std::string::npos) continue;
        for (const auto& mount : mounts) {
            const bool cpuset = fmt::format(",{},", mount.options).find(",cpuset,") != std::string::npos;
            if (mount.type == "cgroup" && cpuset) return place(mount, std::string(line.substr(second + 1)));
        }
    }
    return std::nullopt;
}

std::optional<CgroupFolder> cgroup_v2(const std::vector<Mount>& mounts, std::string_view cgroups) {
    const auto path = value_of(cgroups, "0::");
    for (const auto& mount : mounts) {
        if (mount.type == "cgroup2" && !path.empty()) return place(mount, std::string(path));
    }
    return std::nullopt;
}

void read_cpuset(Topology& topology, const std::string& root) {
    topology.cpuset = topology.online;
    const auto text = read_file(root + "/proc/self/cgroup");
    const auto mounts = read_mounts(root);
    if (!text) return;
    const auto take = [&](const CgroupFolder& group, const std::string& file) {
        const auto cpus = read_list(root + file);
        if (cpus.empty()) return false;
        topology.cpuset = cpus;
        topology.cgroup = group.cgroup;
        topology.cpuset_file = file;
        return true;
    };
    if (const auto group = cgroup_v1(mounts, *text)) {
        if (take(*group, group->folder + "/cpuset.effective_cpus")) return;
        if (take(*group, group->folder + "/cpuset.cpus")) return;
    }
    if (const auto group = cgroup_v2(mounts, *text)) {
        add_all(topology.isolated, read_list(root + group->mount + "/cpuset.cpus.isolated"));
        // Without the controller in this group, the nearest one above that has it decides.
        for (auto folder = group->folder; folder.size() >= group->mount.size(); folder.resize(folder.rfind('/'))) {
            if (take(*group, folder + "/cpuset.cpus.effective")) return;
        }
    }
}

}  // namespace

std::string Topology::isolation_of(int cpu) const {
    std::string out;
    const auto append = [&out](bool is, std::string_view word) {
        if (!is) return;
        if (!out.empty()) out += ", ";
        out += word;
    };
    append(nohz_full.has(cpu), "nohz_full");
    append(isolated.has(cpu), "domain-isolated");
    append(rcu_nocbs.has(cpu), "rcu_nocbs");
    return out.empty() ? "none" : out;
}

Topology read_topology(const std::string& root) {
    Topology out;
    const std::string sys = root + "/sys/devices/system/cpu/";
    out.possible = read_list(sys + "possible");
    out.present = read_list(sys + "present");
    out.online = read_list(sys + "online");
    out.isolated = read_list(sys + "isolated");
    out.nohz_full = read_list(sys + "nohz_full");
    out.rcu_nocbs = boot_list(read_word(root + "/proc/cmdline"), "rcu_nocbs=", out.possible);
    add_all(out.rcu_nocbs, out.nohz_full);
    const auto status = read_file(root + "/proc/self/status").value_or("");
    out.allowed = parse_cpu_list(value_of(status, "Cpus_allowed_list:")).value_or(CpuSet());
    out.kernel = read_word(root + "/proc/sys/kernel/osrelease");
    read_cpuset(out, root);
    return out;
}

Result<int> choose_cpu(const Topology& topology, int wanted) {
    const auto usable = both(topology.online, topology.cpuset);
    const auto& known = topology.present.empty() ? topology.possible : topology.present;
    if (wanted >= 0 && !known.has(wanted)) {
        return fail({.what = fmt::format("there is no CPU {}", wanted),
                     .needs = "a CPU of this machine",
                     .found = fmt::format("this machine has CPUs {}", known.text()),
                     .set = fmt::format("choose one of {} with -c", usable.text())});
    }
    if (wanted >= 0 && !topology.online.has(wanted)) {
        return fail(
            {.what = fmt::format("CPU {} is offline", wanted),
             .needs = "a CPU that is online",
             .found = fmt::format("online: {}", topology.online.text()),
             .set = fmt::format("echo 1 | sudo tee /sys/devices/system/cpu/cpu{}/online   (until the next boot), or "
                                "choose another with -c",
                                wanted)});
    }
    if (wanted >= 0 && !topology.cpuset.has(wanted)) {
        const auto folder = topology.cpuset_file.substr(0, topology.cpuset_file.rfind('/'));
        auto widened = topology.cpuset;
        widened.add(wanted);
        return fail(
            {.what = fmt::format("CPU {} is outside of this process's cpuset", wanted),
             .needs = fmt::format("CPU {} in the cpuset of cgroup {}", wanted, topology.cgroup),
             .found = fmt::format("{}: {}", topology.cpuset_file, topology.cpuset.text()),
             .set = fmt::format("echo {} | sudo tee {}/cpuset.cpus, and the same in the groups above it; to keep it: "
                                "AllowedCPUs= of its systemd unit, --cpuset-cpus of its container",
                                widened.text(), folder)});
    }
    if (usable.size() < 2) {
        return fail(
            {.what = "there is no CPU to spare",
             .needs = "two CPUs, one for the task and one for the observer",
             .found =
                 fmt::format("online: {}; in the cpuset{}: {}", topology.online.text(),
                             topology.cgroup.empty() ? "" : " of cgroup " + topology.cgroup, topology.cpuset.text()),
             .set = topology.online.size() < 2
                        ? "bring another CPU online (echo 1 | sudo tee /sys/devices/system/cpu/cpuN/online), or give "
                          "the virtual machine a second one"
                        : fmt::format("widen the cpuset, {} (and the groups above it)", topology.cpuset_file)});
    }
    if (wanted >= 0) return wanted;
    // The better isolated one first; among equals the highest, since low numbers carry the machine's own work.
    const auto cpus = usable.list();
    return *std::max_element(cpus.begin(), cpus.end(), [&](int a, int b) {
        const auto rank = [&](int cpu) {
            const int isolation = 2 * topology.isolated.has(cpu) + topology.nohz_full.has(cpu);
            return std::pair(isolation, cpu);
        };
        return rank(a) < rank(b);
    });
}

}  // namespace cloister::system
