// Several channels: which events go where, what each of them loses, and which of them are read.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cloister/trace.hpp>

#include "recorder/extract.hpp"
#include "recorder/recording.hpp"

namespace {

using cloister::tests::count_of;
using cloister::tests::lines_of;
using cloister::tests::Recording;
using testing::HasSubstr;

CLOISTER_EVENT(chan, often, (std::uint64_t, n));
CLOISTER_EVENT_WITH(CLOISTER_ERROR, 0, chan, seldom, (std::uint64_t, n), (const char*, why));

class Channels : public Recording {
protected:
    static void often(std::uint64_t count) {
        for (std::uint64_t n = 0; n < count; ++n) CLOISTER_TRACE(chan, often, n);
    }
};

TEST_F(Channels, AnEventGoesIntoEachChannelThatWantsIt) {
    ASSERT_TRUE(cloister::record::start(
        {.channels = {{.name = "all"},
                      {.name = "grave", .events = {{.level = CLOISTER_WARNING}}},
                      {.name = "some", .events = {{.glob = "chan:often", .filter = "n < 2"}, {.filter = "n >= 9"}}},
                      {.name = "none", .events = {}}}}));
    ASSERT_TRUE(cloister::trace::enable("chan:*"));
    often(10);
    CLOISTER_TRACE(chan, seldom, 9, "odd");
    CLOISTER_TRACE(chan, seldom, 1, "even");
    const auto found = lines();
    EXPECT_EQ(count_of(found, "chan:"), 12U + 2U + 4U);

    const auto of = [&](const std::string& channel) { return lines(snapshot({channel})); };
    EXPECT_EQ(count_of(of("all"), "chan:often"), 10U);
    EXPECT_EQ(count_of(of("all"), "chan:seldom"), 2U);
    EXPECT_EQ(count_of(of("grave"), "chan:seldom"), 2U);
    EXPECT_EQ(of("grave").size(), 2U);
    const auto some = of("some");
    ASSERT_EQ(some.size(), 4U);
    EXPECT_THAT(some[0], HasSubstr("chan:often: { cpu_id = "));
    EXPECT_THAT(some[1], HasSubstr("{ n = 1 }"));
    EXPECT_THAT(some[2], HasSubstr("{ n = 9 }"));
    EXPECT_THAT(some[3], HasSubstr("{ n = 9, why = \"odd\" }"));
    EXPECT_EQ(of("none").size(), 0U);
}

TEST_F(Channels, WhatHappensOftenDoesNotOverwriteWhatHappensSeldom) {
    ASSERT_TRUE(cloister::record::start(
        {.channels = {{.name = "often", .sub_buffers = 2, .sub_buffer_bytes = 4096, .events = {{.glob = "chan:often"}}},
                      {.name = "seldom", .events = {{.glob = "chan:seldom"}}}}}));
    ASSERT_TRUE(cloister::trace::enable("chan:*"));
    CLOISTER_TRACE(chan, seldom, 1, "first");
    often(100'000);
    const auto found = lines();
    EXPECT_EQ(count_of(found, "\"first\""), 1U);
    EXPECT_EQ(count_of(found, "{ n = 0 }"), 0U);
}

TEST_F(Channels, EachCountsItsLosses) {
    ASSERT_TRUE(cloister::record::start(
        {.channels = {{.name = "small", .sub_buffers = 2, .sub_buffer_bytes = 4096, .discard = true},
                      {.name = "large", .sub_buffers = 64}}}));
    ASSERT_TRUE(cloister::trace::enable("chan:*"));
    constexpr std::uint64_t kMany = 20'000;
    often(kMany);
    const std::string trace = snapshot();
    const auto small = cloister::record::losses(0), large = cloister::record::losses(1);
    EXPECT_GT(small.dropped, 0U);
    EXPECT_EQ(large.dropped, 0U);
    EXPECT_EQ(cloister::record::losses().dropped, small.dropped);
    EXPECT_EQ(small.refused + large.refused + cloister::record::losses(16).dropped, 0U);
    const auto all = lines(trace);
    EXPECT_EQ(count_of(all, "chan:often") + small.dropped, 2 * kMany);
    cloister::record::stop();
    EXPECT_EQ(cloister::record::losses(0).dropped, small.dropped) << "it may be asked afterwards";
    ASSERT_TRUE(cloister::record::start());
    EXPECT_EQ(cloister::record::losses().dropped + cloister::record::losses().refused, 0U);
}

TEST_F(Channels, OneDrainForEach) {
    using cloister::recorder::Drain;
    using cloister::recorder::Segment;
    const std::string path = folder_ + "/segment";
    ASSERT_TRUE(cloister::record::start({.path = path, .channels = {{.name = "one"}, {.name = "two"}}}));
    ASSERT_TRUE(cloister::trace::enable("chan:*"));
    often(10);
    const auto begin = [&](const std::string& trace, const std::vector<std::string>& channels) {
        return Drain::begin(*Segment::open(path, Segment::Access::drain), folder_ + trace, channels);
    };
    auto one = begin("/one", {"one"});
    ASSERT_TRUE(one) << one.error().text();
    const auto again = begin("/again", {});
    ASSERT_FALSE(again);
    EXPECT_THAT(again.error().text(), HasSubstr("channel one"));
    auto two = begin("/two", {"two"});
    ASSERT_TRUE(two) << two.error().text();
    ASSERT_TRUE(one->finish());
    EXPECT_EQ(count_of(lines(folder_ + "/one"), "chan:often"), 10U);
    EXPECT_THAT(begin("/three", {"three"}).error().text(), HasSubstr("one of: one, two"));
}

TEST_F(Channels, BadOptionsTeach) {
    const auto error = [&](std::vector<cloister::record::Channel> channels) {
        const std::string path = folder_ + "/segment";
        std::string text = cloister::record::start({.path = path, .channels = std::move(channels)}).error;
        EXPECT_FALSE(std::filesystem::exists(path)) << "nothing was done";
        return text;
    };
    EXPECT_THAT(error(std::vector<cloister::record::Channel>(17)), HasSubstr("1 to 16"));
    EXPECT_THAT(error({{.name = "a"}, {.name = "a"}}), HasSubstr("the same name"));
    for (const char* name : {"", "a-b", "a/b", "modules", "metadata", "index"})
        EXPECT_THAT(error({{.name = name}}), HasSubstr("letters, digits and '_'")) << name;
    EXPECT_THAT(error({{.events = {{.filter = "n <"}}}}), HasSubstr("position"));
    EXPECT_THAT(error({{.events = {{.glob = "chan:*", .filter = "why == \"x\""}}}}),
                HasSubstr("does not fit chan:often"));
    ASSERT_TRUE(cloister::record::start());
    EXPECT_THAT(cloister::record::snapshot(folder_ + "/trace", {"flight", "other"}).error, HasSubstr("one of: flight"));
}

}  // namespace
