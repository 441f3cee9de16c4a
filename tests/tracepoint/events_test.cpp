// What an event looks like: nothing when off, its description, its payload when on.
#include <cloister/trace.hpp>

#include <gtest/gtest.h>

#include "events_c.h"
#include "inline_event.hpp"
#include "tracepoint/collect.hpp"

namespace cloister::tests {
namespace {

enum class Side : std::int16_t { buy = -2, sell = 7 };
CLOISTER_ENUM(Side, (buy), (sell));
enum Unnamed : unsigned char { kOne = 1 };

using Prices = std::span<const double>;
using Triple = std::array<std::uint16_t, 3>;

CLOISTER_EVENT(shape, none);
CLOISTER_EVENT(shape, two, (int, a), (std::int64_t, b));
CLOISTER_EVENT(shape, scalars, (std::uint8_t, u8), (std::int16_t, i16), (float, real), (bool, flag), (char, letter),
               (const void*, pointer), (Side, side), (Unnamed, unnamed));
CLOISTER_EVENT(shape, variable, (std::string_view, view), (const char*, text), (Prices, prices), (Triple, triple));
CLOISTER_EVENT(shape, big, (std::string_view, view), (Prices, prices), (int, last));
CLOISTER_EVENT(shape, sixteen, (int, a), (int, b), (int, c), (int, d), (int, e), (int, f), (int, g), (int, h), (int, i),
               (int, j), (int, k), (int, l), (int, m), (int, n), (int, o), (int, p));
CLOISTER_EVENT_WITH(CLOISTER_ERROR, CLOISTER_CALL_STACK, level, error, (int, code));
CLOISTER_EVENT_WITH(CLOISTER_DEBUG, 0, level, debug, (int, code));

int evaluations = 0;
int evaluate(int value) {
    ++evaluations;
    return value;
}

__attribute__((noinline)) void fire_two(int a, std::int64_t b) { CLOISTER_TRACE(shape, two, evaluate(a), b); }

TEST(Event, EvaluatesNothingWhenOff) {
    evaluations = 0;
    fire_two(1, 2);
    EXPECT_EQ(evaluations, 0);
    {
        Collector collector("shape:two");
        fire_two(3, -4);
        ASSERT_EQ(collector.seen.size(), 1U);
        EXPECT_EQ(collector.seen[0].payload, packed(3, std::int64_t{-4}));
        EXPECT_EQ(evaluations, 1);
    }
    fire_two(5, 6);
    EXPECT_EQ(evaluations, 1);
}

TEST(Event, IsANopWhenOffAndAJumpWhenOn) {
    const auto sites = sites_of("shape", "two");
    ASSERT_FALSE(sites.empty());
    for (const auto* site : sites) EXPECT_EQ(bytes_of(*site), kNop);
    {
        Collector collector("shape:two");
        for (const auto* site : sites) {
            const Bytes bytes = bytes_of(*site);
            EXPECT_EQ(bytes[0], 0xe9);
            std::int32_t distance = 0;
            std::memcpy(&distance, bytes.data() + 1, sizeof distance);
            EXPECT_EQ(site->nop + 5 + distance, site->on);
        }
    }
    for (const auto* site : sites) EXPECT_EQ(bytes_of(*site), kNop);
}

TEST(Event, LaysOutScalars) {
    Collector collector("shape:*");
    CLOISTER_TRACE(shape, none);
    CLOISTER_TRACE(shape, scalars, 200, -3, 1.5F, true, 'x', &collector, Side::buy, kOne);
    CLOISTER_TRACE(shape, sixteen, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16);
    ASSERT_EQ(collector.seen.size(), 3U);
    EXPECT_EQ(collector.seen[0].name, "shape:none");
    EXPECT_EQ(collector.seen[0].payload, "");
    const Collector* const pointer = &collector;
    EXPECT_EQ(collector.seen[1].payload,
              packed(std::uint8_t{200}, std::int16_t{-3}, 1.5F, true, 'x', pointer, std::int16_t{-2}, std::uint8_t{1}));
    EXPECT_EQ(collector.seen[2].payload, packed(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16));
}

TEST(Event, LaysOutStringsAndSequences) {
    Collector collector("shape:variable");
    const std::array<double, 2> prices = {1.25, -2};
    CLOISTER_TRACE(shape, variable, std::string_view("abc\0def", 7), "xy", prices, (Triple{1, 2, 3}));
    CLOISTER_TRACE(shape, variable, std::string_view(), nullptr, Prices(), Triple());
    ASSERT_EQ(collector.seen.size(), 2U);
    EXPECT_EQ(collector.seen[0].payload, packed(std::string("abc\0xy\0", 7), 2U, 1.25, -2.0, 3U, Triple{1, 2, 3}));
    EXPECT_EQ(collector.seen[1].payload, packed(std::string("\0\0", 2), 0U, 3U, Triple{}));
    EXPECT_EQ(collector.seen[0].clipped, 0U);
}

TEST(Event, ClipsWhatIsTooLongAndCountsIt) {
    const auto before = cloister_trace_losses().clipped;
    Collector collector("shape:big");
    const std::string text(5000, 't');
    const std::vector<double> prices(1000, 4.5);
    CLOISTER_TRACE(shape, big, text, prices, 9);
    CLOISTER_TRACE(shape, big, "short", prices, 9);
    ASSERT_EQ(collector.seen.size(), 2U);
    // (4096 - 1 - 4 - 4) / 2 for each; 255 whole elements.
    EXPECT_EQ(
        collector.seen[0].payload, packed(std::string(2043, 't') + '\0', 255U, std::string(), std::string()) + [&] {
            std::string all;
            for (int i = 0; i < 255; ++i) all += packed(4.5);
            return all;
        }() + packed(9));
    EXPECT_LE(collector.seen[0].payload.size(), std::size_t{CLOISTER_PAYLOAD_MAX});
    EXPECT_EQ(collector.seen[0].clipped, 2U);
    EXPECT_EQ(collector.seen[1].clipped, 1U);
    EXPECT_EQ(cloister_trace_losses().clipped - before, 3U);
}

TEST(Event, DescribesItsFields) {
    const cloister_class& scalars = cloister_class_shape_scalars;
    ASSERT_EQ(scalars.field_count, 8U);
    EXPECT_STREQ(scalars.provider, "shape");
    EXPECT_STREQ(scalars.name, "scalars");
    const struct {
        const char* name;
        int kind, bits, is_signed, base;
    } expected[] = {{"u8", CLOISTER_INTEGER, 8, 0, 10},        {"i16", CLOISTER_INTEGER, 16, 1, 10},
                    {"real", CLOISTER_REAL, 32, 1, 10},        {"flag", CLOISTER_BOOLEAN, 8, 0, 10},
                    {"letter", CLOISTER_INTEGER, 8, 1, 10},    {"pointer", CLOISTER_POINTER, 64, 0, 16},
                    {"side", CLOISTER_ENUMERATION, 16, 1, 10}, {"unnamed", CLOISTER_ENUMERATION, 8, 0, 10}};
    for (int i = 0; i < 8; ++i) {
        EXPECT_STREQ(scalars.fields[i].name, expected[i].name);
        EXPECT_EQ(scalars.fields[i].kind, expected[i].kind) << expected[i].name;
        EXPECT_EQ(scalars.fields[i].bits, expected[i].bits) << expected[i].name;
        EXPECT_EQ(scalars.fields[i].is_signed, expected[i].is_signed) << expected[i].name;
        EXPECT_EQ(scalars.fields[i].base, expected[i].base) << expected[i].name;
        EXPECT_EQ(scalars.fields[i].is_sequence, 0) << expected[i].name;
    }
    ASSERT_EQ(scalars.fields[6].enumerator_count, 2U);
    EXPECT_STREQ(scalars.fields[6].enumerators[0].name, "buy");
    EXPECT_EQ(scalars.fields[6].enumerators[0].value, -2);
    EXPECT_EQ(scalars.fields[6].enumerators[1].value, 7);
    EXPECT_EQ(scalars.fields[7].enumerators, nullptr);

    const cloister_class& variable = cloister_class_shape_variable;
    EXPECT_EQ(variable.fields[0].kind, CLOISTER_STRING);
    EXPECT_EQ(variable.fields[1].kind, CLOISTER_STRING);
    EXPECT_EQ(variable.fields[1].bits, 0);
    EXPECT_EQ(variable.fields[2].kind, CLOISTER_REAL);
    EXPECT_EQ(variable.fields[2].bits, 64);
    EXPECT_EQ(variable.fields[2].is_sequence, 1);
    EXPECT_EQ(variable.fields[3].bits, 16);
    EXPECT_EQ(cloister_class_level_error.level, CLOISTER_ERROR);
    EXPECT_EQ(cloister_class_level_error.flags, CLOISTER_CALL_STACK);
    EXPECT_EQ(cloister_class_shape_two.level, CLOISTER_INFO);
}

TEST(Event, IsTheSameInC) {
    Collector collector("c:*");
    const std::uint16_t values[] = {5, 6};
    fire_in_c(7, 2.5, "seven", values, 2);
    CLOISTER_TRACE(c, shared, 8, 3.5, "eight");  // the same class, from C++
    ASSERT_EQ(collector.seen.size(), 3U);
    EXPECT_EQ(collector.seen[0].payload, packed(std::uint64_t{7}, 2.5, std::string("seven\0", 6)));
    const void* const pointer = values;
    EXPECT_EQ(collector.seen[1].payload, packed(true, pointer, 2U, values[0], values[1], std::int8_t{-1}));
    EXPECT_EQ(collector.seen[2].payload, packed(std::uint64_t{8}, 3.5, std::string("eight\0", 6)));
    EXPECT_EQ(collector.seen[2].name, "c:shared");
    const cloister_class* const in_c = class_in_c();
    EXPECT_EQ(in_c, &cloister_class_c_shared);
    const cloister_class* const other = other_class_in_c();
    ASSERT_EQ(other->field_count, 4U);
    EXPECT_EQ(other->fields[0].kind, CLOISTER_BOOLEAN);
    EXPECT_EQ(other->fields[1].kind, CLOISTER_POINTER);
    EXPECT_EQ(other->fields[1].base, 16);
    EXPECT_EQ(other->fields[2].is_sequence, 1);
    EXPECT_EQ(other->fields[2].bits, 16);
    EXPECT_EQ(other->fields[2].is_signed, 0);
    EXPECT_EQ(other->fields[3].bits, 8);
    EXPECT_EQ(other->fields[3].is_signed, 1);
}

// Both units have their copies of the inline function and the template; what the linker keeps has valid records.
TEST(Event, WorksInInlineFunctionsAndTemplatesOfTwoUnits) {
    for (const auto* site : sites_of("shared", "inlined")) EXPECT_EQ(bytes_of(*site), kNop);
    Collector collector("shared:inlined");
    fire_inline(1);
    fire_template(short{2});
    fire_in_other_unit(3);
    ASSERT_EQ(collector.seen.size(), 4U);
    EXPECT_EQ(collector.seen[0].payload, packed(1));
    EXPECT_EQ(collector.seen[1].payload, packed(2));
    EXPECT_EQ(collector.seen[2].payload, packed(3));
    EXPECT_EQ(collector.seen[3].payload, packed(4));
}

TEST(Enable, FollowsGlobsAndLevels) {
    const auto fire = [] {
        CLOISTER_TRACE(level, error, 1);
        CLOISTER_TRACE(level, debug, 2);
    };
    std::vector<std::string> seen;
    const auto keep = [](void* data, const cloister_event* event) {
        static_cast<std::vector<std::string>*>(data)->emplace_back(event->event_class->name);
    };
    const auto probe = trace::add_probe("level:*", keep, &seen);
    ASSERT_TRUE(probe) << probe.error;
    const auto both = trace::enable("level:*");
    EXPECT_EQ(both.count, 2) << both.error;
    fire();
    EXPECT_EQ(seen, (std::vector<std::string>{"error", "debug"}));
    seen.clear();
    const auto grave = trace::enable("level:*", CLOISTER_WARNING);
    EXPECT_EQ(grave.count, 1) << grave.error;
    fire();
    EXPECT_EQ(seen, std::vector<std::string>{"error"});
    seen.clear();
    EXPECT_TRUE(trace::enable("level:d?bug"));  // later, so it decides
    EXPECT_TRUE(trace::disable("level:[e]*"));
    fire();
    EXPECT_EQ(seen, std::vector<std::string>{"debug"});
    seen.clear();
    EXPECT_EQ(trace::enable("nothing:*").count, 0);
    EXPECT_TRUE(trace::disable("*"));
    fire();
    EXPECT_TRUE(seen.empty());
    EXPECT_FALSE(trace::enable("level:*", 8));
    EXPECT_TRUE(trace::remove_probe(probe.count));
    EXPECT_FALSE(trace::remove_probe(probe.count));
    EXPECT_FALSE(trace::add_probe("level:*", keep, &seen, 64));
    EXPECT_TRUE(trace::synchronize());
}

TEST(Enable, ListsClasses) {
    std::vector<std::string> names;
    const auto visit = [](void* data, const cloister_class* event_class) {
        static_cast<std::vector<std::string>*>(data)->push_back(std::string(event_class->provider) + ":" +
                                                                event_class->name);
        return 0;
    };
    EXPECT_EQ(cloister_trace_classes(visit, &names), 0);
    for (const char* name : {"shape:two", "c:shared", "c:other", "shared:inlined"})
        EXPECT_EQ(std::count(names.begin(), names.end(), name), 1) << name;
}

}  // namespace
}  // namespace cloister::tests
