#include "cli/child.hpp"

#include <fmt/format.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "system/launch.hpp"

namespace cloister::cli {

bool Child::ended() {
    if (ended_) return true;
    pid_t got = 0;
    do got = wait4(pid_, &status_, WNOHANG, &usage_);
    while (got < 0 && errno == EINTR);
    ended_ = got == pid_;
    return ended_;
}

std::string ending_of(int wait_status) {
    if (!WIFSIGNALED(wait_status)) return fmt::format("exit status {}", WEXITSTATUS(wait_status));
    return fmt::format("killed by signal {} ({}){}", WTERMSIG(wait_status), strsignal(WTERMSIG(wait_status)),
                       WCOREDUMP(wait_status) ? ", core dumped" : "");
}

int end_like(int wait_status) {
    if (WIFSIGNALED(wait_status)) {
        std::fprintf(stderr, "cloister: the command was %s\n", ending_of(wait_status).c_str());
        std::fflush(stdout);
        system::reproduce_signal(WTERMSIG(wait_status));
    }
    return system::exit_code(wait_status);
}

void add_command(CLI::App& parser) {
    auto formatter = std::make_shared<CLI::Formatter>();
    formatter->column_width(34);
    formatter->label("OPTIONS", "OPTIONS] -- [CMD ARGS...");  // becomes "[OPTIONS] -- [CMD ARGS...]"
    parser.formatter(std::move(formatter));
}

std::vector<std::string> command_of(const CLI::App& parser, std::vector<std::string> tail) {
    const auto words = parser.remaining();
    tail.insert(tail.begin(), words.begin(), words.end());
    if (!tail.empty() && tail.front() == "--") tail.erase(tail.begin());
    return tail;
}

}  // namespace cloister::cli
