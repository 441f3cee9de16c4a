// Reading memory of this process that may not be there, or not for reading.
#pragma once

#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>

namespace cloister::tracepoint {

// How many of the bytes could be read; -1 if that is not allowed at all (process_vm_readv(2), which cannot fault).
// Async-signal-safe; changes errno.
inline ssize_t read_memory(std::uintptr_t from, void* to, std::size_t size) {
    const iovec local{to, size}, remote{reinterpret_cast<void*>(from), size};
    // The kernel takes whole registers: an int among the variable arguments may leave the upper half of one as it was.
    const auto got = syscall(SYS_process_vm_readv, getpid(), &local, 1UL, &remote, 1UL, 0UL);
    return got < 0 && errno == EFAULT ? 0 : got;
}

}  // namespace cloister::tracepoint
