// The probes of a class, as events read them: an immutable block, replaced as a whole (grace.hpp).
#pragma once

#include <cloister/trace.h>

#include <cstdint>

namespace cloister::tracepoint {

struct Probe {
    cloister_probe call;
    void* data;
    std::uint64_t tracer;  // its bit in the recursion word
};

struct ProbeList {
    std::uint32_t count;  // at least 1
    Probe probes[1];      // more follow
};

}  // namespace cloister::tracepoint
