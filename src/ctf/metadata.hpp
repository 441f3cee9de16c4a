// The metadata of a CTF 1.8 trace, from anyone's tracer, as values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "ctf/schema.hpp"
#include "ctf/type.hpp"

namespace cloister::ctf {

struct Metadata {
    struct Event {
        std::string name;
        std::uint64_t id = 0, stream_id = 0;
        std::optional<std::int64_t> loglevel;
        TypeRef context, fields;  // null where there is none, as below
    };
    struct Stream {
        std::uint64_t id = 0;
        TypeRef packet_context, event_header, event_context;
    };

    ByteOrder order = ByteOrder::little;
    std::optional<Uuid> uuid;
    TypeRef packet_header;
    std::vector<Clock> clocks;
    std::vector<std::pair<std::string, std::string>> environment;  // numbers as text
    std::vector<Stream> streams;
    std::vector<Event> events;
};

// The text of a metadata file, plain or in packets. `name` is what errors call the file.
[[nodiscard]] Result<std::string> unpacked_metadata(std::string_view file, const std::string& name);

// Parses TSDL. The error names the line and shows the place in it.
[[nodiscard]] Result<Metadata> parse_metadata(std::string_view text, const std::string& name);

}  // namespace cloister::ctf
