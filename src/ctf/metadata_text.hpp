// The metadata of our own traces: CTF 1.8 in TSDL (diamon.org/ctf, version 1.8.3).
//
// Everything is little endian and lies at any byte (align = 8), except the event header, which begins at a multiple
// of 4 bytes: an event's first word is written in one aligned store.
#pragma once

#include <string>

#include "ctf/schema.hpp"

namespace cloister::ctf {

// All that comes before the first event class: trace, environment, clock and one stream for each channel. What it is
// given has passed its check().
[[nodiscard]] std::string preamble_text(const Preamble& preamble);
// One event class. A tracer appends it to the metadata before the first event of the class is in any packet.
[[nodiscard]] std::string event_text(const EventClass& event);

}  // namespace cloister::ctf
