// What an audit finds: one line for each setting that decides how well a CPU is kept.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "audit/settings.hpp"

namespace cloister::audit {

enum class Verdict : std::uint8_t { pass, fail, unknown };
[[nodiscard]] std::string_view name(Verdict);

// One value to be written. Target: a file of /proc or /sys, or "task:TID" for a task's affinity.
struct Change {
    std::string target, value;
    bool operator==(const Change&) const = default;
};

struct Finding {
    const Setting* setting = nullptr;
    Verdict verdict = Verdict::unknown;
    std::string source;                // the file that was read
    std::string found, wanted;         // values, in the words of that file where it has any
    std::string now, last;             // what sets it until the next boot, and what makes it last; may be empty
    std::vector<Change> changes = {};  // what `--fix` writes; empty where nothing can be changed at run time
};

}  // namespace cloister::audit
