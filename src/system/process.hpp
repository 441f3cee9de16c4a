// A process that somebody else started, and whether it has ended.
#pragma once

#include <sys/types.h>

#include "system/perf.hpp"

namespace cloister::system {

class Process {
public:
    // Of this process, whatever its id is given to later. One that is not there counts as ended.
    explicit Process(pid_t pid);

    // Also when it is a zombie, because whoever started it has not waited for it yet.
    [[nodiscard]] bool ended() const;

private:
    Fd fd_;  // pidfd_open(2)
};

}  // namespace cloister::system
