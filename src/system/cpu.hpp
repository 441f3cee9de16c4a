// CPUs: lists, what is online, what is isolated and how, what this process may use.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <sched.h>

#include "base/error.hpp"

namespace cloister::system {

class CpuSet {  // of any number of CPUs the kernel may have
public:
    void add(int cpu);
    void remove(int cpu);
    [[nodiscard]] bool has(int cpu) const;
    [[nodiscard]] bool empty() const;
    [[nodiscard]] std::size_t size() const;
    [[nodiscard]] std::vector<int> list() const;
    [[nodiscard]] std::string text() const;  // "2-5,7", as in taskset
    [[nodiscard]] bool operator==(const CpuSet&) const = default;

private:
    std::vector<bool> bits_;
    void trim();
};

// "2-5,7" (ranges with stride "0-6:2" too, and the kernel's "0-6:1/2"). CPU numbers up to 65535. The error shows where
// it does not parse; nothing at all is an error too.
[[nodiscard]] Result<CpuSet> parse_cpu_list(std::string_view text);

struct Topology {
    CpuSet possible, online, isolated, nohz_full, allowed;  // allowed: this process's affinity
    CpuSet present;                                         // plugged in; empty: not known
    CpuSet rcu_nocbs;                                       // as the kernel was booted; nohz_full implies it
    CpuSet cpuset;                                          // the cgroup's cpuset (v1 or v2), effective
    std::string cgroup, cpuset_file;                        // whose cpuset: "/user.slice", and the file that says so
    std::string kernel;                                     // "6.12.0-amd64"

    [[nodiscard]] std::string isolation_of(int cpu) const;  // "nohz_full, domain-isolated, rcu_nocbs" ... or "none"
};
// `root` replaces "/" in tests.
[[nodiscard]] Topology read_topology(const std::string& root = "");

// The CPU to use: `wanted` if >= 0 (errors: unknown, offline, outside the cpuset), else an isolated one, else the
// highest-numbered online one other than 0.
[[nodiscard]] Result<int> choose_cpu(const Topology&, int wanted);

[[nodiscard]] Result<void> set_affinity(pid_t tid, const CpuSet& cpus);  // tid 0: the calling thread
[[nodiscard]] Result<CpuSet> get_affinity(pid_t tid);

}  // namespace cloister::system
