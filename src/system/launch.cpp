#include "system/launch.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <optional>
#include <utility>

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <fmt/format.h>

#include "system/files.hpp"

namespace cloister::system {
namespace {

constexpr int kNotFound = 127, kCannotExecute = 126, kFailed = 125;

// rt_sigaction(2) itself, for what is ignored or default: glibc's sigaction(3) refuses the two signals that it keeps to
// itself (32, 33), which may be inherited as ignored all the same, and takes them over with the first thread.
struct KernelAction {
    void (*handler)(int) = SIG_DFL;
    unsigned long flags = 0;
    void (*restorer)() = nullptr;
    std::uint64_t mask = 0;
};
bool kernel_action(int sig, const KernelAction* wanted, KernelAction* before) {
    return syscall(SYS_rt_sigaction, sig, wanted, before, sizeof(KernelAction::mask)) == 0;
}

// What this process was started with. Read before main, since libraries change some of it (libbpf raises
// RLIMIT_MEMLOCK).
struct Inherited {
    sigset_t mask{};
    std::array<bool, _NSIG> ignored{};
    std::array<rlimit, RLIM_NLIMITS> limits{};
    int nice = 0;
    std::vector<char*> environment;  // the strings stay where execve(2) put them

    Inherited() {
        sigprocmask(SIG_BLOCK, nullptr, &mask);
        for (int sig = 1; sig < _NSIG; ++sig) {
            KernelAction action;
            ignored[static_cast<std::size_t>(sig)] = kernel_action(sig, nullptr, &action) && action.handler == SIG_IGN;
        }
        for (std::size_t i = 0; i < limits.size(); ++i) getrlimit(static_cast<__rlimit_resource>(i), &limits[i]);
        nice = getpriority(PRIO_PROCESS, 0);
        for (char** variable = environ; *variable; ++variable) environment.push_back(*variable);
        environment.push_back(nullptr);
    }
};
const Inherited inherited;

enum class Step : int { restore, execute };
struct Failure {  // what the child sends when it cannot go on
    Step step;
    int code;
};

[[noreturn]] void give_up(int status_fd, Step step, int status) {
    const Failure failure{step, errno};
    const auto written = write(status_fd, &failure, sizeof failure);
    _exit(written == sizeof failure ? status : kFailed);
}

void restore_inherited(int status_fd) {
    for (int sig = 1; sig < _NSIG; ++sig) {
        const KernelAction wanted{.handler = inherited.ignored[static_cast<std::size_t>(sig)] ? SIG_IGN : SIG_DFL};
        kernel_action(sig, &wanted, nullptr);  // SIGKILL and SIGSTOP stay as they are
    }
    for (std::size_t i = 0; i < inherited.limits.size(); ++i) {
        const auto& wanted = inherited.limits[i];
        const auto resource = static_cast<__rlimit_resource>(i);
        rlimit now{};
        if (getrlimit(resource, &now) == 0 && now.rlim_cur == wanted.rlim_cur && now.rlim_max == wanted.rlim_max)
            continue;
        if (setrlimit(resource, &wanted) != 0) give_up(status_fd, Step::restore, kFailed);
    }
    if (getpriority(PRIO_PROCESS, 0) != inherited.nice && setpriority(PRIO_PROCESS, 0, inherited.nice) != 0) {
        give_up(status_fd, Step::restore, kFailed);
    }
    sigprocmask(SIG_SETMASK, &inherited.mask, nullptr);
}

// Everything that the child needs, made before the fork: after it only async-signal-safe calls are allowed.
struct Prepared {
    std::string path;
    bool elf = false;
    std::vector<std::string> words;
    std::vector<std::string> variables;
    std::vector<char*> argv, shell_argv, environment;

    Prepared(const Program& program, std::vector<std::string> arguments, std::vector<std::string> changed)
        : path(program.path), elf(program.elf), words(std::move(arguments)), variables(std::move(changed)) {
        static char shell[] = "/bin/sh";
        shell_argv = {shell, path.data()};
        for (auto& word : words) {
            if (&word != &words.front()) shell_argv.push_back(word.data());
            argv.push_back(word.data());
        }
        argv.push_back(nullptr);
        shell_argv.push_back(nullptr);
        for (char* variable : inherited.environment) {
            const auto is_it = [variable](const std::string& other) {
                return variable && std::strncmp(variable, other.c_str(), other.find('=') + 1) == 0;
            };
            if (variable && std::ranges::none_of(variables, is_it)) environment.push_back(variable);
        }
        for (auto& variable : variables) environment.push_back(variable.data());
        environment.push_back(nullptr);
    }
};

[[noreturn]] void child(const Prepared& prepared, pid_t parent, int hold_fd, int status_fd) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(kFailed);  // it died before the request could take effect
    restore_inherited(status_fd);
    char release = 0;
    ssize_t got = 0;
    while ((got = read(hold_fd, &release, 1)) < 0 && errno == EINTR) {
    }
    if (got != 1) _exit(kFailed);
    prctl(PR_SET_PDEATHSIG, 0);
    char* const* environment = prepared.environment.data();
    execve(prepared.path.c_str(), prepared.argv.data(), environment);
    if (errno == ENOEXEC && !prepared.elf) execve(prepared.shell_argv[0], prepared.shell_argv.data(), environment);
    give_up(status_fd, Step::execute, kCannotExecute);
}

Error not_executable(const std::string& path, std::string found, std::string set) {
    return {.what = fmt::format("cannot execute {}", path),
            .needs = "a file with execute permission: a program, or a script",
            .found = std::move(found),
            .set = std::move(set),
            .status = kCannotExecute};
}

bool is_elf(const std::string& path) {
    std::array<char, 4> magic{};
    std::ifstream(path, std::ios::binary).read(magic.data(), magic.size());
    return std::memcmp(magic.data(), "\177ELF", magic.size()) == 0;
}

Program inspect(const std::string& path, const struct stat& file) {
    Program out{.path = path, .elf = is_elf(path)};
    out.unreadable = access(path.c_str(), R_OK) != 0;
    struct statvfs mount {};
    const bool nosuid = statvfs(path.c_str(), &mount) == 0 && (mount.f_flag & ST_NOSUID) != 0;
    if (nosuid || prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1) return out;
    out.setuid = (file.st_mode & S_ISUID) != 0 && file.st_uid != geteuid();
    // Without group execute permission the bit meant mandatory locking.
    out.setgid = (file.st_mode & S_ISGID) != 0 && (file.st_mode & S_IXGRP) != 0 && file.st_gid != getegid();
    out.capabilities = geteuid() != 0 && getxattr(path.c_str(), "security.capability", nullptr, 0) > 0;
    return out;
}

// "#!/usr/bin/python3 -u" -> "/usr/bin/python3"
std::string interpreter_of(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    std::string line;
    if (!std::getline(in, line) || !line.starts_with("#!")) return {};
    line.erase(0, line.find_first_not_of(" \t", 2));
    return line.substr(0, line.find_first_of(" \t"));
}

Error exec_error(const Program& program, int code) {
    if (code == ENOENT) {
        auto interpreter = interpreter_of(program.path);
        const bool dos = interpreter.ends_with('\r');
        if (dos) interpreter.pop_back();
        return {.what = fmt::format("cannot execute {}", program.path),
                .needs = interpreter.empty()
                             ? "the dynamic loader that it names (readelf -l shows it)"
                             : fmt::format("the interpreter that its first line names, {}", interpreter),
                .found = dos ? "the first line ends with a carriage return, which counts as part of the name"
                             : "there is no such file",
                .set = dos ? "remove the carriage returns (dos2unix)" : "install it, or correct the name",
                .status = kNotFound};
    }
    if (code == ENOEXEC)
        return not_executable(program.path, "a program for another kind of machine, or a damaged one", {});
    if (code == EACCES) {
        return not_executable(program.path, "no execute permission for it or its interpreter, or it is mounted noexec",
                              fmt::format("chmod +x {}, or move it to a file system without noexec", program.path));
    }
    return {.what = fmt::format("cannot execute {}", program.path),
            .needs = {},
            .found = std::strerror(code),
            .set = {},
            .status = kCannotExecute};
}

Error system_error(std::string what, int code) {
    return {.what = std::move(what), .needs = {}, .found = std::strerror(code), .set = {}};
}

int reap(pid_t pid) {
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return status;
}

}  // namespace

Result<Program> find_program(const std::string& name, const std::string& path) {
    const auto not_found = [&](std::string needs, std::string found) {
        return fail({.what = fmt::format("cannot find the command \"{}\"", name),
                     .needs = std::move(needs),
                     .found = std::move(found),
                     .set = "give its full path, or correct PATH",
                     .status = kNotFound});
    };
    if (name.empty()) return not_found("a name", "an empty one");
    std::vector<std::string> candidates;
    if (name.find('/') != std::string::npos) {
        candidates.push_back(name);
    } else {
        for (std::size_t at = 0; at <= path.size();) {
            const auto end = std::min(path.find(':', at), path.size());
            const auto folder = path.substr(at, end - at);  // empty: the current one
            candidates.push_back(folder.empty() ? name : fmt::format("{}/{}", folder, name));
            at = end + 1;
        }
    }
    std::optional<Error> refused;
    for (const auto& candidate : candidates) {
        struct stat file {};
        if (stat(candidate.c_str(), &file) != 0) {
            if (errno == EACCES && !refused)
                refused = not_executable(candidate, "a folder on the way that may not be searched", {});
            continue;
        }
        if (S_ISREG(file.st_mode) && access(candidate.c_str(), X_OK) == 0) return inspect(candidate, file);
        if (refused) continue;
        if (S_ISDIR(file.st_mode))
            refused = not_executable(candidate, "a folder", {});
        else
            refused = not_executable(candidate, "no execute permission", fmt::format("chmod +x {}", candidate));
    }
    if (refused) return fail(std::move(*refused));
    if (name.find('/') != std::string::npos)
        return not_found("an executable file of this name", "there is no such file");
    return not_found("an executable file of this name in a folder of PATH", "PATH=" + path);
}

std::optional<std::string> inherited_variable(std::string_view name) {
    const std::string begin = std::string(name) + "=";
    for (const char* variable : inherited.environment)
        if (variable && std::strncmp(variable, begin.c_str(), begin.size()) == 0) return variable + begin.size();
    return std::nullopt;
}

Result<Launch> Launch::prepare(std::vector<std::string> argv, const CpuSet& cpus,
                               std::vector<std::string> environment) {
    if (argv.empty())
        return fail({.what = "there is no command to run", .needs = "a command after --", .found = {}, .set = {}});
    auto program = find_program(argv[0], inherited_variable("PATH").value_or("/bin:/usr/bin"));
    if (!program) return fail(program.error());
    const Prepared prepared(*program, std::move(argv), std::move(environment));

    int hold[2], status[2];
    Launch out;
    if (pipe2(hold, O_CLOEXEC) != 0) return fail(system_error("cannot make a pipe", errno));
    out.hold_read_ = Fd(hold[0]);
    out.hold_write_ = Fd(hold[1]);
    if (pipe2(status, O_CLOEXEC) != 0) return fail(system_error("cannot make a pipe", errno));
    out.status_ = Fd(status[0]);
    const Fd status_write(status[1]);

    // Until the child has put the inherited dispositions back, a signal would run our handlers in it.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const pid_t parent = getpid();
    const pid_t pid = fork();
    if (pid == 0) {
        close(hold[1]);  // the last write end must be the parent's, so that its death is an end of file
        child(prepared, parent, hold[0], status[1]);
    }
    const int code = errno;
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (pid < 0) return fail(system_error("cannot fork", code));
    out.pid_ = pid;
    out.program_ = std::move(*program);
    if (!cpus.empty())
        if (auto pinned = set_affinity(pid, cpus); !pinned) return fail(pinned.error());
    return out;
}

Launch::Launch(Launch&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      released_(other.released_),
      program_(std::move(other.program_)),
      hold_read_(std::move(other.hold_read_)),
      hold_write_(std::move(other.hold_write_)),
      status_(std::move(other.status_)) {}

Launch& Launch::operator=(Launch&& other) noexcept {
    if (this != &other) {
        abandon();
        pid_ = std::exchange(other.pid_, -1);
        released_ = other.released_;
        program_ = std::move(other.program_);
        hold_read_ = std::move(other.hold_read_);
        hold_write_ = std::move(other.hold_write_);
        status_ = std::move(other.status_);
    }
    return *this;
}

Launch::~Launch() { abandon(); }

void Launch::abandon() {
    if (pid_ <= 0 || released_) return;
    kill(pid_, SIGKILL);
    reap(pid_);
    pid_ = -1;
}

Result<void> Launch::go() {
    released_ = true;
    const char release = 1;
    while (write(hold_write_.get(), &release, 1) < 0 && errno == EINTR) {
    }
    Failure failure{};
    ssize_t got = 0;
    while ((got = read(status_.get(), &failure, sizeof failure)) < 0 && errno == EINTR) {
    }
    hold_read_ = Fd();
    hold_write_ = Fd();
    status_ = Fd();
    if (got != sizeof failure) return {};  // end of file: its exec closed the other end
    reap(std::exchange(pid_, -1));
    if (failure.step == Step::restore) {
        auto error = system_error(
            "cannot give the command the limits and the nice value that cloister was started with", failure.code);
        return fail(std::move(error));
    }
    return fail(exec_error(program_, failure.code));
}

int exit_code(int wait_status) {
    return WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

void reproduce_signal(int signal) {
    const rlimit none{0, 0};
    setrlimit(RLIMIT_CORE, &none);
    prctl(PR_SET_DUMPABLE, 0);  // a core_pattern with a pipe does not heed the limit
    struct sigaction action {};
    action.sa_handler = SIG_DFL;
    sigaction(signal, &action, nullptr);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    raise(signal);
    _exit(128 + signal);
}

}  // namespace cloister::system
