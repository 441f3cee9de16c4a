#include "tracepoint/filter.hpp"

#include <cloister/trace.hpp>

#include <cstdint>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>

#include <gtest/gtest.h>

#include "tracepoint/collect.hpp"

namespace cloister::tracepoint {
namespace {

using tests::packed;

enum class Side : std::uint8_t { buy = 1, sell = 2 };
CLOISTER_ENUM(Side, (buy), (sell));
using Numbers = std::span<const std::int32_t>;

CLOISTER_EVENT(filter, event, (std::int8_t, small), (std::string_view, venue), (Numbers, numbers),
               (std::uint64_t, order), (double, price), (float, ratio), (bool, flag), (Side, side),
               (std::int64_t, big));
CLOISTER_EVENT(filter, other, (int, order));

struct Values {
    std::int8_t small = -5;
    std::string venue = "XETR";
    std::uint64_t order = 18'000'000'000'000'000'001U;
    double price = 100.5;
    float ratio = 0.5F;
    bool flag = true;
    Side side = Side::sell;
    std::int64_t big = std::numeric_limits<std::int64_t>::min();
};

bool passes(const std::string& text, const Values& v = {}) {
    const auto parsed = parse_filter(text);
    EXPECT_TRUE(parsed) << parsed.error().text();
    const auto program = compile_filter(*parsed, cloister_class_filter_event);
    EXPECT_TRUE(program) << program.error().text();
    const std::string payload =
        packed(v.small, v.venue + '\0', 2U, 7, 8, v.order, v.price, v.ratio, v.flag, v.side, v.big);
    const bool held = holds(**program, {&cloister_class_filter_event, payload.data(), payload.size(), 0, nullptr});
    std::free(const_cast<Program*>(*program));
    return held;
}

TEST(Filter, ComparesNumbersExactly) {
    for (const char* text : {"small == -5",
                             "small<0",
                             "small >= -5",
                             "order == 18000000000000000001",
                             "order > 18000000000000000000",
                             "order < 18000000000000000002",
                             "order != 18000000000000000000",
                             "price == 100.5",
                             "price > 100",
                             "price<=1005e-1",
                             "ratio == .5",
                             "ratio == 0x0.8",
                             "flag",
                             "flag == true",
                             "flag != 0",
                             "side == sell",
                             "side == 2",
                             "side > buy",
                             "big == -9223372036854775808",
                             "big < -9223372036854775807",
                             "small == -5.0",
                             "order > -1",
                             "small < +3"})
        EXPECT_TRUE(passes(text)) << text;
    for (const char* text : {"small == 251", "small > 0", "order == 18000000000000000000", "order < 0", "price > 100.5",
                             "price == 100", "!flag", "flag == false", "side == buy", "big > 0", "small != -5"})
        EXPECT_FALSE(passes(text)) << text;
    const Values nan{.price = std::numeric_limits<double>::quiet_NaN()};
    EXPECT_FALSE(passes("price < 0 || price >= 0 || price == 0", nan));
    EXPECT_TRUE(passes("price != 0 && !(price < 0)", nan));
}

TEST(Filter, ComparesStrings) {
    EXPECT_TRUE(passes("venue == \"XETR\""));
    EXPECT_FALSE(passes("venue == \"XETRA\""));
    EXPECT_FALSE(passes("venue == \"XET\""));
    EXPECT_TRUE(passes("venue != \"\""));
    EXPECT_TRUE(passes("venue == \"\"", {.venue = ""}));
    EXPECT_TRUE(passes(R"(venue == "a\"b\\")", {.venue = "a\"b\\"}));
    EXPECT_TRUE(passes("venue==\"a && b\"", {.venue = "a && b"}));
}

TEST(Filter, JoinsAndNests) {
    EXPECT_TRUE(passes("small == -5 && price > 1"));
    EXPECT_FALSE(passes("small == -5 && price < 1"));
    EXPECT_TRUE(passes("small == 0 || price > 1"));
    EXPECT_TRUE(passes("small == 0 && price > 1 || flag"));  // && binds tighter
    EXPECT_FALSE(passes("small == 0 && (price > 1 || flag)"));
    EXPECT_TRUE(passes("!(small == 0) && !(!flag)"));
    EXPECT_TRUE(passes("!!flag"));
    EXPECT_FALSE(passes("!(flag || small == 0)"));
}

// Random expressions over three flags, against their truth tables.
struct Random {
    std::mt19937 rng;
    int left = 12;
    std::string text(int depth) {
        switch (depth > 5 || left <= 0 ? 0 : rng() % 4) {
            case 1:
                return "!" + text(depth + 1);
            case 2:
                return "(" + text(depth + 1) + " && " + text(depth + 1) + ")";
            case 3:
                return "(" + text(depth + 1) + " || " + text(depth + 1) + ")";
            default:
                --left;
                return std::string(1, "sfo"[rng() % 3]);
        }
    }
};

bool truth(const std::string& text, std::size_t& at, const bool (&values)[3]) {
    if (text[at] == '!') return !truth(text, ++at, values);
    if (text[at] != '(') return values[std::string("sfo").find(text[at++])];
    const bool left = truth(text, ++at, values);
    const bool both = text[at + 1] == '&';
    at += 4;
    const bool right = truth(text, at, values);
    ++at;
    return both ? left && right : left || right;
}

TEST(Filter, AgreesWithTruthTables) {
    for (unsigned seed = 0; seed < 2000; ++seed) {
        const std::string text = Random{std::mt19937(seed)}.text(0);
        std::string fields;
        for (const char c : text)
            fields += c == 's' ? std::string("small") : c == 'f' ? "flag" : c == 'o' ? "order" : std::string(1, c);
        for (unsigned bits = 0; bits < 8; ++bits) {
            const bool values[3] = {(bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0};
            Values v;
            v.small = values[0];
            v.flag = values[1];
            v.order = values[2];
            std::size_t at = 0;
            ASSERT_EQ(passes(fields, v), truth(text, at, values)) << fields << ' ' << bits;
        }
    }
}

TEST(Filter, ErrorsNameThePosition) {
    const struct {
        const char *text, *needs;
    } wrong[] = {{"price >", "position 8"},
                 {"price > > 1", "position 9"},
                 {"(price > 1", "position 11"},
                 {"price > 1)", "position 10"},
                 {"price > 1 & flag", "position 11"},
                 {"1 < price", "position 1"},
                 {"venue == \"x", "position 12"},
                 {"price > 10us", "position 11"},
                 {"&& flag", "position 1"},
                 {"flag &&", "position 8"},
                 {"!", "position 2"}};
    for (const auto& one : wrong) {
        const auto parsed = parse_filter(one.text);
        ASSERT_FALSE(parsed) << one.text;
        EXPECT_NE(parsed.error().needs.find(one.needs), std::string::npos) << one.text << '\n' << parsed.error().text();
    }
    const char* const unfit[] = {"nothing > 1",  "venue > \"a\"", "venue == 1",        "venue",       "price == \"a\"",
                                 "numbers == 1", "side == hold",  "flag && nope == 1", "price == buy"};
    for (const char* text : unfit) {
        const auto parsed = parse_filter(text);
        ASSERT_TRUE(parsed) << text;
        const auto program = compile_filter(*parsed, cloister_class_filter_event);
        ASSERT_FALSE(program) << text;
        EXPECT_NE(program.error().needs.find("position"), std::string::npos) << program.error().text();
        EXPECT_NE(program.error().what.find("filter:event"), std::string::npos);
    }
}

TEST(Filter, IsBounded) {
    std::string longest = "flag", nested = "flag";
    for (std::size_t i = 1; i < kTests; ++i) longest += " && flag";
    EXPECT_TRUE(passes(longest));
    EXPECT_FALSE(parse_filter(longest + " && flag"));
    for (int i = 0; i < 64; ++i) nested = "(" + nested + ")";
    EXPECT_TRUE(passes(nested));
    EXPECT_FALSE(parse_filter("(" + nested + ")"));
    EXPECT_FALSE(parse_filter(std::string(100'000, '!')));
    EXPECT_FALSE(parse_filter(std::string(100'000, '(')));
}

TEST(Filter, DecidesBeforeAProbeIsCalled) {
    tests::Collector collector("filter:*", "order >= 10");
    ASSERT_EQ(collector.error, "");
    for (int i = 0; i < 20; ++i) CLOISTER_TRACE(filter, other, i);
    EXPECT_EQ(collector.seen.size(), 10U);
    // What does not fit one of the classes changes nothing.
    const auto refused = trace::enable("filter:*", CLOISTER_DEBUG, "price > 1");
    EXPECT_FALSE(refused);
    EXPECT_NE(refused.error.find("filter:other"), std::string::npos) << refused.error;
    CLOISTER_TRACE(filter, other, 9);
    CLOISTER_TRACE(filter, other, 11);
    EXPECT_EQ(collector.seen.size(), 11U);
    CLOISTER_TRACE(filter, event, 1, "", Numbers(), 12, 0, 0, false, Side::buy, 0);
    EXPECT_EQ(collector.seen.size(), 12U);
}

}  // namespace
}  // namespace cloister::tracepoint
