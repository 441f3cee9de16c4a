// How the bytes of a trace are read: its types, compiled into flat programs, one for each scope.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/error.hpp"
#include "ctf/metadata.hpp"
#include "ctf/type.hpp"

namespace cloister::ctf {

// Fields with a meaning for the reader itself. Their last values are kept by role.
enum class Role : std::uint8_t {
    none,
    magic,
    uuid,  // where it lies, in bits from the packet's begin
    stream_id,
    stream_instance,
    timestamp_begin,
    timestamp_end,
    content_size,
    packet_size,
    sequence_number,
    events_discarded,
    cpu_id,
    event_id,
    count
};

struct NamedField {
    std::string name;  // as shown; "" for the elements of an array
    TypeRef type;
    bool own = false;  // of an event or a context, and without a meaning for the reader
};

struct Op {
    enum class Kind : std::uint8_t {
        align,             // to `count` bits
        unsigned_integer,  // `bits`
        signed_integer,
        real,    // `bits`
        string,  // up to a NUL
        text,    // `count` characters, or as many as `slot` says
        begin,   // a structure
        end,     // of a structure or an array
        array,   // `count` times what follows, up to `target`; or as often as `slot` says
        repeat,  // the end of that: back to `target`, or past it
        choose,  // by `slot` and the table `target`
        jump,    // to `target`
    };
    Kind kind{};
    bool big = false;    // byte order
    bool clock = false;  // an integer that is the clock's value
    bool from_slot = false;
    std::uint8_t bits = 0;
    Role role = Role::none;
    std::int32_t slot = -1;  // where an integer's value is kept for others; or where these find it
    std::uint32_t target = 0;
    std::uint64_t count = 0;
    const NamedField* field = nullptr;
};

struct Choice {
    std::uint64_t first, last;  // of the tag; signed ones with the sign bit flipped, so that they compare as unsigned
    std::uint32_t target;
};
struct ChoiceTable {
    bool is_signed = false;
    std::string tag;
    std::vector<Choice> choices;
};

struct Program {
    std::vector<Op> ops;
    std::vector<ChoiceTable> tables;
};

// An event class, ready to be read.
struct EventLayout {
    std::string name;
    std::uint64_t id = 0;
    std::optional<std::int64_t> loglevel;
    std::size_t number = 0;  // among all of the trace
    bool fragment = false;   // of the class that parts of large events are of (fragments.hpp)
    Program context, fields;
    TypeRef fields_type;
    // From the event's begin to the end of its last field and to the next event's begin, with the compact and the
    // extended header, in bytes. 0 where it depends on the event, or is not known.
    std::uint32_t compact_size = 0, compact_stride = 0, extended_size = 0, extended_stride = 0;
};

// An event header of the shape that LTTng calls compact, and ours has: read by hand instead of by its program.
// {id : 5, time : 27}, or {31 : 5, ..., u32 id, u64 time} with these at whole bytes.
struct CompactHeader {
    std::uint32_t align = 1;                                  // bytes
    std::uint32_t id_at = 0, time_at = 0, extended_size = 0;  // bytes from the event's begin
    // By the ids that fit in it: the classes, and how far it is from an event to the next (0: that varies).
    std::array<const EventLayout*, 32> events{};
    std::array<std::uint32_t, 32> strides{};
    std::uint32_t longest = 0;  // stride
};

struct StreamLayout {
    std::uint64_t id = 0;
    Program packet_context, event_header, event_context;
    std::uint64_t header_align = 1;  // bits
    std::optional<CompactHeader> compact;
    std::deque<EventLayout> events;
    std::unordered_map<std::uint64_t, const EventLayout*> by_id;
    std::size_t clock = 0;  // of TraceLayout::clocks
};

struct TraceLayout {
    Metadata metadata;
    Program packet_header;
    std::vector<Clock> clocks;  // at least one; where the trace has none, of 1 GHz with no offset
    bool has_clock = true;
    std::deque<StreamLayout> streams;
    std::size_t slots = 0;   // values that fields are kept in for others
    std::size_t events = 0;  // classes
    std::deque<NamedField> names;

    [[nodiscard]] const StreamLayout* stream(std::uint64_t id) const;

    // `name` is what errors call the metadata: a type that has no end, or refers to a field that is not before it.
    [[nodiscard]] static Result<std::shared_ptr<const TraceLayout>> compile(Metadata metadata, const std::string& name);
};

}  // namespace cloister::ctf
