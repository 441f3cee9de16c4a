// make_trace DIR KIND [COUNT]: traces whose every event is known to the tests that call it.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ctf/encoder.hpp"
#include "ctf/fragments.hpp"
#include "ctf/trace_writer.hpp"

using namespace cloister;
using namespace cloister::ctf;

namespace {

void must(const Result<void>& done) {
    if (done) return;
    std::fputs(done.error().text().c_str(), stderr);
    std::exit(1);
}

// The same in every run, so that a failure can be looked at again.
constexpr Uuid kUuid{0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0x4c, 0xfe, 0x81, 0x02, 3, 4, 5, 6, 7, 8};

Preamble preamble(std::uint64_t frequency) {
    Preamble out;
    out.uuid = kUuid;
    out.clock = {.frequency = frequency, .offset_s = 1'700'000'000, .offset = 7, .absolute = true};
    out.hostname = "host \"1\"";
    out.version_minor = 1;
    out.environment = {{"note", "back\\slash"}};
    out.channels = {{"book", 0}, {"slow", 1}};
    return out;
}

TraceWriter create(const std::string& directory, const Preamble& what) {
    auto writer = TraceWriter::create(directory, what);
    if (!writer) must(fail(writer.error()));
    return std::move(*writer);
}

// One event that has every type of field, with values at their limits.
EventClass everything() {
    EventClass out{.name = "test:everything", .id = 0, .fields = {}};
    for (const unsigned bits : {8U, 16U, 32U, 64U}) {
        out.fields.push_back(Field::of_integer("u" + std::to_string(bits), {.bits = bits}));
        out.fields.push_back(Field::of_integer("i" + std::to_string(bits), {.bits = bits, .is_signed = true}));
    }
    const std::vector<Label> sides{{"buy", 0, 0}, {"sell", 1, 1}, {"other", 2, 9}};
    out.fields.push_back(Field::of_pointer("pointer"));
    out.fields.push_back(Field::of_float("ratio"));
    out.fields.push_back(Field::of_double("price"));
    out.fields.push_back(Field::of_enumeration("side", {.bits = 8}, sides));
    out.fields.push_back(
        Field::of_enumeration("change", {.bits = 32, .is_signed = true}, {{"less", -5, -1}, {"same", 0, 0}}));
    out.fields.push_back(Field::of_boolean("flag"));
    out.fields.push_back(Field::of_string("string"));  // a keyword of TSDL
    out.fields.push_back(Field::of_bytes("struct", 4));
    out.fields.push_back(Field::of_integer("array", {.bits = 16}).times(3));
    out.fields.push_back(Field::of_integer("sequence", {.bits = 32, .is_signed = true}).sequence());
    out.fields.push_back(Field::of_double("doubles").sequence());
    out.fields.push_back(Field::of_string("words").times(2));
    return out;
}

void put_everything(Encoder& to, std::uint64_t time, bool most) {
    to.event(0, time);
    to.put<std::uint8_t>(most ? 0xff : 0).put<std::int8_t>(most ? -128 : 127);
    to.put<std::uint16_t>(most ? 0xffff : 0).put<std::int16_t>(most ? -32768 : 32767);
    to.put<std::uint32_t>(most ? 0xffffffff : 0).put<std::int32_t>(most ? INT32_MIN : INT32_MAX);
    to.put<std::uint64_t>(most ? UINT64_MAX : 0).put<std::int64_t>(most ? INT64_MIN : INT64_MAX);
    to.put<std::uint64_t>(0xdeadbeef0000cafe).put(0.25F).put(most ? -1e300 : 100.5);
    to.put<std::uint8_t>(most ? 1 : 7).put<std::int32_t>(most ? -3 : 0).put(most);
    to.put(most ? std::string_view("") : std::string_view("ein \"Wort\"\tg\xc3\xbcltig"));
    to.put_array<std::uint8_t>(std::array<std::uint8_t, 4>{0, 1, 0x7f, 0xff});
    to.put_array<std::uint16_t>(std::array<std::uint16_t, 3>{1, 2, 65535});
    const std::vector<std::int32_t> some{-1, 0, 1};
    to.put_sequence(most ? std::span<const std::int32_t>(some) : std::span<const std::int32_t>());
    const std::vector<double> doubles{0.5, -2};
    to.put_sequence(std::span<const double>(doubles));
    to.put("first").put("second");
}

void write(TraceWriter& writer, const PacketInfo& base, Encoder& events) {
    PacketInfo info = base;
    if (info.timestamp_end == 0) info.timestamp_begin = events.first(), info.timestamp_end = events.last();
    must(writer.write(info, events.events()));
    events.clear();
}

// Every type, both headers, times that wrap the 27 bits and jump beyond them, two channels.
void fields(const std::string& directory, std::uint64_t) {
    TraceWriter writer = create(directory, preamble(1'000'000'000));
    must(writer.add(everything()));
    must(writer.add({.name = "test:empty", .id = 30, .loglevel = 6, .fields = {}}));
    must(writer.add({.name = "test:extended", .id = 1000, .fields = {Field::of_integer("n", {.bits = 32})}}));
    must(writer.add({.name = "test:other", .id = 0, .stream_id = 1, .fields = {Field::of_integer("n", {.bits = 8})}}));
    Encoder events;
    put_everything(events, 1'000, false);
    events.event(30, (1U << 27U) + 999);          // the farthest that a compact header reaches: it wraps
    events.event(30, (1U << 27U) + 999);          // at the same time
    events.event(30, (std::uint64_t{3} << 27U));  // beyond
    events.event(1000, std::uint64_t{5} << 40U);
    events.put<std::uint32_t>(77);
    put_everything(events, (std::uint64_t{5} << 40U) + 1, true);
    write(writer, {.stream_id = 0, .stream_instance = 0}, events);
    for (std::uint8_t n = 0; n < 3; ++n) events.event(0, 500 + n), events.put(n);
    write(writer, {.stream_id = 1, .stream_instance = 3, .timestamp_begin = 400, .timestamp_end = 600, .cpu = 3},
          events);
    must(writer.finish());
}

// What was lost, between which events: by the running total, and by the numbers of the packets.
void losses(const std::string& directory, std::uint64_t) {
    TraceWriter writer = create(directory, preamble(1'000'000'000));
    must(writer.add({.name = "test:n", .id = 1, .fields = {Field::of_integer("n", {.bits = 8})}}));
    Encoder events;
    const auto packet = [&](std::uint64_t number, std::uint64_t discarded, std::uint64_t time, int count) {
        for (int i = 0; i < count; ++i) {
            events.event(1, time + static_cast<std::uint64_t>(i));
            events.put(static_cast<std::uint8_t>(i));
        }
        write(writer,
              {.stream_instance = 2,
               .timestamp_begin = time,
               .timestamp_end = time + 100,
               .sequence_number = number,
               .events_discarded = discarded,
               .cpu = 2},
              events);
    };
    packet(0, 3, 1'000, 2);  // of what was lost before anything was written, or behind the first events
    packet(1, 7, 2'000, 0);  // a packet without events: it says only that 4 were lost
    packet(2, 12, 3'000, 2);
    packet(5, 12, 4'000, 1);  // packets 3 and 4 are missing
    packet(7, 14, 5'000, 1);
    must(writer.finish());
}

// A clock whose cycles are no nanoseconds.
void cycles(const std::string& directory, std::uint64_t count) {
    TraceWriter writer = create(directory, preamble(2'999'999'937));
    must(writer.add({.name = "test:n", .id = 1, .fields = {Field::of_integer("n", {.bits = 64})}}));
    Encoder events;
    for (std::uint64_t n = 0; n < count; ++n) {
        events.event(1, 123'456'789'012'345 + n * 12'345'679);
        events.put(n);
    }
    write(writer, {}, events);
    must(writer.finish());
}

// COUNT MiB of packets of 1 MiB, all of events of 20 bytes 100 cycles apart: what the benchmark reads.
void bulk(const std::string& directory, std::uint64_t count) {
    TraceWriter writer = create(directory, preamble(1'000'000'000));
    const Integer word{.bits = 64};
    must(writer.add(
        {.name = "test:bulk", .id = 1, .fields = {Field::of_integer("n", word), Field::of_integer("m", word)}}));
    constexpr std::uint64_t kEvents = ((1U << 20U) - kPacketHeaderSize) / 20;
    Encoder events;
    std::uint64_t n = 0;
    for (std::uint64_t packet = 0; packet < count; ++packet) {
        for (std::uint64_t i = 0; i < kEvents; ++i, ++n) {
            events.event(1, n * 100);
            events.put(n).put(i);
        }
        write(writer, {.sequence_number = packet}, events);
    }
    must(writer.finish());
}

// A part of an event, by thread 7.
struct Part {
    std::uint64_t instance = 0;
    std::uint32_t index = 0, end = 0;
    std::string_view bytes = {};
    std::uint32_t id = 3;
    std::uint64_t begun = 0;
};

void put_part(Encoder& to, std::uint64_t time, const Part& part) {
    to.event(core::kFragmentId, time);
    to.put(part.instance).put(part.begun).put(std::uint32_t{7}).put(part.id).put(part.index).put(part.end);
    to.put_sequence(std::span(part.bytes.data(), part.bytes.size()));
}

TraceWriter create_with_fragments(const std::string& directory) {
    TraceWriter writer = create(directory, preamble(1'000'000'000));
    must(writer.add(fragment_class(0)));
    must(writer.add({.name = "test:n", .id = 1, .fields = {Field::of_integer("n", {.bits = 8})}}));
    must(writer.add({.name = "test:long",
                     .id = 3,
                     .fields = {Field::of_integer("n", {.bits = 8}), Field::of_string("text"),
                                Field::of_integer("list", {.bits = 8}).sequence()}}));
    return writer;
}

using namespace std::string_view_literals;

// Events in fragments: whole ones across two CPUs, nested in each other, and every way to be incomplete. The test knows
// what is in it.
void fragments(const std::string& directory, std::uint64_t) {
    TraceWriter writer = create_with_fragments(directory);
    const auto number = [](Encoder& to, std::uint64_t time, std::uint8_t n) { to.event(1, time), to.put(n); };
    Encoder zero, one;
    number(zero, 100, 1);
    put_part(zero, 110, {.instance = 5, .bytes = "\x05whole "sv, .begun = 109});
    put_part(zero, 120, {.instance = 6, .bytes = "\x06nes"sv, .begun = 119});
    number(zero, 125, 2);
    put_part(zero, 130, {.instance = 6, .index = 1, .end = 1, .bytes = "ted\0\0\0\0\0"sv, .begun = 119});
    put_part(one, 150, {.instance = 5, .index = 1, .bytes = "on two CPUs\0\3\0"sv, .begun = 109});
    number(one, 160, 3);
    put_part(zero, 170, {.instance = 5, .index = 2, .end = 1, .bytes = "\0\0\1\2\3"sv, .begun = 109});
    // The second is missing; the first two; one that was abandoned; and one without an end.
    put_part(zero, 200, {.instance = 20, .bytes = "\x14gap"sv, .begun = 199});
    put_part(zero, 210, {.instance = 20, .index = 2, .end = 1, .bytes = "!\0\0\0\0\0"sv, .begun = 199});
    put_part(one, 220, {.instance = 22, .index = 2, .end = 1, .bytes = "...\0\0\0\0\0"sv, .begun = 90});
    put_part(zero, 230,
             {.instance = 23,
              .bytes = "\x17"
                       "abandoned\0\5\0\0\0\1\2"sv,
              .begun = 229});
    put_part(one, 240, {.instance = 23, .index = 1, .end = 2, .begun = 229});
    put_part(one, 250, {.instance = 25, .bytes = "\x19no "sv, .begun = 249});
    put_part(zero, 260, {.instance = 25, .index = 1, .bytes = "end\0\2"sv, .begun = 249});
    number(one, 300, 4);
    write(writer, {.stream_instance = 0, .cpu = 0}, zero);
    write(writer, {.stream_instance = 1, .cpu = 1}, one);
    must(writer.finish());
}

// The first part of an event in a packet of its own, and the second in one far behind it: COUNT packets lie between.
void straddling(const std::string& directory, std::uint64_t count) {
    TraceWriter writer = create_with_fragments(directory);
    Encoder events;
    std::uint64_t number = 0;
    const auto packet = [&] { write(writer, {.sequence_number = number++}, events); };
    put_part(events, 1'000,
             {.instance = 5,
              .bytes = "\x05"
                       "from far"sv,
              .begun = 999});
    put_part(events, 1'001,
             {.instance = 6,
              .bytes = "\x06"
                       "further, and never ended"sv,
              .begun = 999});
    packet();
    for (std::uint64_t n = 0; n < count; ++n) {
        events.event(1, 2'000 + n * 10);
        events.put(static_cast<std::uint8_t>(n));
        packet();
    }
    put_part(events, 1'000'000, {.instance = 5, .index = 1, .end = 1, .bytes = " away\0\0\0\0\0"sv, .begun = 999});
    packet();
    must(writer.finish());
}

// Fragments that cannot be, each in its own way; before them an event that is fine, and behind them one that is not
// read.
void mistaken(const std::string& directory, std::uint64_t count) {
    TraceWriter writer = create_with_fragments(directory);
    const std::string_view whole = "\1x\0\0\0\0\0"sv;
    const std::vector<std::vector<Part>> ways{
        {{.instance = 1, .bytes = "\1"sv}, {.instance = 1, .bytes = "\1"sv}},
        {{.instance = 1, .index = 4}, {.instance = 1, .index = 3}},
        {{.instance = 1, .end = 3}},
        {{.instance = 1, .id = 77}},
        {{.instance = 1, .id = core::kFragmentId}},
        {{.instance = 1}, {.instance = 1, .index = 1, .id = 1}},
        {{.instance = 1}, {.instance = 1, .index = 1, .begun = 1}},
        {{.instance = 1, .bytes = whole}, {.instance = 1, .index = 1, .end = 1, .bytes = "more"sv}},
        {{.instance = 1, .bytes = "\1x"sv}, {.instance = 1, .index = 1, .end = 1, .bytes = "no end"sv}},
    };
    Encoder events;
    events.event(1, 50), events.put<std::uint8_t>(1);
    std::uint64_t time = 100;
    for (const Part& part : ways[count % ways.size()]) put_part(events, time++, part);
    events.event(1, 200), events.put<std::uint8_t>(2);
    write(writer, {}, events);
    must(writer.finish());
}

// Nothing happened.
void empty(const std::string& directory, std::uint64_t) { must(create(directory, preamble(1'000'000'000)).finish()); }

}  // namespace

int main(int argc, char** argv) {
    const std::map<std::string_view, std::function<void(const std::string&, std::uint64_t)>> kinds{
        {"fields", fields}, {"losses", losses},       {"cycles", cycles},         {"bulk", bulk},
        {"empty", empty},   {"fragments", fragments}, {"straddling", straddling}, {"mistaken", mistaken}};
    if (argc < 3 || !kinds.contains(argv[2])) {
        std::fputs("usage: make_trace DIR fields|losses|cycles|bulk|empty|fragments|straddling|mistaken [COUNT]\n",
                   stderr);
        return 2;
    }
    kinds.at(argv[2])(argv[1], argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 100);
    return 0;
}
