#include "ctf/trace_writer.hpp"

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "../scratch.hpp"
#include "ctf/encoder.hpp"
#include "ctf/metadata_text.hpp"
#include "ctf/trace.hpp"

namespace cloister::ctf {
namespace {

namespace fs = std::filesystem;

Preamble preamble() {
    Preamble out;
    out.channels = {{"book", 0}};
    return out;
}

EventClass number() { return {.name = "n", .id = 1, .fields = {Field::of_integer("n", {})}}; }

TraceWriter create(const std::string& directory) {
    auto writer = TraceWriter::create(directory, preamble());
    if (!writer) throw std::runtime_error(writer.error().text());
    return std::move(*writer);
}

TEST(Packet, HeaderByteForByte) {
    std::array<std::byte, kPacketHeaderSize> header{};
    Uuid uuid{};
    for (std::uint8_t i = 0; i < 16; ++i) uuid[i] = i;
    fill_header(header, uuid,
                {.stream_id = 0x11111111,
                 .stream_instance = 0x22,
                 .timestamp_begin = 0x33,
                 .timestamp_end = 0x44,
                 .sequence_number = 0x55,
                 .events_discarded = 0x66,
                 .cpu = 0x77},
                7);
    const auto at = [&]<class T>(std::size_t offset, T) {
        T value;
        std::memcpy(&value, header.data() + offset, sizeof value);
        return value;
    };
    EXPECT_EQ(at(0, std::uint32_t{}), 0xC1FC1FC1U);
    EXPECT_EQ(at(4, std::uint8_t{}), 0U);
    EXPECT_EQ(at(19, std::uint8_t{}), 15U);
    EXPECT_EQ(at(20, std::uint32_t{}), 0x11111111U);
    EXPECT_EQ(at(24, std::uint64_t{}), 0x22U);
    EXPECT_EQ(at(32, std::uint64_t{}), 0x33U);
    EXPECT_EQ(at(40, std::uint64_t{}), 0x44U);
    EXPECT_EQ(at(48, std::uint64_t{}), 8U * 91U) << "content: without the padding";
    EXPECT_EQ(at(56, std::uint64_t{}), 8U * 92U);
    EXPECT_EQ(at(64, std::uint64_t{}), 0x55U);
    EXPECT_EQ(at(72, std::uint64_t{}), 0x66U);
    EXPECT_EQ(at(80, std::uint32_t{}), 0x77U);
}

TEST(Encoder, ChoosesTheHeader) {
    Encoder events;
    const auto took = [&](std::uint32_t id, std::uint64_t time) {
        const std::size_t before = events.events().size();
        events.event(id, time);
        return events.events().size() - before;
    };
    EXPECT_EQ(took(30, 1'000'000'000'000), 4U) << "the packet's timestamp_begin is the reference of the first";
    EXPECT_EQ(took(31, 1'000'000'000'000), 16U);
    EXPECT_EQ(took(0, 1'000'000'000'000 + (1U << 27U) - 1), 4U);
    EXPECT_EQ(took(0, 1'000'000'000'000 + (2U << 27U) - 1), 16U);
    events.put(std::uint8_t{1});
    EXPECT_EQ(took(0, 1'000'000'000'000 + (2U << 27U) - 1), 7U) << "three bytes to the next multiple of 4";
    EXPECT_EQ(events.first(), 1'000'000'000'000U);
    EXPECT_EQ(events.last(), 1'000'000'000'000 + (2U << 27U) - 1);
}

TEST(Writer, TakesAnEmptyDirectoryOrMakesOne) {
    const tests::Scratch scratch;
    EXPECT_TRUE(TraceWriter::create(scratch / "new", preamble()));
    fs::create_directory(scratch / "empty");
    EXPECT_TRUE(TraceWriter::create(scratch / "empty", preamble()));
}

TEST(Writer, RefusesADirectoryWithAnythingInIt) {
    const tests::Scratch scratch;
    std::ofstream(scratch / "thesis.txt") << "years of work";
    const auto writer = TraceWriter::create(scratch.path(), preamble());
    ASSERT_FALSE(writer);
    const std::string text = writer.error().text();
    for (const char* word : {"thesis.txt", "empty", "needs", "found", "set"})
        EXPECT_NE(text.find(word), std::string::npos) << text;
    EXPECT_EQ(std::distance(fs::directory_iterator(scratch.path()), {}), 1);
    EXPECT_FALSE(TraceWriter::create(scratch / "thesis.txt", preamble())) << "a file";
    EXPECT_FALSE(TraceWriter::create(scratch / "no/such/parent", preamble()));
}

TEST(Writer, RefusesWhatCannotBeDeclared) {
    const tests::Scratch scratch;
    const auto told = [&](const Preamble& what, const char* word) {
        const auto writer = TraceWriter::create(scratch / "trace", what);
        ASSERT_FALSE(writer) << word;
        EXPECT_NE(writer.error().text().find(word), std::string::npos) << writer.error().text();
        EXPECT_FALSE(fs::exists(scratch / "trace")) << "nothing is left behind";
    };
    Preamble bad = preamble();
    bad.clock.frequency = 0;
    told(bad, "0 Hz");
    bad = preamble();
    bad.clock.offset = bad.clock.frequency;
    told(bad, "offset_s");
    bad = preamble();
    bad.channels.push_back({"../../etc", 1});
    told(bad, "../../etc");
    bad.channels.back() = {"metadata", 1};
    told(bad, "metadata");
    bad.channels.back() = {"other", 0};
    told(bad, "twice");
    bad.channels.clear();
    told(bad, "no channel");
    bad = preamble();
    bad.environment = {{"no good", ""}};
    told(bad, "no good");
}

TEST(Writer, RefusesEventClassesThatCannotBe) {
    const tests::Scratch scratch;
    auto writer = create(scratch / "trace");
    const auto before = fs::file_size(scratch / "trace/metadata");
    const auto told = [&](std::vector<Field> fields, const char* word) {
        const auto added = writer.add({.name = "bad", .id = 9, .fields = std::move(fields)});
        ASSERT_FALSE(added) << word;
        EXPECT_NE(added.error().text().find(word), std::string::npos) << added.error().text();
    };
    told({Field::of_string("a b")}, "'a b'");
    told({Field::of_string("")}, "''");
    told({Field::of_string("a"), Field::of_string("a")}, "twice");
    told({Field::of_string("_a_len"), Field::of_string("a").sequence()}, "_NAME_len");
    told({Field::of_integer("a", {.bits = 7})}, "7 bits");
    told({Field::of_integer("a", {.base = 8})}, "base 8");
    told({Field::of_enumeration("a", {}, {})}, "label");
    told({Field::of_enumeration("a", {}, {{"x", 2, 1}})}, "ends before");
    EXPECT_TRUE(writer.add(number()));
    EXPECT_FALSE(writer.add(number())) << "the id is taken";
    EventClass elsewhere = number();
    elsewhere.stream_id = 1;
    EXPECT_FALSE(writer.add(elsewhere));
    EXPECT_FALSE(writer.write({.stream_id = 1}, {}));
    EXPECT_GT(fs::file_size(scratch / "trace/metadata"), before);
}

// A limit on the size of files fails in the middle of a write, as a full file system does.
TEST(Writer, APacketThatDidNotFitIsNotThere) {
    const tests::Scratch scratch;
    auto writer = create(scratch / "trace");
    ASSERT_TRUE(writer.add(number()));
    Encoder events;
    for (std::uint32_t n = 0; n < 1'000; ++n) {
        events.event(1, n);
        events.put(n);
    }
    ASSERT_TRUE(writer.write({.timestamp_end = 999}, events.events()));
    const auto size = fs::file_size(scratch / "trace/book_0");
    rlimit saved{};
    ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &saved), 0);
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    rlimit tight = saved;
    tight.rlim_cur = size + size / 2;
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &tight), 0);
    const auto failed = writer.write({.timestamp_end = 999, .sequence_number = 1}, events.events());
    EventClass large = number();
    large.id = 2;
    for (int i = 0; i < 1'000; ++i) large.fields.push_back(Field::of_string("field_" + std::to_string(i)));
    const auto not_added = writer.add(large);
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &saved), 0);
    std::signal(SIGXFSZ, handler);
    ASSERT_FALSE(failed);
    EXPECT_NE(failed.error().text().find("book_0"), std::string::npos) << failed.error().text();
    EXPECT_EQ(fs::file_size(scratch / "trace/book_0"), size);
    EXPECT_EQ(fs::file_size(scratch / "trace/index/book_0.idx"), 16U + 72U);
    EXPECT_FALSE(not_added);
    EXPECT_TRUE(writer.add(large)) << "its id is still free";
    EXPECT_TRUE(writer.write({.timestamp_end = 999, .sequence_number = 1}, events.events())) << "and it goes on";
    EXPECT_TRUE(writer.finish());
    EXPECT_EQ(fs::file_size(scratch / "trace/book_0"), 2 * size);
}

// What a reader finds after every call: nothing half, and nothing that is not there yet.
TEST(Writer, IsAWholeTraceAfterEveryCall) {
    const tests::Scratch scratch;
    auto writer = create(scratch / "trace");
    const auto count = [&] {
        const auto trace = Trace::open(scratch / "trace");
        EXPECT_TRUE(trace) << (trace ? "" : trace.error().text());
        Counts counts;
        FragmentCounts fragments;
        for (const auto& stream : trace->streams()) {
            Cursor cursor(stream);
            EXPECT_TRUE(cursor.count(counts, fragments)) << cursor.error().text();
        }
        return std::accumulate(counts.events.begin(), counts.events.end(), std::uint64_t{0});
    };
    EXPECT_EQ(count(), 0U);
    Encoder events;
    for (std::uint32_t id = 1; id <= 3; ++id) {
        EventClass event = number();
        event.id = id * 20;  // the last two take extended headers
        ASSERT_TRUE(writer.add(event));
        EXPECT_EQ(count(), (id - 1) * 2 * 10);
        for (const std::uint64_t lane : {0U, 1U}) {
            events.clear();
            for (std::uint32_t n = 0; n < 10; ++n) {
                events.event(event.id, id * 1'000 + n);
                events.put(n);
            }
            ASSERT_TRUE(writer.write({.stream_instance = lane,
                                      .timestamp_begin = events.first(),
                                      .timestamp_end = events.last(),
                                      .sequence_number = id - 1},
                                     events.events()));
            EXPECT_EQ(count(), (id - 1) * 2 * 10 + (lane + 1) * 10);
        }
    }
    EXPECT_TRUE(writer.finish());
    EXPECT_EQ(count(), 60U);
}

TEST(Uuid, Text) {
    const Uuid uuid = random_uuid(), other = random_uuid();
    EXPECT_NE(uuid, other);
    const std::string text = text_of(uuid);
    ASSERT_EQ(text.size(), 36U);
    EXPECT_EQ(text[14], '4') << text;
}

}  // namespace
}  // namespace cloister::ctf
