// The machine as an audit reads it: files below a root, so that tests can give it another one.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "system/cpu.hpp"

namespace cloister::audit {

using system::CpuSet;

// "ffffffff,00000003" as the kernel writes CPU masks: groups of 32 bits, the highest first, leading zeros or not.
// Nothing where it does not parse.
[[nodiscard]] std::optional<CpuSet> parse_mask(std::string_view text);
[[nodiscard]] std::string mask_text(const CpuSet& cpus);

struct Task {
    pid_t tid = 0, tgid = 0;
    std::string comm;
    CpuSet allowed;
    bool kernel = false;        // a kernel thread
    bool bound = false;         // its affinity cannot be changed (PF_NO_SETAFFINITY)
    std::uint64_t started = 0;  // clock ticks since boot: with the tid, what tells tasks apart
};

class Machine {
public:
    explicit Machine(std::string root = "");

    [[nodiscard]] const std::string& root() const { return root_; }
    [[nodiscard]] const system::Topology& topology() const { return topology_; }

    // A file's text without white space at its ends; nothing where it cannot be read.
    [[nodiscard]] std::optional<std::string> read(const std::string& path) const;
    [[nodiscard]] bool exists(const std::string& path) const;
    [[nodiscard]] std::vector<std::string> list(const std::string& folder) const;  // names, in their order
    // The value of NAME=... on the kernel's command line, the last one; "" for a bare NAME.
    [[nodiscard]] std::optional<std::string> boot_option(std::string_view name) const;
    // The value of a kernel option ("y", "m", "250"); "" where it is not set; nothing where no configuration is found.
    [[nodiscard]] std::optional<std::string> config(std::string_view option) const;
    [[nodiscard]] const std::string& config_file() const { return config_file_; }
    [[nodiscard]] const std::vector<Task>& tasks() const { return tasks_; }
    [[nodiscard]] bool has_cpu_flag(std::string_view flag) const;

private:
    std::string root_;
    system::Topology topology_;
    std::string config_file_;
    std::optional<std::map<std::string, std::string, std::less<>>> config_;
    std::vector<Task> tasks_;
    std::string cpu_flags_;
};

}  // namespace cloister::audit
