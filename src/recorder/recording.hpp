// The recording that runs, for code in any context that is no probe.
//
// A probe may use it until cloister_trace_synchronize() has returned. So may other code, as long as a Reading of it
// lives (tracepoint/reading.hpp): stop() takes away what target_of() finds, synchronizes, and only then frees it.
#pragma once

#include <optional>

#include "cloister/core/staged_event.hpp"
#include "cloister/trace.h"

namespace cloister::record {

struct Target {
    core::Sink sink;  // stays safe to write to when the recording has ended: Wrote::no_lane
    std::uint32_t id = 0;
    bool call_stack = false;  // comes first in the payload: a count of 32 bits, then that many addresses
};

// The file of its segment, -1 if nothing is recorded. It stays the recording's. Not async-signal-safe.
[[nodiscard]] int segment_file();

// Where events of a class go; nothing where they are not recorded. Async-signal-safe.
[[nodiscard]] std::optional<Target> target_of(const cloister_class& event_class);

}  // namespace cloister::record
