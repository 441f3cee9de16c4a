// The audit: everything that decides how well CPUs are kept, from what is in effect and not only from what was asked
// for.
#pragma once

#include <optional>
#include <vector>

#include "audit/finding.hpp"
#include "audit/machine.hpp"

namespace cloister::audit {

// Not empty: `cpus`. `pid`: also what of this task, or its process, lets its CPU be interrupted. The steal of a virtual
// machine is measured for 0.2 s. Reads only.
[[nodiscard]] std::vector<Finding> audit(const Machine& machine, const CpuSet& cpus, std::optional<pid_t> pid);

// The CPUs for everything else: online, not audited, and not isolated if there are such.
[[nodiscard]] CpuSet housekeeping_of(const Machine& machine, const CpuSet& cpus);

}  // namespace cloister::audit
