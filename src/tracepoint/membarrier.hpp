// membarrier(2): makes all threads of this process pass through a barrier, so that their own code needs none.
#pragma once

#include "base/error.hpp"

namespace cloister::tracepoint {

enum class Barrier {
    memory,       // a full memory fence
    instruction,  // and a serializing instruction, before the thread executes the next instruction in user mode
};

// Registers the process at its first use (and again where that was lost). Returns when every running thread has passed;
// one that does not run passes when it is switched in.
[[nodiscard]] Result<void> barrier(Barrier kind);

}  // namespace cloister::tracepoint
