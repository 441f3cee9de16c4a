#include "audit/machine.hpp"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>

#include "system/files.hpp"

namespace cloister::audit {
namespace {

// PF_KTHREAD and PF_NO_SETAFFINITY of include/linux/sched.h: field 9 of /proc/PID/stat, stable since 3.10.
constexpr unsigned long kKernelThread = 0x00200000, kNoSetAffinity = 0x04000000;

template <class T>
T number(std::string_view text) {
    T value{};
    std::from_chars(text.data(), text.data() + text.size(), value);
    return value;
}

// A plain file as well: gzread() gives what is not compressed as it is.
std::optional<std::string> read_compressed(const std::string& path) {
    const gzFile file = gzopen(path.c_str(), "rb");
    if (!file) return std::nullopt;
    std::string out;
    std::array<char, 1 << 14> block{};
    int got = 0;
    while ((got = gzread(file, block.data(), block.size())) > 0)
        out.append(block.data(), static_cast<std::size_t>(got));
    gzclose(file);
    if (got < 0) return std::nullopt;
    return out;
}

std::optional<Task> read_task(const std::string& folder, pid_t tgid, std::string_view tid) {
    const auto stat = system::read_file(folder + "/stat");
    const auto status = system::read_file(folder + "/status");
    if (!stat || !status) return std::nullopt;  // it has ended
    // The name is in parentheses and may hold any of them itself.
    const auto open = stat->find('('), close = stat->rfind(')');
    if (open == std::string::npos || close == std::string::npos || close < open) return std::nullopt;
    const auto rest = system::split_words(std::string_view(*stat).substr(close + 1));
    if (rest.size() < 20) return std::nullopt;
    const auto flags = number<unsigned long>(rest[6]);
    return Task{.tid = number<pid_t>(tid),
                .tgid = tgid,
                .comm = stat->substr(open + 1, close - open - 1),
                .allowed = system::parse_cpu_list(system::value_of(*status, "Cpus_allowed_list:")).value_or(CpuSet()),
                .kernel = (flags & kKernelThread) != 0,
                .bound = (flags & kNoSetAffinity) != 0,
                .started = number<std::uint64_t>(rest[19])};
}

}  // namespace

std::optional<CpuSet> parse_mask(std::string_view text) {
    text = system::trim(text);
    CpuSet out;
    if (text.empty()) return std::nullopt;
    int base = 0;
    while (true) {
        const auto comma = text.rfind(',');
        const auto group = comma == std::string_view::npos ? text : text.substr(comma + 1);
        std::uint64_t bits = 0;
        const auto [end, code] = std::from_chars(group.data(), group.data() + group.size(), bits, 16);
        if (code != std::errc() || end != group.data() + group.size()) return std::nullopt;
        for (int bit = 0; bit < 64; ++bit)
            if (bits >> bit & 1) out.add(base + bit);
        if (comma == std::string_view::npos) return out;
        base += 32;
        text = text.substr(0, comma);
    }
}

std::string mask_text(const CpuSet& cpus) {
    const auto list = cpus.list();
    std::vector<std::uint32_t> groups(list.empty() ? 1 : static_cast<std::size_t>(list.back()) / 32 + 1);
    for (const int cpu : list) groups[static_cast<std::size_t>(cpu) / 32] |= 1U << (cpu % 32);
    std::string out = fmt::format("{:x}", groups.back());
    for (std::size_t i = groups.size() - 1; i-- > 0;) out += fmt::format(",{:08x}", groups[i]);
    return out;
}

Machine::Machine(std::string root) : root_(std::move(root)), topology_(system::read_topology(root_)) {
    for (const auto& file : {std::string("/proc/config.gz"), "/boot/config-" + topology_.kernel,
                             "/lib/modules/" + topology_.kernel + "/config"}) {
        const auto text = read_compressed(root_ + file);
        if (!text) continue;
        config_file_ = file;
        config_.emplace();
        for (const auto line : system::split_lines(*text)) {
            const auto equals = line.find('=');
            if (line.starts_with("CONFIG_") && equals != std::string_view::npos)
                config_->emplace(line.substr(0, equals), line.substr(equals + 1));
        }
        break;
    }
    for (const auto& pid : list("/proc")) {
        if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
        for (const auto& tid : list("/proc/" + pid + "/task"))
            if (auto task = read_task(root_ + "/proc/" + pid + "/task/" + tid, number<pid_t>(pid), tid))
                tasks_.push_back(std::move(*task));
    }
    std::ranges::sort(tasks_, {}, &Task::tid);
    const auto cpuinfo = read("/proc/cpuinfo").value_or("");
    for (const auto line : system::split_lines(cpuinfo)) {
        if (!line.starts_with("flags")) continue;
        cpu_flags_ = fmt::format(" {} ", line.substr(std::min(line.find(':') + 1, line.size())));
        break;
    }
}

std::optional<std::string> Machine::read(const std::string& path) const {
    const auto text = system::read_file(root_ + path);
    if (!text) return std::nullopt;
    return std::string(system::trim(*text));
}

bool Machine::exists(const std::string& path) const {
    std::error_code ignored;
    return std::filesystem::exists(root_ + path, ignored);
}

std::vector<std::string> Machine::list(const std::string& folder) const {
    std::vector<std::string> out;
    std::error_code error;
    for (std::filesystem::directory_iterator at(root_ + folder, error), end; !error && at != end; at.increment(error))
        out.push_back(at->path().filename());
    // 2 before 10: most are numbers.
    std::ranges::sort(out, [](const std::string& a, const std::string& b) {
        return a.size() != b.size() ? a.size() < b.size() : a < b;
    });
    return out;
}

std::optional<std::string> Machine::boot_option(std::string_view name) const {
    std::optional<std::string> out;
    const auto line = read("/proc/cmdline").value_or("");
    for (const auto word : system::split_words(line)) {
        if (word == "--") break;  // what follows is for init
        if (word == name) out = "";
        if (word.starts_with(name) && word.size() > name.size() && word[name.size()] == '=')
            out = std::string(word.substr(name.size() + 1));
    }
    return out;
}

std::optional<std::string> Machine::config(std::string_view option) const {
    if (!config_) return std::nullopt;
    const auto at = config_->find(option);
    return at == config_->end() ? "" : at->second;
}

bool Machine::has_cpu_flag(std::string_view flag) const {
    return cpu_flags_.find(fmt::format(" {} ", flag)) != std::string::npos;
}

}  // namespace cloister::audit
