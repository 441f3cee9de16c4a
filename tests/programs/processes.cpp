// Programs whose threads, processes, signals or ends are out of the ordinary.
#include <fcntl.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <thread>

#include "actor.hpp"

namespace actor {

int exit_at_once(Arguments arguments) {
    return arguments.empty() ? 0 : static_cast<int>(number(arguments, 0, "STATUS", 0, 255));
}

int print_time(Arguments) {
    std::printf("%llu\n", static_cast<unsigned long long>(now_ns()));
    return 0;
}

int die_by_signal(Arguments arguments) {
    const int signal = static_cast<int>(number(arguments, 0, "NUMBER", 1, 64));
    const rlimit no_core{0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    std::signal(signal, SIG_DFL);
    kill(getpid(), signal);
    std::fprintf(stderr, "actor: signal %d does not end a process\n", signal);
    return 3;
}

namespace {

int status_of(pid_t child) {
    int status = 0;
    if (waitpid(child, &status, 0) != child) die("waitpid");
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace

int fork_exec(Arguments arguments) {
    if (arguments.empty()) {
        std::fprintf(stderr, "actor: CMD is missing\n");
        return 2;
    }
    const pid_t child = fork();
    if (child < 0) die("fork");
    if (child == 0) {
        execvp(arguments[0], arguments.data());  // argv of main ends with a null pointer, and so does this tail of it
        die(arguments[0]);
    }
    return status_of(child);
}

int daemonise(Arguments arguments) {
    const double seconds = number(arguments, 0, "SECONDS", 0, 1e6);
    if (arguments.size() < 2) {
        std::fprintf(stderr, "actor: FILE is missing\n");
        return 2;
    }
    const pid_t child = fork();
    if (child < 0) die("fork");
    if (child > 0) return status_of(child);
    setsid();
    const pid_t grandchild = fork();
    if (grandchild != 0) _exit(grandchild < 0 ? 3 : 0);
    const int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; ++fd) dup2(null, fd);
    spin_for(seconds);
    std::FILE* file = std::fopen(arguments[1], "w");
    if (!file) return 3;
    std::fprintf(file, "%d\n", getpid());
    std::fclose(file);
    return 0;
}

int change_affinity(Arguments arguments) {
    const int cpu = static_cast<int>(number(arguments, 0, "CPU", 0, CPU_SETSIZE - 1));
    const double seconds = number(arguments, 1, "SECONDS", 0, 1e6);
    if (!pin(cpu)) die("sched_setaffinity");
    spin_for(seconds);
    std::printf("%d\n", sched_getcpu());
    return 0;
}

int on_sigint(Arguments arguments) {
    const std::string_view how = arguments.empty() ? "" : arguments[0];
    const double seconds = number(arguments, 1, "SECONDS", 0, 1e6);
    if (how == "handle") {
        std::signal(SIGINT, [](int) { _exit(42); });
    } else if (how == "ignore" || how == "default") {
        std::signal(SIGINT, how == "ignore" ? SIG_IGN : SIG_DFL);
    } else {
        std::fprintf(stderr, "actor: needs ignore, handle or default\n");
        return 2;
    }
    // Only now may a test send the signal.
    std::printf("ready\n");
    std::fflush(stdout);
    spin_for(seconds);
    return 0;
}

int thread_storm(Arguments arguments) {
    const auto count = static_cast<std::uint64_t>(number(arguments, 0, "N", 0, 1e9));
    for (std::uint64_t i = 0; i < count; ++i) std::thread([] { syscall(SYS_getppid); }).join();
    std::printf("{\"threads\": %llu, \"getppid\": %llu}\n", static_cast<unsigned long long>(count),
                static_cast<unsigned long long>(count));
    return 0;
}

int fork_storm(Arguments arguments) {
    const auto count = static_cast<std::uint64_t>(number(arguments, 0, "N", 0, 1e9));
    for (std::uint64_t i = 0; i < count; ++i) {
        const pid_t child = fork();
        if (child < 0) die("fork");
        if (child == 0) {
            syscall(SYS_getppid);
            _exit(0);
        }
        if (const int status = status_of(child); status != 0) return status;
    }
    std::printf("{\"forks\": %llu, \"getppid\": %llu}\n", static_cast<unsigned long long>(count),
                static_cast<unsigned long long>(count));
    return 0;
}

int print_ids(Arguments) {
    std::printf("{\"uid\": %u, \"euid\": %u}\n", getuid(), geteuid());
    return 0;
}

}  // namespace actor
