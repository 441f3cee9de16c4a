// What /proc says: interrupt counters per CPU, context switches and faults of tasks, privileges.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <sys/types.h>

#include "base/error.hpp"

namespace cloister::system {

struct InterruptLine {
    std::string name;         // "LOC", "36"
    std::string description;  // "Local timer interrupts", "PCI-MSIX-0000:00:02.0 1-edge virtio1-req.0"
    std::uint64_t count = 0;  // on the one CPU asked for
};
[[nodiscard]] std::vector<InterruptLine> read_interrupts(int cpu, const std::string& root = "");
// Lines that rose, with by how much.
[[nodiscard]] std::vector<InterruptLine> rise(const std::vector<InterruptLine>& before,
                                              const std::vector<InterruptLine>& after);

struct TaskCounters {
    std::uint64_t voluntary = 0, involuntary = 0, minor_faults = 0, major_faults = 0;
    std::uint64_t user_ns = 0, system_ns = 0, cpu_ns = 0, wait_ns = 0;  // cpu and wait from schedstat
    std::string comm;
};
[[nodiscard]] Result<TaskCounters> read_task(pid_t tid, const std::string& root = "");
[[nodiscard]] std::vector<pid_t> threads_of(pid_t tgid, const std::string& root = "");

struct Privileges {
    bool root = false;
    bool cap_bpf = false, cap_perfmon = false, cap_sys_admin = false;
    int perf_event_paranoid = 99;  // 99: not readable
    long perf_event_mlock_kb = 0;
    bool btf = false;  // /sys/kernel/btf/vmlinux is readable
    bool tracefs_mounted = false;
    std::string tracefs;     // where, or ""
    bool container = false;  // a guess, for the wording of advice only
};
[[nodiscard]] Privileges read_privileges(const std::string& root = "");

}  // namespace cloister::system
