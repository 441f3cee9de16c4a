// The words of an audit: text for a person, JSON for a program (docs/json.md).
#pragma once

#include <string>
#include <vector>

#include "audit/finding.hpp"

namespace cloister::audit {

struct Totals {
    std::size_t pass = 0, fail = 0, unknown = 0;
};
[[nodiscard]] Totals totals(const std::vector<Finding>& findings);

// What failed with all that is known of it, then what is not known, then what passed in one line each.
[[nodiscard]] std::string text(const std::vector<Finding>& findings, bool colour);

// One object a line, without its newline.
[[nodiscard]] std::string json(const Finding& finding);
[[nodiscard]] std::string json(const Totals& totals, const std::string& cpus);

}  // namespace cloister::audit
