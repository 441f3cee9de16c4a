// Starts the command that is to be watched: held back until everything is armed, and with nothing of ours in it.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include "base/error.hpp"
#include "system/cpu.hpp"
#include "system/perf.hpp"

namespace cloister::system {

struct Program {  // the file that a command names
    std::string path;
    // What its exec will change: another user or group, or capabilities. Not set where that has no effect (the same
    // owner, a nosuid mount, no_new_privs).
    bool setuid = false, setgid = false, capabilities = false;
    bool unreadable = false;  // executable but not readable
    bool elf = false;

    // The kernel takes perf events of its task away (all but root's BPF programs) when it executes such a file.
    [[nodiscard]] bool drops_events() const { return setuid || setgid || capabilities || unreadable; }
};

// Looks `name` up as execvp(3) does, along `path` (colon separated) if it has no slash. Errors carry the exit status of
// timeout(1): 127 not found, 126 found but not executable.
[[nodiscard]] Result<Program> find_program(const std::string& name, const std::string& path);

// A child process that has everything but its exec behind it. It starts with the environment, signal mask, ignored
// signals, resource limits and nice value that this process itself was started with, whatever has changed here since;
// all other file descriptors of ours must be close-on-exec. It dies with the thread that prepared it, until its exec.
class Launch {
public:
    // Finds argv[0] along PATH, forks, and pins the child to `cpus`, if there are any in it. `environment`: "NAME=VALUE",
    // in place of what that process was started with. Errors: those of find_program and set_affinity.
    [[nodiscard]] static Result<Launch> prepare(std::vector<std::string> argv, const CpuSet& cpus,
                                                std::vector<std::string> environment = {});

    Launch(Launch&& other) noexcept;
    Launch& operator=(Launch&& other) noexcept;
    ~Launch();  // kills and reaps a child that was never released; one that runs is the caller's to wait for

    [[nodiscard]] pid_t pid() const { return pid_; }  // -1 after a failed go()
    [[nodiscard]] const Program& program() const { return program_; }

    // Releases the child and returns when it has executed its program. A script without "#!" is given to /bin/sh, as by
    // execvp(3). A child that was killed before that counts as started: its wait status tells. Errors: status 127 if an
    // interpreter is missing, 126 for anything else that execve(2) says; the child is reaped then.
    [[nodiscard]] Result<void> go();

private:
    Launch() = default;
    void abandon();

    pid_t pid_ = -1;
    bool released_ = false;
    Program program_;
    Fd hold_read_, hold_write_;  // our own read end keeps a write to a dead child from raising SIGPIPE
    Fd status_;
};

// What this process was started with, whatever has changed here since: a variable's value, nullopt where it was not set.
[[nodiscard]] std::optional<std::string> inherited_variable(std::string_view name);

// The exit status that timeout(1) has for a wait status: the command's own, or 128 + the signal that killed it.
[[nodiscard]] int exit_code(int wait_status);

// Ends this process by `signal`, as the watched command was, and without a second core file.
[[noreturn]] void reproduce_signal(int signal);

}  // namespace cloister::system
