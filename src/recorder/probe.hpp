// The recorder's probe: an event's way from a tracepoint into its channels, and the count of those that get lost there.
#pragma once

#include <cstdint>

#include "cloister/trace.h"

namespace cloister::recorder {

// `data`: the Route of the event's class. Async-signal-safe, as every probe.
void on_event(void* data, const cloister_event* event);

// Which recording may be written to by code that is no probe (recording.hpp): that of these routes (Routes::turn()); 0:
// none. What has found another one before may use it until tracepoint::synchronize() has returned.
void show(std::uint64_t turn);

// All of record::losses() begins at 0 again.
void clear_losses();

}  // namespace cloister::recorder
