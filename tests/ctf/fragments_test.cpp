// Fragments put together: in order, interleaved, with gaps; and whatever they say, within bounds.
#include "ctf/fragments.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "ctf/metadata_text.hpp"
#include "memory_trace.hpp"

namespace cloister::ctf {
namespace {

std::string metadata() {
    Preamble preamble;
    preamble.channels = {{"book", 0}, {"other", 1}};
    std::string out = preamble_text(preamble);
    for (const std::uint32_t channel : {0U, 1U}) {
        out += event_text(fragment_class(channel));
        out += event_text({.name = "test:text", .id = 1, .stream_id = channel, .fields = {Field::of_string("text")}});
    }
    return out;
}

class Joining : public testing::Test {
protected:
    void SetUp() override {
        const auto compiled = layout_of(metadata());
        ASSERT_TRUE(compiled) << compiled.error().text();
        layout_ = *compiled;
        file_.emplace("book_0", layout_, std::span<const std::uint8_t>());
    }
    struct Part {
        std::uint64_t instance = 0;
        std::uint32_t index = 0, end = 0;
        std::string bytes = {};
        std::uint32_t thread = 1, id = 1;
        std::uint64_t channel = 0;
    };
    std::string add(Joiner& joiner, const Part& part) {
        Fragment fragment;
        fragment.head = {part.instance,
                         0,
                         part.thread,
                         part.id,
                         part.index,
                         part.end,
                         static_cast<std::uint32_t>(part.bytes.size())};
        fragment.bytes = {reinterpret_cast<const std::uint8_t*>(part.bytes.data()), part.bytes.size()};
        return joiner.add({layout_->stream(part.channel), part.thread, part.instance}, fragment,
                          {.file = &*file_, .packet = {}, .cycles = 0, .ns = ++now_, .context = {}});
    }
    // Those that have ended: their text, and what is missing of them.
    std::vector<std::string> ended(Joiner& joiner) {
        std::vector<std::string> out;
        std::vector<Value> values;
        std::size_t of_contexts = 0;
        while (const auto event = joiner.next_ended()) {
            std::string& line = out.emplace_back();
            line = event->fields(values, of_contexts);
            if (!values.empty()) line += values[0].text;
            if (!event->complete()) append_text(line += "; ", *event);
        }
        return out;
    }
    std::shared_ptr<const TraceLayout> layout_;
    std::optional<StreamFile> file_;
    std::int64_t now_ = 0;
};

using Lines = std::vector<std::string>;

TEST_F(Joining, TheClassIsKnownByItsFields) {
    for (const auto& event : layout_->streams.front().events) EXPECT_EQ(event.fragment, event.name != "test:text");
    // Another tracer's class of that name is an event as any other.
    EventClass other = fragment_class(0);
    for (std::size_t i = 0; i < other.fields.size(); ++i) {
        EventClass without = other;
        without.fields.erase(without.fields.begin() + static_cast<std::ptrdiff_t>(i));
        EventClass wider = other;
        wider.fields[i].integer.bits = 16;
        EventClass with_sign = other;
        with_sign.fields[i].integer.is_signed = true;
        for (const auto& changed : {without, wider, with_sign}) {
            Preamble preamble;
            preamble.channels = {{"book", 0}};
            const auto layout = layout_of(preamble_text(preamble) + event_text(changed));
            ASSERT_TRUE(layout) << layout.error().text();
            EXPECT_FALSE((*layout)->streams.front().events.front().fragment) << other.fields[i].name;
        }
    }
}

TEST_F(Joining, InOrder) {
    Joiner joiner;
    EXPECT_EQ(add(joiner, {.instance = 1, .bytes = "one"}), "");
    EXPECT_TRUE(ended(joiner).empty());
    EXPECT_EQ(add(joiner, {.instance = 1, .index = 1, .bytes = ", two"}), "");
    EXPECT_EQ(add(joiner, {.instance = 1, .index = 2, .end = 1, .bytes = std::string(1, '\0')}), "");
    EXPECT_EQ(ended(joiner), Lines{"one, two"});
    EXPECT_TRUE(joiner.empty());
}

TEST_F(Joining, InterleavedByThreadByInstanceAndByChannel) {
    Joiner joiner;
    std::vector<Part> parts;
    for (const std::uint64_t instance : {1U, 2U})
        for (const std::uint32_t thread : {1U, 2U})
            for (const std::uint64_t channel : {0U, 1U})
                parts.push_back({.instance = instance, .thread = thread, .channel = channel});
    for (std::uint32_t index = 0; index < 3; ++index)
        for (auto part : parts) {
            part.index = index;
            part.end = index == 2;
            part.bytes = std::string(1, static_cast<char>('a' + part.instance)) +
                         std::string(1, static_cast<char>('f' + part.thread)) +
                         std::string(1, static_cast<char>('k' + part.channel)) + (part.end ? std::string(1, '\0') : "");
            ASSERT_EQ(add(joiner, part), "");
        }
    EXPECT_EQ(ended(joiner), (Lines{"bgkbgkbgk", "bglbglbgl", "bhkbhkbhk", "bhlbhlbhl", "cgkcgkcgk", "cglcglcgl",
                                    "chkchkchk", "chlchlchl"}));
}

TEST_F(Joining, WhatFollowsAGapIsNotShown) {
    Joiner joiner;
    EXPECT_EQ(add(joiner, {.instance = 1, .bytes = "begin"}), "");
    EXPECT_EQ(add(joiner, {.instance = 1, .index = 3, .bytes = " middle"}), "");
    EXPECT_EQ(add(joiner, {.instance = 1, .index = 4, .end = 1, .bytes = " end"}), "");
    EXPECT_EQ(ended(joiner), Lines{"begin; incomplete: 3 of 5 fragments"});
    EXPECT_EQ(add(joiner, {.instance = 2, .index = UINT32_MAX, .end = 1, .bytes = "end"}), "");
    EXPECT_EQ(ended(joiner), Lines{"; incomplete: 1 of 4294967296 fragments"});
}

TEST_F(Joining, WithoutAnEndTheyEndWithAllInTheOrderOfTime) {
    Joiner joiner;
    for (const char* text : {"a", "b", "c", "d"})
        EXPECT_EQ(add(joiner, {.instance = static_cast<std::uint64_t>(text[0]), .bytes = text}), "");
    EXPECT_EQ(add(joiner, {.instance = 'a', .index = 1, .bytes = "again"}), "");
    EXPECT_TRUE(ended(joiner).empty());
    joiner.end_all();
    const std::string missing = "; incomplete: 1 fragment, the last is missing";
    EXPECT_EQ(ended(joiner), (Lines{"b" + missing, "c" + missing, "d" + missing,
                                    "aagain; incomplete: 2 fragments, the last is missing"}));
    EXPECT_TRUE(joiner.empty());
}

TEST_F(Joining, WhatCannotBeIsTold) {
    Joiner joiner;
    EXPECT_NE(add(joiner, {.instance = 1, .id = 2}), "");
    EXPECT_NE(add(joiner, {.instance = 1, .id = core::kFragmentId}), "");
    EXPECT_NE(add(joiner, {.instance = 1, .end = 3}), "");
    EXPECT_TRUE(joiner.empty());
    EXPECT_EQ(add(joiner, {.instance = 1, .index = 5}), "");
    for (const std::uint32_t index : {0U, 4U, 5U}) EXPECT_NE(add(joiner, {.instance = 1, .index = index}), "");
    EXPECT_EQ(add(joiner, {.instance = 1, .index = 6}), "");
}

TEST_F(Joining, OneWithoutEndTakesABoundedAmountOfMemory) {
    Joiner joiner(10'000);
    const std::string piece(1'000, 'x');
    std::size_t gave_way = 0;
    for (std::uint32_t index = 0; index < 100; ++index) {
        EXPECT_EQ(add(joiner, {.instance = 1, .index = index, .bytes = piece}), "");
        for (const auto& line : ended(joiner)) {
            EXPECT_LE(line.size(), 11'100U);
            EXPECT_NE(line.find("the last is missing"), std::string::npos);
            ++gave_way;
        }
    }
    EXPECT_GE(gave_way, 1U) << "never dropped silently";
}

TEST_F(Joining, TheOneThatHasWaitedLongestGivesWay) {
    Joiner joiner(3'500);
    const std::string piece(1'000, 'x');
    for (const std::uint64_t instance : {1U, 2U, 3U})
        EXPECT_EQ(add(joiner, {.instance = instance, .bytes = std::to_string(instance) + piece}), "");
    EXPECT_EQ(add(joiner, {.instance = 1, .index = 1, .bytes = piece}), "");
    const auto gone = ended(joiner);
    ASSERT_EQ(gone.size(), 1U);
    EXPECT_EQ(gone[0].front(), '2');
    EXPECT_TRUE(joiner.knows({layout_->stream(0), 1, 1}));
}

TEST_F(Joining, SoManyAtATimeAndNoMore) {
    Joiner joiner;
    std::size_t gave_way = 0;
    constexpr std::size_t kSurplus = 100;
    for (std::uint64_t n = 0; n < Joiner::kMostOpen + kSurplus; ++n) {
        ASSERT_EQ(add(joiner, {.instance = n, .bytes = "x"}), "");
        gave_way += ended(joiner).size();
    }
    EXPECT_EQ(gave_way, kSurplus);
    joiner.end_all();
    EXPECT_EQ(ended(joiner).size(), Joiner::kMostOpen);
}

TEST_F(Joining, CountingAsksForNoOrder) {
    FragmentCounts counts;
    const StreamLayout& channel = *layout_->stream(0);
    // {instance, index, end}: 1 is whole, backwards; 2 has no end; 3 a gap; 4 was abandoned.
    for (const auto& [instance, index, end] : std::vector<std::tuple<std::uint64_t, std::uint32_t, std::uint32_t>>{
             {1, 2, 1}, {2, 0, 0}, {1, 0, 0}, {3, 2, 1}, {3, 0, 0}, {4, 1, 2}, {1, 1, 0}, {4, 0, 0}})
        EXPECT_TRUE(counts.add(channel, {instance, 0, 1, 1, index, end, 0}, static_cast<std::int64_t>(instance)));
    EXPECT_FALSE(counts.add(channel, {5, 0, 1, 2, 0, 0, 0}, 5)) << "not declared";
    counts.end_all();
    ASSERT_EQ(counts.events.size(), 1U);
    EXPECT_EQ(counts.events.begin()->second, 4U);
    EXPECT_EQ(counts.incomplete, 3U);
    EXPECT_EQ(counts.first, 1);
    EXPECT_EQ(counts.last, 4);
}

}  // namespace
}  // namespace cloister::ctf
