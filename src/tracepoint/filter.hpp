// Filters: an expression on the fields of an event, compiled once, evaluated on the laid-out payload of every event.
//
//     expression = conjunction { "||" conjunction }
//     conjunction = term { "&&" term }
//     term        = "!" term | "(" expression ")" | field [ comparison value ]
//     comparison  = "==" | "!=" | "<" | "<=" | ">" | ">="
//     value       = number | "string" | true | false | the name of an enumerator of the field
//
// A field alone means field != 0. Numbers: as strtold(3) has them, 0x included; they are compared as numbers, exactly,
// of whatever types the two are. Strings: == and != only, with \" and \\ in quotes. Sequences cannot be compared.
//
// A program is a list of tests, each with the index of the test that comes next if it holds and if it does not. Both
// lie further down the list, so an evaluation takes at most kTests steps. It is one block, without pointers.
#pragma once

#include <cloister/trace.h>

#include <memory>
#include <string>
#include <string_view>

#include "base/error.hpp"

namespace cloister::tracepoint {

inline constexpr std::size_t kTests = 64;

struct Test {
    enum Comparison : std::uint8_t { equal, not_equal, less, less_equal, greater, greater_equal };
    std::uint8_t field;  // index
    Comparison comparison;
    std::uint8_t if_true, if_false;  // index of the next test; kAccept, kReject
    std::uint32_t text, text_size;   // of a string: bytes from the program's begin
    long double number;              // holds every 64-bit integer and every double exactly
};
inline constexpr std::uint8_t kAccept = 255, kReject = 254;

struct Program {
    Test tests[1];  // more follow; the first is the beginning
};

// Whether the event passes. Async-signal-safe, bounded by kTests and the size of the payload.
[[nodiscard]] bool holds(const Program& program, const cloister_event& event);

// What a filter's text says; knows nothing of classes.
struct Expression;
using Parsed = std::shared_ptr<const Expression>;

// The error names the position, counted from 1.
[[nodiscard]] Result<Parsed> parse_filter(std::string_view text);

// Null for an empty expression. The error: a field that the class does not have, or a value that does not fit it.
[[nodiscard]] Result<const Program*> compile_filter(const Parsed& expression, const cloister_class& event_class);

}  // namespace cloister::tracepoint
