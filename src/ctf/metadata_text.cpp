#include "ctf/metadata_text.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace cloister::ctf {
namespace {

// A string literal, quotes included. TSDL takes the escapes of C; octal ones end after three digits.
std::string quoted(const std::string& text) {
    std::string out = "\"";
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (c == '"' || c == '\\')
            out += {'\\', c};
        else if (byte < 0x20 || byte == 0x7f)
            out += fmt::format("\\{:03o}", byte);
        else
            out += c;
    }
    return out + '"';
}

std::string type_of(const Integer& integer) {
    return fmt::format("{}int{}_t{}", integer.is_signed ? "" : "u", integer.bits, integer.base == 16 ? "_hex" : "");
}

std::string type_of(const Field& field) {
    switch (field.kind) {
        case Field::Kind::integer:
            return type_of(field.integer);
        case Field::Kind::real:
            return field.real_bits == 32 ? "float" : "double";
        case Field::Kind::boolean:
            return "enum : uint8_t { \"false\" = 0, \"true\" = 1 }";
        case Field::Kind::string:
            return "string";
        case Field::Kind::enumeration:
            break;
    }
    std::string labels;
    for (const auto& label : field.labels) {
        const auto value = [&](std::int64_t v) {
            return field.integer.is_signed ? fmt::format("{}", v) : fmt::format("{}", static_cast<std::uint64_t>(v));
        };
        labels += (labels.empty() ? "" : ", ") + quoted(label.name) + " = " + value(label.first);
        if (label.last != label.first) labels += " ... " + value(label.last);
    }
    return fmt::format("enum : {} {{ {} }}", type_of(field.integer), labels);
}

std::string declaration(const Field& field) {
    switch (field.shape) {
        case Field::Shape::array:
            return fmt::format("\t\t{} _{}[{}];\n", type_of(field), field.name, field.count);
        case Field::Shape::sequence:
            return fmt::format("\t\tuint32_t __{0}_len;\n\t\t{1} _{0}[__{0}_len];\n", field.name, type_of(field));
        case Field::Shape::one:
            break;
    }
    return fmt::format("\t\t{} _{};\n", type_of(field), field.name);
}

std::string base_types() {
    std::string out;
    for (const unsigned bits : {8U, 16U, 32U, 64U})
        for (const bool is_signed : {false, true})
            for (const unsigned base : {10U, 16U})
                out += fmt::format("typealias integer {{ size = {}; align = 8; signed = {}; base = {}; }} := {};\n",
                                   bits, is_signed, base, type_of(Integer{bits, is_signed, base}));
    return out +
           "typealias floating_point { exp_dig = 8; mant_dig = 24; align = 8; } := float;\n"
           "typealias floating_point { exp_dig = 11; mant_dig = 53; align = 8; } := double;\n";
}

std::string clock_types(const Clock& clock) {
    std::string out;
    for (const auto& [bits, align] : {std::pair{27, 1}, std::pair{64, 8}})
        out += fmt::format(
            "typealias integer {{ size = {0}; align = {1}; signed = false; map = clock.{2}.value; }} := "
            "uint{0}_clock_t;\n",
            bits, align, clock.name);
    return out;
}

constexpr std::string_view kHeaders = R"(
struct packet_context {
	uint64_clock_t timestamp_begin;
	uint64_clock_t timestamp_end;
	uint64_t content_size;
	uint64_t packet_size;
	uint64_t packet_seq_num;
	uint64_t events_discarded;
	uint32_t cpu_id;
};

struct event_header {
	enum : uint5_t { compact = 0 ... 30, extended = 31 } id;
	variant <id> {
		struct {
			uint27_clock_t timestamp;
		} compact;
		struct {
			uint32_aligned_t id;
			uint64_aligned_clock_t timestamp;
		} extended;
	} v;
} align(32);
)";

}  // namespace

std::string preamble_text(const Preamble& preamble) {
    const Clock& clock = preamble.clock;
    std::string out = "/* CTF 1.8 */\n\n" + base_types() +
                      "typealias integer { size = 5; align = 1; signed = false; } := uint5_t;\n"
                      "typealias integer { size = 32; align = 32; signed = false; } := uint32_aligned_t;\n";
    out += fmt::format(R"(
trace {{
	major = 1;
	minor = 8;
	uuid = "{}";
	byte_order = le;
	packet.header := struct {{
		uint32_t magic;
		uint8_t uuid[16];
		uint32_t stream_id;
		uint64_t stream_instance_id;
	}};
}};
)",
                       text_of(preamble.uuid));
    out += "\nenv {\n";
    if (!preamble.hostname.empty()) out += "\thostname = " + quoted(preamble.hostname) + ";\n";
    out += fmt::format("\ttracer_name = \"cloister\";\n\ttracer_major = {};\n\ttracer_minor = {};\n",
                       preamble.version_major, preamble.version_minor);
    for (const auto& [key, value] : preamble.environment) out += fmt::format("\t{} = {};\n", key, quoted(value));
    out += fmt::format(R"(}};

clock {{
	name = {};
	description = {};
	freq = {};
	offset_s = {};
	offset = {};
	absolute = {};
}};

)",
                       clock.name, quoted(clock.description), clock.frequency, clock.offset_s, clock.offset,
                       clock.absolute ? "true" : "false");
    out += clock_types(clock);
    out += fmt::format(
        "typealias integer {{ size = 64; align = 32; signed = false; map = clock.{}.value; }} := "
        "uint64_aligned_clock_t;\n",
        clock.name);
    out += kHeaders;
    for (const auto& channel : preamble.channels)
        out += fmt::format(R"(
stream {{
	id = {};
	packet.context := struct packet_context;
	event.header := struct event_header;
}};
)",
                           channel.stream_id);
    return out;
}

std::string event_text(const EventClass& event) {
    std::string fields;
    for (const auto& field : event.fields) fields += declaration(field);
    return fmt::format(R"(
event {{
	name = {};
	id = {};
	stream_id = {};
	loglevel = {};
	fields := struct {{
{}	}};
}};
)",
                       quoted(event.name), event.id, event.stream_id, event.loglevel, fields);
}

}  // namespace cloister::ctf
