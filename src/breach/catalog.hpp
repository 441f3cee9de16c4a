// The one catalog of causes and remedies: every `fix` in any report, and later `cloister explain`, comes from here.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "breach/breach.hpp"

namespace cloister::breach {

// One line: what to do about it, specific to cause and detail ("do not unmap memory in this process while the loop
// runs"). Never empty for a cause that costs time. Commands name the CPU, so that they can be pasted.
[[nodiscard]] std::string remedy(const Breach& breach);
// `cpu`: the CPU that was watched; -1 leaves "CPU" in the commands.
[[nodiscard]] std::string remedy(const Row& row, int cpu = -1);
// All remedies of a cause: for which words in its detail ("" for all others), and what to do, with CPU in the commands.
struct Advice {
    std::string words, text;
};
[[nodiscard]] std::vector<Advice> advice(Cause cause);
// A sentence on what the cause is, for readers who never heard of it.
[[nodiscard]] std::string_view meaning(Cause cause);

}  // namespace cloister::breach
