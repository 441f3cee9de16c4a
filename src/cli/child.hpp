// The command that `run` or `record` has started, from its exec to its wait status.
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace cloister::cli {

class Child {
public:
    explicit Child(pid_t pid) : pid_(pid) {}

    // Reaps it if it has ended.
    bool ended();
    // Once it has ended.
    [[nodiscard]] const rusage& usage() const { return usage_; }
    [[nodiscard]] int status() const { return status_; }  // of wait(2)
    [[nodiscard]] pid_t pid() const { return pid_; }

private:
    pid_t pid_;
    bool ended_ = false;
    int status_ = 0;
    rusage usage_{};
};

// "killed by signal 9 (Killed)" or "exit status 3".
[[nodiscard]] std::string ending_of(int wait_status);
// The exit status for the command's; if a signal has ended it, ends this process by it too.
[[nodiscard]] int end_like(int wait_status);

// Makes `parser` show "-- CMD ARGS..." in its usage.
void add_command(CLI::App& parser);
// The command: what stood behind "--", or from the first word on that is no option. `tail`: "--" and what was behind
// it.
[[nodiscard]] std::vector<std::string> command_of(const CLI::App& parser, std::vector<std::string> tail);

}  // namespace cloister::cli
