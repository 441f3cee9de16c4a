// Events as text for a person, and as JSON for a program.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/error.hpp"
#include "ctf/decode.hpp"
#include "ctf/fragments.hpp"

namespace cloister::ctf {

// Appends `order=7 venue="XETRA" side=sell(1) levels=[1 2] at={x=1 y=2}`. Control characters and quotes in strings are
// escaped, so that an event is one line.
void append_text(std::string& out, std::span<const Value> values);
// Appends {"order":7,...}. Enumerations are {"value":1,"labels":["sell"]}; integers of base 16 are text ("0x1f");
// floating point numbers that JSON cannot hold are text ("nan", "inf", "-inf"); bytes that are not UTF-8 become U+FFFD.
void append_json(std::string& out, std::span<const Value> values);
void append_json(std::string& out, std::string_view text);  // a string, quotes included

// What is missing of an incomplete event: `incomplete: 3 of 7 fragments`, `incomplete: 3 fragments, the last is
// missing`, `incomplete: 3 fragments, then abandoned`; {"fragments":3,"of":7,"abandoned":false,"bytes":12288}, with
// "of" null where the last is missing.
void append_text(std::string& out, const JoinedEvent& incomplete);
void append_json(std::string& out, const JoinedEvent& incomplete);

// "1.000000005", "-0.5..." : seconds with nine decimals.
void append_seconds(std::string& out, std::int64_t ns);
// "2026-11-24T16:44:35.000000001Z": UTC.
[[nodiscard]] std::string wall_clock(std::int64_t unix_ns);
// The same back; the fraction and the Z may be missing, and at the end so may parts of the time of day.
[[nodiscard]] std::optional<std::int64_t> parse_wall_clock(std::string_view text);

}  // namespace cloister::ctf
