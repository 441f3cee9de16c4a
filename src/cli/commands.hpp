// The subcommands: each declares its options on the parser, and says what to do when it was chosen.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace cloister::cli {

using Action = std::function<int()>;  // returns the exit status

// Exit statuses of `run` and `record -- CMD`, as timeout(1) has them.
inline constexpr int kBudgetExceeded = 124, kFailed = 125;
// Exit statuses of `watch`; `view` has the first and the last.
inline constexpr int kClean = 0, kFindings = 1, kError = 2;

Action add_check(CLI::App& parser);
Action add_explain(CLI::App& parser);
Action add_run(CLI::App& parser, std::vector<std::string> tail);  // tail: "--" and what stood behind it
Action add_watch(CLI::App& parser);
Action add_record(CLI::App& parser, std::vector<std::string> tail);
Action add_snapshot(CLI::App& parser);
Action add_view(CLI::App& parser);

// From here on, a file that is cut while it is mapped (a segment with a path cannot be sealed against that) ends the
// command with an error that says so, and not with SIGBUS.
void explain_bus_errors();

}  // namespace cloister::cli
