#include "system/process.hpp"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace cloister::system {

Process::Process(pid_t pid) : fd_(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))) {}

bool Process::ended() const {
    pollfd event{.fd = fd_.get(), .events = POLLIN, .revents = 0};
    return !fd_ || poll(&event, 1, 0) > 0;
}

}  // namespace cloister::system
