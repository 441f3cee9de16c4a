#include "tracepoint/membarrier.hpp"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace cloister::tracepoint {

Result<void> barrier(Barrier kind) {
    const bool instruction = kind == Barrier::instruction;
    const int command = instruction ? MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE : MEMBARRIER_CMD_PRIVATE_EXPEDITED;
    if (syscall(SYS_membarrier, command, 0, 0) == 0) return {};
    // EPERM: this process (or this child of a vfork or clone) has not registered.
    const int registration =
        instruction ? MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE : MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED;
    if (errno == EPERM && syscall(SYS_membarrier, registration, 0, 0) == 0 &&
        syscall(SYS_membarrier, command, 0, 0) == 0)
        return {};
    return fail({.what = "cannot make the other threads see what has changed",
                 .needs = "the system call membarrier (CONFIG_MEMBARRIER, Linux 4.16), allowed by seccomp",
                 .found = std::strerror(errno),
                 .set = "let the seccomp filter of the sandbox or container allow membarrier"});
}

}  // namespace cloister::tracepoint
