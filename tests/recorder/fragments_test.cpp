// Events of any size through the recorder: written, judged by babeltrace2, and put together again.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cloister/record.hpp>
#include <cloister/trace.hpp>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <thread>

#include <fmt/format.h>

#include "../core/rseq.hpp"
#include "../scratch.hpp"
#include "cloister/core/lane_reader.hpp"
#include "ctf/events.hpp"
#include "ctf/metadata_text.hpp"
#include "ctf/show.hpp"
#include "recorder/extract.hpp"
#include "recorder/recorder.hpp"

namespace {

using namespace cloister::recorder;
using cloister::core::Mode;
using cloister::core::StagedEvent;
using cloister::core::Wrote;
using cloister::ctf::Cursor;
using testing::HasSubstr;
namespace ctf = cloister::ctf;

constexpr std::uint32_t kText = 0, kNumber = 1;

SegmentOptions options(Mode mode, std::uint32_t slots, std::uint32_t size) {
    return {.path = {}, .channels = {{"flight", {.slots = slots, .size = size, .mode = mode}}}};
}

std::unique_ptr<Recorder> make(const SegmentOptions& options) {
    auto made = Recorder::create(options);
    if (!made) ADD_FAILURE() << made.error().text();
    auto& recorder = **made;
    ctf::EventClass text{.name = "book:text", .id = kText, .fields = {}};
    text.fields = {ctf::Field::of_integer("n", {.bits = 32}), ctf::Field::of_string("text")};
    ctf::EventClass number{.name = "book:number", .id = kNumber, .fields = {}};
    number.fields = {ctf::Field::of_integer("n", {.bits = 32})};
    EXPECT_TRUE(recorder.declare(0, kText, ctf::event_text(text)));
    EXPECT_TRUE(recorder.declare(0, kNumber, ctf::event_text(number)));
    return std::move(*made);
}

void on_cpu(std::size_t cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    ASSERT_EQ(sched_setaffinity(0, sizeof set, &set), 0);
}

// Another letter in each place, so that no two pieces are the same.
std::string letters(std::size_t bytes, std::uint32_t n) {
    std::string out(bytes, ' ');
    for (std::size_t i = 0; i < bytes; ++i) out[i] = static_cast<char>('a' + (i * 7 + i / 977 + n) % 26);
    return out;
}

void append(StagedEvent& event, std::uint32_t n, const std::string& text) {
    (void)event.append(&n, sizeof n);
    (void)event.append(text.c_str(), text.size() + 1);
}

constexpr std::uint64_t kNoCpu = UINT64_MAX;

struct Shown {
    std::string name, incomplete;
    std::uint32_t n = 0;
    std::string text;
    std::uint64_t cpu = 0;
    std::int64_t ns = 0;
};

std::vector<Shown> read(const std::string& directory, std::optional<std::int64_t> from = {},
                        std::optional<std::int64_t> to = {}) {
    const auto traces = ctf::Trace::open_all(directory);
    EXPECT_TRUE(traces);
    ctf::Events events(*traces);
    events.limit(from, to);
    std::vector<Shown> out;
    std::vector<ctf::Value> values;
    for (auto step = events.next(); step != Cursor::Step::end; step = events.next()) {
        EXPECT_NE(step, Cursor::Step::broken) << events.error().text();
        if (step != Cursor::Step::event) continue;
        Shown one;
        one.name = events.event().name;
        one.cpu = events.packet().cpu.value_or(kNoCpu);
        one.ns = events.ns();
        EXPECT_TRUE(events.fields(values));
        if (!values.empty()) one.n = static_cast<std::uint32_t>(values[0].bits);
        if (values.size() > 1) one.text = values[1].text;
        if (events.incomplete()) ctf::append_text(one.incomplete, *events.incomplete());
        out.push_back(std::move(one));
    }
    return out;
}

// The fragments, as babeltrace2 shows them; it must have nothing to complain about but what was discarded.
int babeltrace2_fragments(const std::string& directory) {
    const std::string errors = directory + ".stderr";
    FILE* pipe = popen(fmt::format("babeltrace2 {} 2>{}", directory, errors).c_str(), "r");
    int fragments = 0;
    char* line = nullptr;
    std::size_t room = 0;
    while (getline(&line, &room, pipe) > 0) fragments += std::strstr(line, "cloister:fragment: ") != nullptr;
    std::free(line);
    EXPECT_EQ(pclose(pipe), 0);
    std::ifstream said(errors);
    for (std::string text; std::getline(said, text);)
        EXPECT_TRUE(text.starts_with("WARNING: Tracer discarded")) << text;
    return fragments;
}

class Fragments : public testing::Test {
protected:
    std::vector<Shown> shown(Recorder& recorder) {
        const std::string trace = folder_ / fmt::format("trace{}", count_++);
        const auto done = snapshot(recorder.segment(), trace);
        EXPECT_TRUE(done);
        fragments_ = babeltrace2_fragments(trace);
        trace_ = trace;
        return read(trace);
    }
    cloister::tests::Scratch folder_;
    std::string trace_;
    int count_ = 0, fragments_ = 0;
};

TEST_F(Fragments, EverySizeAroundALimitComesBack) {
    const auto recorder = make(options(Mode::overwrite, 64, 4096));
    const std::uint32_t largest = recorder->largest(0), part = largest - cloister::core::kFragmentHead;
    std::vector<std::size_t> sizes{0, 1, 100};
    for (const std::uint32_t base : {part, largest, 2 * part, part + largest, 3 * part, 20 * part})
        for (std::uint32_t near = base - 5; near <= base + 5; ++near) sizes.push_back(near - 5);  // n, and the NUL
    for (const std::size_t size : sizes) {
        const auto fresh = make(options(Mode::overwrite, 64, 4096));
        const std::string text = letters(size, 3);
        StagedEvent event = fresh->begin(0, kText);
        append(event, 7, text);
        EXPECT_EQ(event.commit(), Wrote::done);
        EXPECT_EQ(event.commit(), Wrote::done) << "once";
        const auto found = shown(*fresh);
        ASSERT_EQ(found.size(), 1U) << size;
        EXPECT_EQ(found[0].text, text) << size;
        EXPECT_EQ(found[0].n, 7U);
        EXPECT_EQ(found[0].incomplete, "");
        const std::size_t bytes = size + 5;
        EXPECT_EQ(static_cast<std::size_t>(fragments_), bytes <= largest ? 0 : (bytes + part - 1) / part) << size;
    }
}

TEST_F(Fragments, InPiecesOfAnySizeAndOneWriteOfAll) {
    const auto recorder = make(options(Mode::overwrite, 64, 16384));
    const std::string text = letters(50'000, 1);
    const std::uint32_t n = 5;
    const std::string payload = std::string(reinterpret_cast<const char*>(&n), 4) + text + '\0';
    EXPECT_EQ(recorder->write(0, kText, payload.data(), static_cast<std::uint32_t>(payload.size())), Wrote::done);
    StagedEvent event = recorder->begin(0, kText);
    for (std::size_t at = 0, piece = 0; at < payload.size(); at += piece, piece = (piece * 3 + 1) % 5000)
        EXPECT_EQ(event.append(payload.data() + at, std::min(piece, payload.size() - at)), Wrote::done);
    EXPECT_EQ(event.commit(), Wrote::done);
    const auto found = shown(*recorder);
    ASSERT_EQ(found.size(), 2U);
    for (const auto& one : found) EXPECT_TRUE(one.text == text && one.n == 5 && one.incomplete.empty());
}

TEST_F(Fragments, OtherEventsAndAMigrationComeBetween) {
    const auto recorder = make(options(Mode::overwrite, 16, 4096));
    ASSERT_GE(recorder->segment().cpus(), 2U);
    const std::string outer_text = letters(6'000, 1), inner_text = letters(5'000, 2);
    StagedEvent outer = recorder->begin(0, kText);
    std::uint32_t n = 1, numbers = 0;
    (void)outer.append(&n, sizeof n);
    for (std::size_t at = 0; at < outer_text.size() + 1; at += 1'000) {
        on_cpu(at / 1'000 % 2);
        EXPECT_EQ(recorder->write(0, kNumber, &numbers, sizeof numbers), Wrote::done);
        ++numbers;
        (void)outer.append(outer_text.c_str() + at, std::min<std::size_t>(1'000, outer_text.size() + 1 - at));
        if (at != 3'000) continue;
        StagedEvent inner = recorder->begin(0, kText);
        append(inner, 2, inner_text);
        EXPECT_EQ(inner.commit(), Wrote::done);
    }
    on_cpu(1);
    EXPECT_EQ(outer.commit(), Wrote::done);
    const auto found = shown(*recorder);
    ASSERT_EQ(found.size(), numbers + 2U);
    EXPECT_EQ(found.back().text, outer_text) << "the outer one was committed last";
    EXPECT_EQ(found.back().cpu, 1U);
    int inner = 0;
    for (const auto& one : found) {
        EXPECT_EQ(one.incomplete, "");
        inner += one.text == inner_text;
    }
    EXPECT_EQ(inner, 1);

    // Only what is in the range: an event counts at its commit, and what it had before that is looked up.
    for (std::size_t first = 0; first < found.size(); ++first)
        for (std::size_t last = first; last < found.size(); ++last) {
            const auto part = read(trace_, found[first].ns, found[last].ns);
            ASSERT_EQ(part.size(), last - first + 1) << first << " to " << last;
            for (std::size_t i = 0; i < part.size(); ++i) {
                ASSERT_EQ(part[i].text, found[first + i].text);
                ASSERT_EQ(part[i].incomplete, "");
            }
        }
}

TEST_F(Fragments, AThreadLosesItsRestartableSequencesInTheMiddle) {
    const auto recorder = make(options(Mode::overwrite, 16, 4096));
    const std::string text = letters(6'000, 1);
    bool unregistered = false;
    std::thread([&] {
        StagedEvent event = recorder->begin(0, kText);
        const std::uint32_t n = 1;
        (void)event.append(&n, sizeof n);
        (void)event.append(text.c_str(), 3'000);
        unregistered = cloister::core::test::unregister();
        (void)event.append(text.c_str() + 3'000, text.size() + 1 - 3'000);
        EXPECT_EQ(event.commit(), Wrote::done);
    }).join();
    ASSERT_TRUE(unregistered);
    const auto found = shown(*recorder);
    ASSERT_EQ(found.size(), 1U);
    EXPECT_EQ(found[0].text, text) << "half of it in a lane, half in the spill lane";
    EXPECT_EQ(found[0].incomplete, "");
    EXPECT_EQ(found[0].cpu, kNoCpu);
}

TEST_F(Fragments, ASmallOneThatIsDroppedLeavesNothing) {
    const auto recorder = make(options(Mode::overwrite, 16, 4096));
    {
        StagedEvent event = recorder->begin(0, kText);
        append(event, 1, letters(recorder->largest(0) - 5, 1));
    }
    const std::uint32_t n = 9;
    ASSERT_EQ(recorder->write(0, kNumber, &n, sizeof n), Wrote::done);
    EXPECT_EQ(shown(*recorder).size(), 1U);
}

TEST_F(Fragments, ALargeOneThatIsDroppedShowsAsAbandoned) {
    const auto recorder = make(options(Mode::overwrite, 16, 4096));
    {
        StagedEvent event = recorder->begin(0, kText);
        append(event, 1, letters(3'000, 1));
    }
    const std::uint32_t n = 9;
    ASSERT_EQ(recorder->write(0, kNumber, &n, sizeof n), Wrote::done);
    const auto found = shown(*recorder);
    ASSERT_EQ(found.size(), 2U);
    EXPECT_EQ(found[0].incomplete, "incomplete: 3 fragments, then abandoned");
    EXPECT_EQ(found[0].text, letters(3'000, 1).substr(0, found[0].text.size()));
    EXPECT_GT(found[0].text.size(), 2'500U);
    EXPECT_EQ(found[1].n, 9U) << "it stands where it was dropped";
}

TEST_F(Fragments, DropsInTheMiddleAreCountedAndShown) {
    const auto recorder = make(options(Mode::discard, 2, 4096));
    on_cpu(0);
    // Room for six fragments of 1 KiB (three in a sub-buffer, whose first 84 bytes are a packet's header), and behind
    // them for the last, which is short. All between them are one loss.
    StagedEvent event = recorder->begin(0, kText);
    append(event, 1, letters(20'000, 1));
    EXPECT_EQ(event.commit(), Wrote::dropped);
    const auto found = shown(*recorder);
    ASSERT_EQ(found.size(), 1U);
    EXPECT_THAT(found[0].incomplete, HasSubstr("incomplete: 7 of 21 fragments"));
    EXPECT_EQ(found[0].text, letters(20'000, 1).substr(0, found[0].text.size()));
    EXPECT_EQ(cloister::core::lost_of(recorder->segment().lane(0, 0)), 1U);
}

TEST_F(Fragments, OneThatFindsNoRoomAtAllIsOneLoss) {
    const auto recorder = make(options(Mode::discard, 2, 4096));
    on_cpu(0);
    const std::uint32_t n = 1;
    while (recorder->write(0, kNumber, &n, sizeof n) == Wrote::done) continue;
    const auto before = cloister::core::lost_of(recorder->segment().lane(0, 0));
    StagedEvent event = recorder->begin(0, kText);
    append(event, 1, letters(20'000, 1));
    EXPECT_EQ(event.commit(), Wrote::dropped);
    EXPECT_EQ(cloister::core::lost_of(recorder->segment().lane(0, 0)), before + 1);
    for (const auto& one : shown(*recorder)) EXPECT_EQ(one.name, "book:number");
}

TEST_F(Fragments, WhoseBeginWasOverwrittenAreShownAsIncomplete) {
    const auto recorder = make(options(Mode::overwrite, 2, 4096));
    on_cpu(0);
    StagedEvent event = recorder->begin(0, kText);
    append(event, 1, letters(20'000, 1));
    EXPECT_EQ(event.commit(), Wrote::done);
    const auto found = shown(*recorder);
    ASSERT_EQ(found.size(), 1U);
    EXPECT_THAT(found[0].incomplete, HasSubstr(" of 21 fragments"));
    EXPECT_EQ(found[0].text, "");
}

TEST_F(Fragments, OfAProgramThatWasKilledAreThere) {
    auto segment = options(Mode::overwrite, 16, 4096);
    segment.path = folder_ / "segment";
    const pid_t child = fork();
    if (child == 0) {
        const auto recorder = make(segment);
        StagedEvent whole = recorder->begin(0, kText);
        append(whole, 1, letters(4'000, 1));
        (void)whole.commit();
        StagedEvent event = recorder->begin(0, kText);
        append(event, 2, letters(4'000, 2));
        kill(getpid(), SIGKILL);
    }
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status));
    const auto opened = Segment::open(segment.path, Segment::Access::read);
    ASSERT_TRUE(opened);
    ASSERT_TRUE(snapshot(*opened, folder_ / "trace"));
    EXPECT_EQ(babeltrace2_fragments(folder_ / "trace"), 9);
    const auto found = read(folder_ / "trace");
    ASSERT_EQ(found.size(), 2U);
    EXPECT_EQ(found[0].text, letters(4'000, 1));
    EXPECT_EQ(found[1].incomplete, "incomplete: 4 fragments, the last is missing");
    EXPECT_EQ(found[1].text, letters(4'000, 2).substr(
                                 0, 4 * (1024 - cloister::core::kLongHeader - cloister::core::kFragmentHead) - 4));
}

TEST_F(Fragments, OfThreadsWithTheSameIdAreTheirOwn) {
    // Each has instances that begin above all that were used before.
    std::uint64_t before = 0;
    for (int i = 0; i < 20; ++i)
        std::thread([&] {
            const auto first = next_authorship(), second = next_authorship();
            EXPECT_EQ(second.instance, first.instance + 1);
            EXPECT_GT(first.instance, before);
            EXPECT_EQ(first.thread, static_cast<std::uint32_t>(gettid()));
            before = second.instance;
        }).join();
}

CLOISTER_EVENT(book, large, (std::uint64_t, order), (std::string_view, text));

class Tracepoints : public Fragments {
protected:
    void TearDown() override {
        EXPECT_TRUE(cloister::trace::disable("*"));
        cloister::record::stop();
    }
    std::vector<Shown> recorded() {
        const std::string trace = folder_ / fmt::format("trace{}", count_++);
        const auto done = cloister::record::snapshot(trace);
        EXPECT_TRUE(done) << done.error;
        fragments_ = babeltrace2_fragments(trace);
        return read(trace);
    }
};

TEST_F(Tracepoints, OfAnySizeThatTheyTakeAreNotRefused) {
    ASSERT_TRUE(cloister::record::start({.sub_buffers = 16, .sub_buffer_bytes = 4096}));
    ASSERT_TRUE(cloister::trace::enable("book:large"));
    const std::string text = letters(CLOISTER_PAYLOAD_MAX - 9, 4);
    CLOISTER_TRACE(book, large, 12U, text);
    const auto found = recorded();
    ASSERT_EQ(found.size(), 1U);
    EXPECT_EQ(found[0].n, 12U);
    EXPECT_EQ(found[0].text, text);
    EXPECT_EQ(fragments_, 5);
    EXPECT_EQ(cloister::record::losses().refused, 0U);
}

TEST_F(Tracepoints, BuiltInPiecesAreOfAnySize) {
    ASSERT_TRUE(cloister::record::start({.sub_buffers = 64}));
    const std::string text = letters(1'000'000, 4);
    const std::uint64_t order = 77;
    const auto build = [&] {
        cloister::record::LargeEvent event(CLOISTER_EVENT_CLASS(book, large));
        bool all = event.append(&order, sizeof order);
        for (std::size_t at = 0; at < text.size(); at += 10'000) all = event.append(text.data() + at, 10'000) && all;
        return event.append("", 1) && event.commit() && all;
    };
    EXPECT_FALSE(build()) << "it is not enabled";
    ASSERT_TRUE(cloister::trace::enable("book:large"));
    EXPECT_TRUE(build());
    const auto found = recorded();
    ASSERT_EQ(found.size(), 1U);
    EXPECT_EQ(found[0].text, text);
    EXPECT_EQ(found[0].n, 77U);
}

TEST_F(Tracepoints, OneThatOutlivesItsRecordingIsRefused) {
    ASSERT_TRUE(cloister::record::start());
    ASSERT_TRUE(cloister::trace::enable("book:large"));
    cloister::record::LargeEvent event(CLOISTER_EVENT_CLASS(book, large));
    const std::string text = letters(100'000, 4);
    EXPECT_TRUE(event.append(text.data(), text.size()));
    cloister::record::stop();
    EXPECT_FALSE(event.append(text.data(), text.size()));
    ASSERT_TRUE(cloister::record::start());
    EXPECT_FALSE(event.commit()) << "nor is it part of the next one";
    EXPECT_TRUE(recorded().empty());
}

}  // namespace
