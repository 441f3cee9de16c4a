// What every check needs: the machine, the CPUs, and a place for what it finds.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "audit/finding.hpp"
#include "audit/machine.hpp"

namespace cloister::audit {

struct Seen {
    std::string source, found, wanted;
};

class Builder {
public:
    Builder(const Machine& machine, CpuSet cpus, CpuSet house);

    const Machine& machine;
    const CpuSet cpus, house;

    void pass(std::string_view id, Seen seen) { (void)add(id, Verdict::pass, std::move(seen), ""); }
    void unknown(std::string_view id, Seen seen, std::string_view value = "") {
        (void)add(id, Verdict::unknown, std::move(seen), value);
    }
    // `value`: what the catalog's commands call {value}.
    Finding& fail(std::string_view id, Seen seen, std::string_view value = "") {
        return add(id, Verdict::fail, std::move(seen), value);
    }
    void judge(std::string_view id, bool good, Seen seen, std::vector<Change> changes, std::string_view value = "") {
        if (good)
            pass(id, std::move(seen));
        else
            fail(id, std::move(seen), value).changes = std::move(changes);
    }

    // A file that should hold `wanted`; where it is not there, `missing` says what that means.
    void file_is(std::string_view id, const std::string& file, std::string_view wanted, std::string_view missing);

    [[nodiscard]] CpuSet bad(const CpuSet& found) const;  // those of `cpus` that are in it
    [[nodiscard]] std::vector<Finding> take() { return std::move(findings_); }

private:
    Finding& add(std::string_view id, Verdict verdict, Seen seen, std::string_view value);
    std::vector<Finding> findings_;
};

// What stands in brackets, as in "always [madvise] never"; the whole text where nothing does.
[[nodiscard]] std::string chosen(std::string_view text);
[[nodiscard]] CpuSet without(const CpuSet& from, const CpuSet& those);
// "a, b, c and 5 more"
[[nodiscard]] std::string enumerate(const std::vector<std::string>& items, std::size_t most = 6);

void check_boot(Builder& builder);                // boot_checks.cpp: the kernel's options and its command line
void check_interrupts(Builder& builder);          // interrupt_checks.cpp: devices, irqbalance, packets
void check_tasks(Builder& builder);               // task_checks.cpp: who may run there, work queues, watchdogs
void check_memory(Builder& builder);              // memory_checks.cpp: who moves, merges and maps pages
void check_hardware(Builder& builder);            // hardware_checks.cpp: clocks, power, siblings, the hypervisor
void check_process(Builder& builder, pid_t pid);  // process_checks.cpp

}  // namespace cloister::audit
