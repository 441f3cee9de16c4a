// Changing what an audit found wrong, and putting it back.
//
// Before each change its former value is in the journal and on the disk, so that whatever ends this program in the
// middle leaves nothing changed that undo() does not know of. The journal is one JSON object a line:
//   {"boot": ID, "target": FILE or "task:TID", "before": VALUE, "started": of a task}   before the change
//   {"target": ..., "after": VALUE as it reads since}                                   after it
// Entries of another boot are worthless, as nothing that a file of /proc or /sys was told outlives one.
#pragma once

#include <string>
#include <vector>

#include "audit/finding.hpp"
#include "base/error.hpp"

namespace cloister::audit {

inline constexpr const char* kJournal = "/var/lib/cloister/undo.jsonl";

struct Changed {
    std::vector<std::string> done;    // "FILE: BEFORE -> AFTER"
    std::vector<std::string> failed;  // the same with why; the rest was done nevertheless
};

// Applies the changes of all findings that failed. Errors: the journal cannot be written (then nothing was changed),
// another one is at work.
[[nodiscard]] Result<Changed> fix(const std::vector<Finding>& findings, const std::string& journal);

// Gives every target of the journal the value it had before the first fix(), the last change first, and ends the
// journal. What somebody else has changed since then is left alone and counts as failed; what failed stays in the
// journal. Errors: there is no journal, another one is at work.
[[nodiscard]] Result<Changed> undo(const std::string& journal);

}  // namespace cloister::audit
