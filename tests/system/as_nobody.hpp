// Runs tests of this very program again as a user without privileges.
#pragma once

#include <array>
#include <cstdio>
#include <string>

#include <grp.h>
#include <sys/wait.h>
#include <unistd.h>

namespace cloister::tests {

struct Run {
    int status = -1;  // wait status
    std::string output;
};

// Executes /proc/self/exe with `filter` as uid and gid 65534, no groups, no capabilities. Root only.
inline Run run_as_nobody(const std::string& filter) {
    constexpr unsigned kNobody = 65534;
    int out[2];
    Run run;
    if (pipe(out) != 0) return run;
    const pid_t pid = fork();
    if (pid == 0) {
        dup2(out[1], 1);
        dup2(out[1], 2);
        close(out[0]);
        close(out[1]);
        const std::string argument = "--gtest_filter=" + filter;
        if (setgroups(0, nullptr) == 0 && setresgid(kNobody, kNobody, kNobody) == 0 &&
            setresuid(kNobody, kNobody, kNobody) == 0 && chdir("/") == 0) {
            execl("/proc/self/exe", "as_nobody", argument.c_str(), static_cast<char*>(nullptr));
        }
        _exit(99);
    }
    close(out[1]);
    std::array<char, 4096> block{};
    for (ssize_t got = 0; (got = read(out[0], block.data(), block.size())) > 0;) {
        run.output.append(block.data(), static_cast<std::size_t>(got));
    }
    close(out[0]);
    waitpid(pid, &run.status, 0);
    return run;
}

}  // namespace cloister::tests
