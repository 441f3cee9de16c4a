#include "ctf/tsdl_parser.hpp"

#include <set>

#include <fmt/format.h>

#include "ctf/tsdl_types.hpp"

namespace cloister::ctf {
namespace {

class Parser : public TypeParser {
public:
    using TypeParser::TypeParser;

    Metadata run() {
        while (!at_end()) {
            if (type_statement() || take_sign(";")) continue;
            const std::size_t at = token().at;
            const std::string word = expect_word("a block");
            if (word == "trace")
                trace();
            else if (word == "env")
                environment();
            else if (word == "clock")
                clock();
            else if (word == "stream")
                stream(at);
            else if (word == "event")
                event(at);
            else if (word == "callsite")
                block([](const std::string&, const Value&) {}, [](const std::string&, const TypeRef&) {});
            else
                wrong(at, fmt::format("unknown block '{}'", word),
                      "trace, env, clock, stream, event, callsite, typealias, typedef, struct, variant or enum");
        }
        if (!error()) check();
        return std::move(out_);
    }

private:
    // { name = value; ... name := type; ... }
    template <class OnValue, class OnType>
    void block(OnValue on_value, OnType on_type) {
        expect("{");
        enter();
        while (!at_sign("}") && !at_end()) {
            if (type_statement()) continue;
            const std::string name = path();
            if (take_sign(":=")) {
                const TypeRef base = type();
                on_type(name, declared(base));
            } else {
                expect("=");
                on_value(name, value());
            }
            expect(";");
        }
        leave();
        expect("}");
        expect(";");
    }

    // A scope must be a structure: the fields in it are found by their names.
    void scope(TypeRef& into, const TypeRef& type, const std::string& name) {
        if (type->kind != Type::Kind::structure)
            wrong(token().at, fmt::format("{} is no structure", name), "struct { ... }");
        into = type;
    }

    void trace() {
        block(
            [&](const std::string& name, const Value& value) {
                if (name == "byte_order") {
                    out_.order = order_of(value);
                    if (out_.order == ByteOrder::native) wrong(value.at, "a trace in native byte order", "le or be");
                }
                if (name == "uuid") out_.uuid = uuid_of(value);
                if ((name == "major" && number_of(value, name) != 1) ||
                    (name == "minor" && number_of(value, name) != 8))
                    wrong(value.at, fmt::format("{} version {}", name, value.text), "CTF 1.8");
            },
            [&](const std::string& name, const TypeRef& type) {
                if (name == "packet.header") scope(out_.packet_header, type, name);
            });
    }

    Uuid uuid_of(const Value& value) {
        Uuid uuid{};
        std::string digits;
        for (const char c : value.text)
            if (c != '-') digits += c;
        if (digits.size() != 2 * uuid.size() ||
            digits.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) {
            wrong(value.at, fmt::format("'{}' is no UUID", value.text), "32 hexadecimal digits");
            return uuid;
        }
        for (std::size_t i = 0; i < uuid.size(); ++i)
            uuid[i] = static_cast<std::uint8_t>(std::stoul(digits.substr(2 * i, 2), nullptr, 16));
        return uuid;
    }

    void environment() {
        block([&](const std::string& name, const Value& value) { out_.environment.emplace_back(name, value.text); },
              [](const std::string&, const TypeRef&) {});
    }

    void clock() {
        const std::size_t at = token().at;
        Clock clock;
        clock.name.clear();
        clock.description.clear();
        block(
            [&](const std::string& name, const Value& value) {
                if (name == "name") clock.name = value.text;
                if (name == "description") clock.description = value.text;
                if (name == "freq") {
                    clock.frequency = number_of(value, name);
                    if (clock.frequency == 0) wrong(value.at, "a clock of 0 Hz", "freq = its frequency in Hz");
                }
                if (name == "offset") clock.offset = number_of(value, name);
                if (name == "absolute") clock.absolute = truth_of(value);
                if (name == "offset_s") {
                    if (value.kind != Value::Kind::number || value.number > INT64_MAX)
                        wrong(value.at, fmt::format("offset_s is '{}'", value.text), "seconds, in 64 bits with a sign");
                    const auto seconds = static_cast<std::int64_t>(value.number);
                    clock.offset_s = value.negative ? -seconds : seconds;
                }
            },
            [](const std::string&, const TypeRef&) {});
        if (clock.name.empty()) wrong(at, "a clock without a name", "name = NAME;");
        out_.clocks.push_back(std::move(clock));
    }

    void stream(std::size_t at) {
        Metadata::Stream stream;
        block(
            [&](const std::string& name, const Value& value) {
                if (name == "id") stream.id = number_of(value, name);
            },
            [&](const std::string& name, const TypeRef& type) {
                if (name == "packet.context") scope(stream.packet_context, type, name);
                if (name == "event.header") scope(stream.event_header, type, name);
                if (name == "event.context") scope(stream.event_context, type, name);
            });
        if (!stream_ids_.insert(stream.id).second)
            wrong(at, fmt::format("stream {} is declared twice", stream.id), "an id of its own for every stream");
        out_.streams.push_back(std::move(stream));
    }

    void event(std::size_t at) {
        Metadata::Event event;
        bool has_stream = false;
        block(
            [&](const std::string& name, const Value& value) {
                if (name == "name") event.name = value.text;
                if (name == "id") event.id = number_of(value, name);
                if (name == "stream_id") {
                    event.stream_id = number_of(value, name);
                    has_stream = true;
                }
                if (name == "loglevel" && value.kind == Value::Kind::number)
                    event.loglevel = static_cast<std::int64_t>(value.negative ? 0 - value.number : value.number);
            },
            [&](const std::string& name, const TypeRef& type) {
                if (name == "context") scope(event.context, type, name);
                if (name == "fields") scope(event.fields, type, name);
            });
        // What a trace with a single stream may leave out.
        if (!has_stream && out_.streams.size() == 1) event.stream_id = out_.streams.front().id;
        if (!event_ids_.insert({event.stream_id, event.id}).second)
            wrong(at, fmt::format("event {} of stream {} is declared twice", event.id, event.stream_id),
                  "an id of its own for every event of a stream");
        out_.events.push_back(std::move(event));
    }

    // What may be declared in any order.
    void check() {
        if (out_.streams.empty() && !out_.events.empty()) {  // a trace without streams has one
            out_.streams.emplace_back();
            stream_ids_.insert(0);
        }
        for (const auto& event : out_.events)
            if (!stream_ids_.contains(event.stream_id))
                wrong(token().at,
                      fmt::format("event '{}' is of stream {}, which is not declared", event.name, event.stream_id),
                      fmt::format("stream {{ id = {}; ... }};", event.stream_id));
    }

    Metadata out_;
    std::set<std::uint64_t> stream_ids_;
    std::set<std::pair<std::uint64_t, std::uint64_t>> event_ids_;  // stream, event
};

}  // namespace

tl::expected<Metadata, TsdlError> parse_tsdl(std::string_view text) {
    auto tokens = tokens_of(text);
    if (!tokens) return tl::unexpected(tokens.error());
    Parser parser(std::move(*tokens));
    Metadata out = parser.run();
    if (parser.error()) return tl::unexpected(*parser.error());
    return out;
}

}  // namespace cloister::ctf
