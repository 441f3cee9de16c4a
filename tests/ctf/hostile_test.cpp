// Whatever the bytes of a trace are: an error that says what is wrong, or events; never a crash, a loop, or a look
// outside.
#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <random>

#include <gtest/gtest.h>

#include "ctf/encoder.hpp"
#include "ctf/metadata_text.hpp"
#include "memory_trace.hpp"

namespace cloister::ctf {
namespace {

using Bytes = std::vector<std::uint8_t>;

std::string read_file(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

struct Sample {
    std::string metadata;
    Bytes stream;
};

void append_packet(Bytes& out, const Uuid& uuid, PacketInfo info, const Encoder& events) {
    std::array<std::byte, kPacketHeaderSize> header{};
    info.timestamp_begin = events.first();
    info.timestamp_end = events.last();
    fill_header(header, uuid, info, events.events().size());
    const auto append = [&out](std::span<const std::byte> bytes) {
        const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
        out.insert(out.end(), data, data + bytes.size());
    };
    append(header);
    append(events.events());
    out.resize((out.size() + 3) / 4 * 4);
}

Sample own() {
    Preamble preamble;
    preamble.uuid[3] = 7;
    preamble.channels = {{"book", 0}};
    const EventClass fixed{.name = "fixed", .id = 1, .fields = {Field::of_integer("n", {}), Field::of_double("x")}};
    const EventClass loose{
        .name = "loose",
        .id = 2,
        .fields = {Field::of_string("s"), Field::of_integer("q", {.bits = 16}).sequence(),
                   Field::of_enumeration("e", {.bits = 8}, {{"a", 0, 3}, {"b", 4, 9}}), Field::of_boolean("f")}};
    const EventClass large{.name = "large id", .id = 4711, .fields = {Field::of_bytes("b", 3)}};
    Sample out{preamble_text(preamble) + event_text(fixed) + event_text(loose) + event_text(large), {}};
    std::uint64_t time = 1'000;
    for (std::uint64_t packet = 0; packet < 3; ++packet) {
        Encoder events;
        for (std::uint32_t n = 0; n < 3; ++n) {
            events.event(1, time += 100);
            events.put(n).put(0.5);
            events.event(2, time += 100);
            const std::array<std::uint16_t, 2> some{1, 2};
            events.put("abc").put_sequence(std::span<const std::uint16_t>(some)).put<std::uint8_t>(5).put(true);
            events.event(4711, time += 100);
            events.put_array(std::span<const std::uint8_t>(std::array<std::uint8_t, 3>{1, 2, 3}));
        }
        append_packet(out.stream, preamble.uuid, {.sequence_number = packet, .events_discarded = packet}, events);
    }
    return out;
}

Sample lttng() {
    const std::string folder = CLOISTER_FIXTURES "/lttng";
    const std::string stream = read_file(folder + "/ch_0");
    Sample out{read_file(folder + "/metadata"), Bytes(stream.begin(), stream.end())};
    EXPECT_EQ(out.stream.size(), 12'288U);
    out.stream.resize(4'096);
    return out;
}

// What a person is told names the packet and the stream.
void expect_told(const Seen& seen, const std::string& where) {
    if (seen.error.empty()) return;
    EXPECT_NE(seen.error.find("packet "), std::string::npos) << where << ": " << seen.error;
    EXPECT_NE(seen.error.find(" of book_0: "), std::string::npos) << where << ": " << seen.error;
    EXPECT_EQ(seen.error.find("the count is another"), std::string::npos) << where << ": " << seen.error;
    EXPECT_EQ(seen.error.find("it went on"), std::string::npos) << where;
}

class Stream : public testing::TestWithParam<std::string> {
protected:
    const Sample sample = GetParam() == "own" ? own() : lttng();
};

TEST_P(Stream, WholeItIsRead) {
    const auto layout = layout_of(sample.metadata);
    ASSERT_TRUE(layout) << layout.error().text();
    const Seen seen = read_all(*layout, sample.stream);
    EXPECT_EQ(seen.error, "");
    EXPECT_GE(seen.events, 25U);
}

TEST_P(Stream, CutAtEveryByte) {
    const auto layout = layout_of(sample.metadata);
    ASSERT_TRUE(layout);
    const auto whole = read_all(*layout, sample.stream).lines;
    for (std::size_t size = 1; size < sample.stream.size(); ++size) {
        const Seen seen = read_all(*layout, std::span(sample.stream).first(size));
        expect_told(seen, "cut at " + std::to_string(size));
        // A cut packet is not read at all, since nothing tells which of it was written.
        ASSERT_LE(seen.lines.size(), whole.size());
        EXPECT_TRUE(std::equal(seen.lines.begin(), seen.lines.end(), whole.begin())) << size;
    }
}

TEST_P(Stream, EveryByteChanged) {
    const auto layout = layout_of(sample.metadata);
    ASSERT_TRUE(layout);
    constexpr std::array<unsigned, 4> kChanges{0xff, 0x01, 0x80, 0x1f};
    // All of them for a small trace, one in turn for a large one.
    const std::size_t step = sample.stream.size() > 1'000 ? kChanges.size() : 1;
    for (std::size_t at = 0; at < sample.stream.size(); ++at)
        for (std::size_t i = at % step; i < kChanges.size(); i += step) {
            Bytes bytes = sample.stream;
            bytes[at] = static_cast<std::uint8_t>(bytes[at] ^ kChanges[i]);
            expect_told(read_all(*layout, bytes), "byte " + std::to_string(at) + " ^ " + std::to_string(kChanges[i]));
        }
}

TEST_P(Stream, Noise) {
    const auto layout = layout_of(sample.metadata);
    ASSERT_TRUE(layout);
    std::mt19937 random(1);
    for (int round = 0; round < 1'000; ++round) {
        Bytes bytes = sample.stream;
        for (unsigned changes = 1 + random() % 8; changes > 0; --changes)
            bytes[random() % bytes.size()] = static_cast<std::uint8_t>(random());
        expect_told(read_all(*layout, bytes), "round " + std::to_string(round));
    }
}

TEST_P(Stream, MetadataCutAndChanged) {
    const std::size_t step = sample.metadata.size() / 500 + 1;  // each of them parses it all
    for (std::size_t at = 0; at < sample.metadata.size(); at += step) {
        const auto cut = layout_of(std::string_view(sample.metadata).substr(0, at));
        EXPECT_TRUE(cut || !cut.error().what.empty());
        std::string changed = sample.metadata;
        for (const char byte : {'\0', '{', '9', '\x80'}) {
            changed[at] = byte;
            const auto layout = layout_of(changed);
            if (layout) (void)read_all(*layout, sample.stream);
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Of, Stream, testing::Values("own", "lttng"));

// Sizes in the header of the first packet, at bytes 48 and 56.
std::string told_for_sizes(std::uint64_t content, std::uint64_t packet) {
    Sample sample = own();
    std::memcpy(sample.stream.data() + 48, &content, sizeof content);
    std::memcpy(sample.stream.data() + 56, &packet, sizeof packet);
    const auto layout = layout_of(sample.metadata);
    return layout ? read_all(*layout, sample.stream).error : "";
}

TEST(PacketSizes, AreSaid) {
    const auto has = [](const std::string& text, const std::string& part) {
        EXPECT_NE(text.find(part), std::string::npos) << text;
    };
    has(told_for_sizes(4104, 4096), "packet 0 of book_0: content_size 4104 bits is larger than packet_size 4096");
    has(told_for_sizes(800, 1 << 30), "reaches beyond the end of the file");
    has(told_for_sizes(8, 4096), "ends inside the header, which has 672");
    has(told_for_sizes(0, 0), "ends inside the header");
    has(told_for_sizes(700, 700), "packet_size 700 bits");
    has(told_for_sizes(~std::uint64_t{0}, ~std::uint64_t{0}), "reaches beyond the end");
}

std::string broken_metadata(const std::string& text) {
    const auto layout = layout_of(text);
    return layout ? "" : layout.error().text();
}

TEST(HostileMetadata, EndsWithAnError) {
    const std::string stream = "typealias integer { size = 8; } := u8; stream { event.header := struct { u8 id; }; };";
    std::string doubling = "typealias integer { size = 8; } := t0;";
    for (int i = 0; i < 40; ++i)
        doubling += " typealias struct { t" + std::to_string(i) + " a; t" + std::to_string(i) + " b; } := t" +
                    std::to_string(i + 1) + ";";
    std::string deep = stream + " event { fields := ";
    for (int i = 0; i < 100'000; ++i) deep += "struct { ";
    std::string chain = "typealias integer { size = 8; } := t0;";
    for (int i = 0; i < 10'000; ++i)
        chain += " typealias struct { t" + std::to_string(i) + " a; } := t" + std::to_string(i + 1) + ";";
    std::string dimensions = stream + " event { fields := struct { u8 a";
    for (int i = 0; i < 10'000; ++i) dimensions += "[1]";
    const std::vector<std::pair<std::string, std::string>> cases{
        {doubling + stream + " event { fields := struct { t40 a; }; };", "fields in all"},
        {deep, "nested deeper than 64"},
        {chain, "nested deeper than 64"},
        {dimensions + "; }; };", "nested deeper"},
        {stream + " event { fields := struct { u8 a[n]; }; };", "'n', which is not there"},
        {stream + " event { fields := struct { u8 a[a]; }; };", "'a', which is not there"},
        {stream + " event { fields := struct { struct { u8 n; } s; u8 a[s]; }; };", "'s', which is of another type"},
        {stream + " event { fields := struct { variant <x> { u8 a; } v; }; };", "'x', which is not there"},
        {stream + " event { fields := struct { variant { u8 a; } v; }; };", "chosen by ''"},
        {stream + " event { fields := struct { u8 a; u8 a; }; };", "field 'a' twice"},
        {stream + " event { id = 1; }; event { id = 1; };", "declared twice"},
        {stream + " event { stream_id = 9; };", "stream 9, which is not declared"},
        {stream + stream, "declared twice"},
        {"typealias integer { size = 0; } := x;", "0 bits"},
        {"typealias integer { size = 65; } := x;", "65 bits"},
        {"typealias integer { size = 8; align = 3; } := x;", "alignment of 3"},
        {"typealias integer { size = 8; align = 0; } := x;", "alignment of 0"},
        {"typealias integer { size = 99999999999999999999; } := x;", "64 bits hold"},
        {"typealias floating_point { exp_dig = 5; mant_dig = 11; } := half;", "exp_dig 5, mant_dig 11"},
        {"clock { name = c; freq = 0; };", "0 Hz"},
        {"clock { freq = 1; };", "without a name"},
        {"trace { major = 2; };", "CTF 1.8"},
        {"trace { uuid = \"1234\"; };", "no UUID"},
        {"trace { byte_order = native; };", "native byte order"},
        {"trace { packet.header := string; };", "no structure"},
        {"/* for ever", "comment without an end"},
        {"env { a = \"for ever", "string without an end"},
        {"env { a = \\; };", "stray '\\'"},
        {std::string("env { a = ") + '\x80' + "; };", "stray byte 0x80"},
        {"nonsense { };", "unknown block 'nonsense'"},
        {"stream { event.header := struct nothing; };", "struct 'nothing' is not declared"},
        {"enum e { a };", "over no integer"},
        {"stream { packet.context := struct { integer { size = 64; map = clock.none.value; } timestamp_begin; }; };",
         "none"},
    };
    for (const auto& [text, part] : cases) {
        const std::string error = broken_metadata(text);
        EXPECT_NE(error.find(part), std::string::npos) << part << "\n" << text.substr(0, 200) << "\n" << error;
    }
}

// Arrays that take no room could go on for ever, and so could events.
TEST(HostileMetadata, WhatTakesNoRoomEnds) {
    const std::string types = "typealias integer { size = 8; } := u8; typealias integer { size = 64; } := u64;";
    const Bytes bytes(64, 0xff);
    for (const char* fields : {"struct {} a[18446744073709551615];", "u64 n; struct {} a[n];", "u64 n; string a[n];",
                               "u64 n; struct { struct {} b[1000000]; } a[1000000];"}) {
        const auto layout =
            layout_of(types + "stream { }; event { fields := struct { " + std::string(fields) + " }; };");
        ASSERT_TRUE(layout) << layout.error().text();
        const Seen seen = read_all(*layout, bytes);
        EXPECT_NE(seen.error, "") << fields;
    }
    const auto nothing = layout_of("stream { }; event { fields := struct { }; };");
    ASSERT_TRUE(nothing);
    EXPECT_NE(read_all(*nothing, bytes).error.find("takes no room"), std::string::npos);
    const auto no_event = layout_of("stream { };");
    ASSERT_TRUE(no_event);
    EXPECT_NE(read_all(*no_event, bytes).error.find("not declared"), std::string::npos);
}

}  // namespace
}  // namespace cloister::ctf
