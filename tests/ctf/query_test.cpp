#include "ctf/query.hpp"

#include <bit>
#include <cmath>
#include <memory>

#include <gtest/gtest.h>

namespace cloister::ctf {
namespace {

// The fields of one event, as a reader gives them.
class Event {
public:
    Event& integer(const std::string& name, std::int64_t value, std::vector<Label> labels = {}) {
        Type type;
        type.kind = labels.empty() ? Type::Kind::integer : Type::Kind::enumeration;
        type.is_signed = true;
        type.labels = std::move(labels);
        return add(name, std::move(type), Value::Kind::signed_integer, static_cast<std::uint64_t>(value));
    }
    Event& natural(const std::string& name, std::uint64_t value) {
        return add(name, {}, Value::Kind::unsigned_integer, value);
    }
    Event& real(const std::string& name, double value) {
        return add(name, {}, Value::Kind::real, std::bit_cast<std::uint64_t>(value));
    }
    Event& text(const std::string& name, std::string_view value) {
        add(name, {}, Value::Kind::text, 0);
        values.back().text = value;
        return *this;
    }
    Event& structure(const std::string& name) { return add(name, {}, Value::Kind::begin_structure, 0); }
    Event& array(const std::string& name) { return add(name, {}, Value::Kind::begin_array, 0); }
    Event& end() {
        values.push_back({Value::Kind::end, nullptr, 0, {}});
        return *this;
    }

    std::vector<Value> values;

private:
    Event& add(const std::string& name, Type type, Value::Kind kind, std::uint64_t bits) {
        fields_.push_back(
            std::make_unique<NamedField>(NamedField{name, std::make_shared<Type>(std::move(type)), true}));
        values.push_back({kind, fields_.back().get(), bits, {}});
        return *this;
    }
    std::vector<std::unique_ptr<NamedField>> fields_;
};

bool matches(const Event& event, std::string_view text, std::optional<std::uint64_t> cpu = std::nullopt) {
    const auto query = Query::parse(text);
    EXPECT_TRUE(query) << (query ? "" : query.error().text());
    return query && query->matches(event.values, cpu);
}

TEST(Query, NumbersAreComparedExactly) {
    Event event;
    event.integer("least", INT64_MIN)
        .natural("most", UINT64_MAX)
        .natural("n", 7)
        .real("x", 0.5)
        .real("nan", std::nan(""));
    for (const char* text :
         {"n == 7", "n==0x7", "n == 7.0", "n != 8", "n < 8", "n <= 7", "n > 6.5", "n >= 7", "x == 0.5", "x < 1",
          "least == -9223372036854775808", "least < -9223372036854775807", "most == 18446744073709551615",
          "most > 18446744073709551614", "most == 0xffffffffffffffff", "x >= -.5", "x == 5e-1", "nan != 0"})
        EXPECT_TRUE(matches(event, text)) << text;
    for (const char* text : {"n == 8", "n != 7", "n > 7", "n < 7", "least > -9223372036854775808",
                             "most == 18446744073709551614", "n == '7'", "nan < 1", "nan >= 1"})
        EXPECT_FALSE(matches(event, text)) << text;
}

TEST(Query, TextAndLabels) {
    Event event;
    event.text("s", "a \"b\"")
        .integer("side", 1, {{"buy", 0, 0}, {"sell", 1, 1}, {"known", 0, 9}})
        .integer("none", 20, {{"a", 0, 0}});
    for (const char* text : {"s == 'a \"b\"'", "s == \"a \\\"b\\\"\"", "s > 'a'", "s != ''", "side == 'sell'",
                             "side == \"known\"", "side != 'buy'", "side == 1", "side < 2"})
        EXPECT_TRUE(matches(event, text)) << text;
    for (const char* text : {"s == 'a'", "s == 0", "side == 'buy'", "side < 'z'", "none == 'a'", "none != 'a'"})
        EXPECT_FALSE(matches(event, text)) << text;
}

TEST(Query, AndBeforeOrAndNot) {
    Event event;
    event.natural("a", 1).natural("b", 2);
    for (const char* text : {"a == 1 || a == 2 && b == 3", "(a == 1 || a == 2) && b == 2", "!(a == 2) && !(b == 3)",
                             "!!(a == 1)", "! ! a == 1", "a == 1&&b == 2||a == 9"})
        EXPECT_TRUE(matches(event, text)) << text;
    for (const char* text : {"(a == 1 || a == 2) && b == 3", "!(a == 1 || b == 3)", "!a == 1"})
        EXPECT_FALSE(matches(event, text)) << text;
}

TEST(Query, WhereAFieldIsNot) {
    Event event;
    event.natural("a", 1);
    EXPECT_FALSE(matches(event, "b == 1"));
    EXPECT_FALSE(matches(event, "b != 1"));
    EXPECT_TRUE(matches(event, "!(b == 1)"));
    EXPECT_FALSE(matches(event, "a.b == 1"));
    EXPECT_TRUE(matches(event, "cpu_id == 3", 3));
    EXPECT_FALSE(matches(event, "cpu_id == 3"));
    event.natural("cpu_id", 4);
    EXPECT_TRUE(matches(event, "cpu_id == 4", 3)) << "the event's own field";
}

TEST(Query, Inside) {
    Event event;
    event.natural("x", 9).structure("at").natural("x", 1).structure("in").natural("y", 2).end().natural("z", 3).end();
    event.array("list")
        .natural("", 4)
        .natural("", 5)
        .end()
        .array("pairs")
        .structure("")
        .natural("x", 6)
        .end()
        .end()
        .natural("q", 7);
    for (const char* text : {"at.x == 1", "at.in.y == 2", "at.z == 3", "x == 9", "list == 5", "list != 5", "q == 7"})
        EXPECT_TRUE(matches(event, text)) << text;
    for (const char* text :
         {"y == 2", "at.y == 2", "at == 1", "in.y == 2", "list == 6", "list.x == 4", "pairs == 6", "at.in == 2"})
        EXPECT_FALSE(matches(event, text)) << text;
}

TEST(Query, TheEventsFieldHidesThatOfItsContext) {
    Event event;
    event.natural("a", 1).natural("a", 2);
    EXPECT_TRUE(matches(event, "a == 2"));
    EXPECT_FALSE(matches(event, "a == 1"));
}

TEST(Query, NamesItsFields) {
    EXPECT_EQ(Query::parse("a == 1 && !(b.c == 'x' || a > 2)")->fields(), (std::vector<std::string>{"a", "b.c", "a"}));
}

TEST(Query, NeverGoesTooDeep) {
    EXPECT_FALSE(Query::parse(std::string(100'000, '(')));
    EXPECT_FALSE(Query::parse(std::string(100'000, '!')));
    std::string wide = "a == 1";
    for (int i = 0; i < 10'000; ++i) wide += " || a == 1";
    EXPECT_TRUE(Query::parse("(((a == 1)))"));
    Event event;
    event.natural("a", 2);
    EXPECT_FALSE(matches(event, wide));
}

}  // namespace
}  // namespace cloister::ctf
