// What a trace consists of, as its writer declares it: a clock, channels, event classes and their fields.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/error.hpp"

namespace cloister::ctf {

using Uuid = std::array<std::uint8_t, 16>;
// Random (version 4, RFC 4122), from getrandom(2).
[[nodiscard]] Uuid random_uuid();
// "8b0c4f0e-...": lower case, as TSDL has it.
[[nodiscard]] std::string text_of(const Uuid& uuid);

// An integer in the byte order of the trace (little endian), at any byte.
struct Integer {
    unsigned bits = 32;  // 8, 16, 32 or 64
    bool is_signed = false;
    unsigned base = 10;  // for a reader; 16 for pointers
};

// A name for the values first to last of an enumeration; those of an unsigned one are compared as unsigned.
struct Label {
    std::string name;
    std::int64_t first = 0, last = 0;
};

struct Field {
    enum class Kind { integer, real, enumeration, boolean, string };
    enum class Shape { one, array, sequence };

    std::string name;  // without the "_" that the metadata puts before it; TSDL keywords are fine
    Kind kind = Kind::integer;
    Integer integer;            // kind integer, and what an enumeration is stored in
    unsigned real_bits = 64;    // 32 or 64
    std::vector<Label> labels;  // of an enumeration: at least one
    Shape shape = Shape::one;
    std::uint32_t count = 0;  // of an array

    // Encoded as: the integer; IEEE 754; the integer; one byte, 0 or 1; the bytes and a NUL.
    [[nodiscard]] static Field of_integer(std::string name, Integer integer);
    [[nodiscard]] static Field of_pointer(std::string name);  // 64 bits, base 16
    [[nodiscard]] static Field of_float(std::string name);    // 32 bits
    [[nodiscard]] static Field of_double(std::string name);
    [[nodiscard]] static Field of_enumeration(std::string name, Integer integer, std::vector<Label> labels);
    [[nodiscard]] static Field of_boolean(std::string name);
    [[nodiscard]] static Field of_string(std::string name);
    [[nodiscard]] static Field of_bytes(std::string name, std::uint32_t count);

    // So many of the field, one after the other.
    [[nodiscard]] Field times(std::uint32_t n) &&;
    // A u32 that says how many, then these: in the metadata a field `_NAME_len` before the field itself.
    [[nodiscard]] Field sequence() &&;
};

struct EventClass {
    std::string name;  // any text without NUL, "provider:event" by custom
    std::uint32_t id = 0;
    std::uint32_t stream_id = 0;  // the channel's
    int loglevel = 13;            // as in LTTng-UST: 0 emergency ... 14 debug
    std::vector<Field> fields;

    // Names that are identifiers and not given twice, sizes in range. The error names the event and the field.
    [[nodiscard]] Result<void> check() const;
};

// The clock that all timestamps are read from: ns since 1970 = 1e9 * (offset_s + (offset + value) / frequency).
struct Clock {
    std::string name = "tsc";
    std::string description = "Time stamp counter";
    std::uint64_t frequency = 1'000'000'000;  // Hz, not 0
    std::int64_t offset_s = 0;
    std::uint64_t offset = 0;  // cycles, less than one second of them
    bool absolute = false;     // comparable with the clocks of other traces, because the offset is from 1970
};

struct Channel {
    std::string name;  // the first part of its files' names
    std::uint32_t stream_id = 0;
};

struct Preamble {
    Uuid uuid{};
    Clock clock;
    std::string hostname;                                          // "" for none
    int version_major = 0, version_minor = 0;                      // of the tracer
    std::vector<std::pair<std::string, std::string>> environment;  // further entries
    std::vector<Channel> channels;

    // As for an event class; at least one channel, each with an id and a name of its own that can name a file.
    [[nodiscard]] Result<void> check() const;
};

}  // namespace cloister::ctf
