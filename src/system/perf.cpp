#include "system/perf.hpp"

#include <cerrno>
#include <cstring>

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fmt/format.h>

#include "system/files.hpp"
#include "system/proc.hpp"

namespace cloister::system {
namespace {

std::string describe(const perf_event_attr& attr, pid_t pid, int cpu) {
    const auto whose = pid > 0    ? fmt::format("thread {}", pid)
                       : pid == 0 ? std::string("this thread")
                                  : std::string("every thread");
    const auto where = cpu < 0 ? std::string() : fmt::format(" on CPU {}", cpu);
    return fmt::format("cannot open a perf event (type {}, config {}) for {}{}", attr.type, attr.config, whose, where);
}

// The highest perf_event_paranoid at which the kernel lets anybody open this.
int highest_paranoid(const perf_event_attr& attr, pid_t pid) {
    if (attr.type == PERF_TYPE_TRACEPOINT) return -1;
    if (pid == -1) return 0;
    return attr.exclude_kernel ? 2 : 1;
}

void explain_forbidden(Error& error, const perf_event_attr& attr, pid_t pid) {
    const auto privileges = read_privileges();
    const int highest = highest_paranoid(attr, pid);
    const bool filtered = value_of(read_file("/proc/self/status").value_or(""), "Seccomp:") == "2";
    error.needs = fmt::format("kernel.perf_event_paranoid at {} or less, or CAP_PERFMON", highest);
    error.found = fmt::format("kernel.perf_event_paranoid = {}", privileges.perf_event_paranoid);
    if (privileges.perf_event_paranoid > highest && !privileges.cap_perfmon && !privileges.cap_sys_admin) {
        error.set = fmt::format(
            "sudo sysctl kernel.perf_event_paranoid={0}; to keep it: echo kernel.perf_event_paranoid={0} | "
            "sudo tee /etc/sysctl.d/99-cloister.conf",
            highest);
    } else if (filtered) {
        error.needs = "perf_event_open(2), which the seccomp filter of this container forbids";
        error.found += ", which would allow it; a seccomp filter is active";
        error.set = "start the container with --cap-add PERFMON, or with a seccomp profile that allows perf_event_open";
    } else {
        error.needs = "a thread of the same user that may be traced (not of a set-user-ID program), or root";
        error.found += ", which would allow it; the kernel refuses this thread, or a security module refuses perf";
        error.set = "run it as root (sudo)";
    }
}

Error open_error(int code, const perf_event_attr& attr, pid_t pid, int cpu, std::size_t files) {
    Error error{.what = describe(attr, pid, cpu), .needs = {}, .found = std::strerror(code), .set = {}};
    switch (code) {
        case EMFILE: {
            rlimit limit{};
            getrlimit(RLIMIT_NOFILE, &limit);
            error.needs = fmt::format("{} more open files", files);
            error.found = fmt::format("RLIMIT_NOFILE = {}, and all are in use", limit.rlim_cur);
            error.set =
                fmt::format("ulimit -n {} in the shell that starts it; to keep it: /etc/security/limits.d (nofile)",
                            limit.rlim_cur + files + 64);
            break;
        }
        case ENFILE:
            error.needs = fmt::format("{} more open files", files);
            error.found = "fs.file-max of the whole machine is reached";
            error.set = "sudo sysctl fs.file-max=...; to keep it: a file in /etc/sysctl.d";
            break;
        case EACCES:
        case EPERM:
            explain_forbidden(error, attr, pid);
            break;
        case ENOENT:
        case EOPNOTSUPP:
            error.needs = "a kernel and a processor that have this event";
            error.found = fmt::format("kernel {} does not", read_word("/proc/sys/kernel/osrelease"));
            break;
        case ENODEV:
            error.needs = "the event's CPU online, and a processor that has the event";
            error.found = fmt::format("CPUs online: {}", read_word("/sys/devices/system/cpu/online"));
            break;
        case ENOSYS:
            error.needs = "a kernel with CONFIG_PERF_EVENTS, and no seccomp filter that hides perf_event_open(2)";
            break;
        case ESRCH:
            error.found = "there is no such thread (any more)";
            break;
        default:
            break;
    }
    return error;
}

}  // namespace

Fd& Fd::operator=(Fd&& other) noexcept {
    if (this != &other) {
        if (fd_ >= 0) close(fd_);
        fd_ = other.release();
    }
    return *this;
}

Fd::~Fd() {
    if (fd_ >= 0) close(fd_);
}

int Fd::release() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
}

Result<Fd> perf_open(perf_event_attr attr, pid_t pid, int cpu, std::size_t files) {
    attr.size = sizeof attr;
    const long fd = syscall(SYS_perf_event_open, &attr, pid, cpu, -1, PERF_FLAG_FD_CLOEXEC);
    if (fd < 0) return fail(open_error(errno, attr, pid, cpu, files));
    return Fd(static_cast<int>(fd));
}

}  // namespace cloister::system
