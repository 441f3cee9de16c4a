#include "ctf/tsdl_types.hpp"

#include <algorithm>
#include <bit>
#include <set>

#include <fmt/format.h>

namespace cloister::ctf {
namespace {

constexpr std::uint64_t kMostAlign = 1U << 20U;  // bits; what a tracer aligns to is at most a page

std::string quoted(const Token& token) {
    return token.kind == Token::Kind::end ? std::string("the end") : fmt::format("'{}'", token.spelled.substr(0, 40));
}

bool any_of(std::string_view word, std::initializer_list<std::string_view> words) {
    return std::find(words.begin(), words.end(), word) != words.end();
}

}  // namespace

const Token& TypeParser::token(std::size_t ahead) const {
    return tokens_[error() ? tokens_.size() - 1 : std::min(at_ + ahead, tokens_.size() - 1)];
}

bool TypeParser::at_sign(std::string_view sign, std::size_t ahead) const {
    return token(ahead).kind == Token::Kind::sign && token(ahead).spelled == sign;
}

bool TypeParser::at_word(std::string_view word, std::size_t ahead) const {
    return token(ahead).kind == Token::Kind::word && token(ahead).spelled == word;
}

bool TypeParser::take_sign(std::string_view sign) {
    if (!at_sign(sign)) return false;
    take();
    return true;
}

bool TypeParser::take_word(std::string_view word) {
    if (!at_word(word)) return false;
    take();
    return true;
}

void TypeParser::expect(std::string_view sign) {
    if (!take_sign(sign))
        wrong(token().at, fmt::format("'{}' is missing before {}", sign, quoted(token())), std::string(sign));
}

std::string TypeParser::expect_word(std::string_view what) {
    const Token& word = token();
    if (word.kind != Token::Kind::word) {
        wrong(word.at, fmt::format("{} where {} should be", quoted(word), what), std::string(what));
        return {};
    }
    take();
    return std::string(word.spelled);
}

void TypeParser::wrong(std::size_t at, std::string why, std::string needs) {
    if (!error()) error_ = {at, std::move(why), std::move(needs)};
}

TypeRef TypeParser::placeholder() const {
    static const TypeRef type = std::make_shared<Type>();
    return type;
}

std::string TypeParser::path() {
    std::string out = expect_word("a name");
    while (take_sign(".") || take_sign("->")) out += "." + expect_word("a name");
    return out;
}

TypeParser::Value TypeParser::value() {
    Value out;
    out.at = token().at;
    if (token().kind == Token::Kind::text) {
        out.kind = Value::Kind::text;
        out.text = token().text;
        take();
    } else if (token().kind == Token::Kind::word) {
        out.text = path();
    } else {
        out.kind = Value::Kind::number;
        out.negative = take_sign("-");
        if (token().kind != Token::Kind::number)
            wrong(token().at, quoted(token()) + " where a value should be", "a value");
        out.number = token().number;
        out.text = fmt::format("{}{}", out.negative ? "-" : "", out.number);
        take();
    }
    return out;
}

std::int64_t TypeParser::signed_number() {
    const Value number = value();
    if (number.kind != Value::Kind::number) wrong(number.at, "not a number", "a number");
    return static_cast<std::int64_t>(number.negative ? 0 - number.number : number.number);
}

std::uint64_t TypeParser::number_of(const Value& value, std::string_view what) {
    if (value.kind != Value::Kind::number || value.negative)
        wrong(value.at, fmt::format("{} is '{}'", what, value.text), "a number from 0");
    return value.number;
}

bool TypeParser::truth_of(const Value& value) {
    if (value.kind == Value::Kind::number) return value.number != 0;
    if (any_of(value.text, {"true", "TRUE"})) return true;
    if (!any_of(value.text, {"false", "FALSE"}))
        wrong(value.at, fmt::format("'{}'", value.text), "true, false, 1 or 0");
    return false;
}

ByteOrder TypeParser::order_of(const Value& value) {
    if (value.text == "native") return ByteOrder::native;
    if (value.text == "le") return ByteOrder::little;
    if (!any_of(value.text, {"be", "network"}))
        wrong(value.at, fmt::format("byte order '{}'", value.text), "le, be, network or native");
    return ByteOrder::big;
}

std::uint64_t TypeParser::alignment_of(const Value& value) {
    const std::uint64_t align = number_of(value, "an alignment");
    if (!std::has_single_bit(align) || align > kMostAlign)
        wrong(value.at, fmt::format("an alignment of {} bits", align),
              fmt::format("a power of two from 1 to {}", kMostAlign));
    return error() ? 1 : align;
}

TypeRef TypeParser::find(const std::string& name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope)
        if (const auto found = scope->find(name); found != scope->end()) return found->second;
    return nullptr;
}

void TypeParser::declare(std::size_t at, const std::string& name, TypeRef type) {
    if (!scopes_.back().emplace(name, std::move(type)).second)
        wrong(at, fmt::format("'{}' is declared twice", name), "a name that is new in these braces");
}

// Alignment and depth follow from the parts.
TypeRef TypeParser::finished(std::size_t at, Type type) {
    unsigned inner = 0;
    const auto part = [&](const TypeRef& one) {
        inner = std::max(inner, one->depth);
        if (type.kind != Type::Kind::variant) type.align = std::max(type.align, one->align);
    };
    for (const auto& member : type.members) part(member.type);
    if (type.element) part(type.element);
    type.depth = inner + 1;
    if (type.depth > kMostDepth) {
        wrong(at, fmt::format("types nested deeper than {}", kMostDepth), "flatter types");
        return placeholder();
    }
    return std::make_shared<const Type>(std::move(type));
}

template <class Handle>
void TypeParser::attributes(Handle handle) {
    expect("{");
    while (!at_sign("}") && !at_end()) {
        const std::string name = path();
        expect("=");
        handle(name, value());
        expect(";");
    }
    expect("}");
}

TypeRef TypeParser::integer() {
    const std::size_t at = token().at;
    Type type;
    std::uint64_t size = 0, align = 0;
    attributes([&](const std::string& name, const Value& value) {
        if (name == "size") {
            size = number_of(value, "size");
        } else if (name == "align") {
            align = alignment_of(value);
        } else if (name == "signed") {
            type.is_signed = truth_of(value);
        } else if (name == "byte_order") {
            type.order = order_of(value);
        } else if (name == "base") {
            const auto& text = value.text;
            type.base = any_of(text, {"16", "hexadecimal", "hex", "x", "X", "p"}) ? 16
                        : any_of(text, {"8", "octal", "oct", "o"})                ? 8
                        : any_of(text, {"2", "binary", "b"})                      ? 2
                                                                                  : 10;
        } else if (name == "encoding") {
            type.text = any_of(value.text, {"UTF8", "utf8", "ASCII", "ascii"});
        } else if (name == "map") {
            std::string_view clock = value.text;
            if (!clock.starts_with("clock.") || !clock.ends_with(".value") || clock.size() <= 12)
                wrong(value.at, fmt::format("map to '{}'", value.text), "clock.NAME.value");
            else
                type.clock = clock.substr(6, clock.size() - 12);
        }
    });
    if (size < 1 || size > 64) wrong(at, fmt::format("an integer of {} bits", size), "size = 1 to 64");
    type.bits = static_cast<unsigned>(size);
    type.align = align != 0 ? align : size % 8 == 0 ? 8 : 1;
    return finished(at, std::move(type));
}

TypeRef TypeParser::floating_point() {
    const std::size_t at = token().at;
    Type type;
    type.kind = Type::Kind::real;
    std::uint64_t exponent = 0, mantissa = 0;
    attributes([&](const std::string& name, const Value& value) {
        if (name == "exp_dig") exponent = number_of(value, name);
        if (name == "mant_dig") mantissa = number_of(value, name);
        if (name == "align") type.align = alignment_of(value);
        if (name == "byte_order") type.order = order_of(value);
    });
    type.bits = exponent == 8 && mantissa == 24 ? 32 : 64;
    if (type.bits == 64 && (exponent != 11 || mantissa != 53))
        wrong(at, fmt::format("a floating point number with exp_dig {}, mant_dig {}", exponent, mantissa),
              "8 and 24, or 11 and 53");
    return finished(at, std::move(type));
}

TypeRef TypeParser::string() {
    Type type;
    type.kind = Type::Kind::string;
    type.align = 8;
    if (at_sign("{")) attributes([](const std::string&, const Value&) {});
    return finished(token().at, std::move(type));
}

std::vector<Member> TypeParser::members() {
    std::vector<Member> out;
    std::set<std::string> names;
    expect("{");
    enter();
    while (!at_sign("}") && !at_end()) {
        if (alias_statement()) continue;
        const TypeRef base = type();
        if (take_sign(";")) continue;  // only declares its name: struct NAME { ... };
        do {
            const std::size_t at = token().at;
            std::string name = expect_word("the name of a field");
            if (!names.insert(name).second) wrong(at, fmt::format("field '{}' twice", name), "another name");
            out.push_back({std::move(name), declared(base)});
        } while (take_sign(","));
        expect(";");
    }
    leave();
    expect("}");
    return out;
}

TypeRef TypeParser::declared(TypeRef type) {
    struct Dimension {
        std::size_t at;
        std::string field;
        std::uint64_t length;
    };
    std::vector<Dimension> dimensions;
    while (at_sign("[") && dimensions.size() < kMostDepth) {
        take();
        Dimension dimension{token().at, {}, 0};
        if (token().kind == Token::Kind::number)
            dimension.length = value().number;
        else
            dimension.field = path();
        expect("]");
        dimensions.push_back(std::move(dimension));
    }
    // a[2][3] is two times three of them: the last is the innermost.
    for (auto dimension = dimensions.rbegin(); dimension != dimensions.rend(); ++dimension) {
        Type array;
        array.kind = dimension->field.empty() ? Type::Kind::array : Type::Kind::sequence;
        array.element = std::move(type);
        array.length = dimension->length;
        array.length_field = std::move(dimension->field);
        type = finished(dimension->at, std::move(array));
    }
    return type;
}

TypeRef TypeParser::structure() {
    const std::size_t at = token().at;
    const std::string name = token().kind == Token::Kind::word && !at_word("align") ? expect_word("a name") : "";
    if (!at_sign("{")) {
        if (auto known = find("struct " + name)) return known;
        wrong(at, fmt::format("struct '{}' is not declared", name), "its declaration before its use");
        return placeholder();
    }
    Type type;
    type.kind = Type::Kind::structure;
    type.members = members();
    if (take_word("align")) {
        expect("(");
        type.align = alignment_of(value());
        expect(")");
    }
    TypeRef out = finished(at, std::move(type));
    if (!name.empty()) declare(at, "struct " + name, out);
    return out;
}

TypeRef TypeParser::variant() {
    const std::size_t at = token().at;
    const std::string name = token().kind == Token::Kind::word ? expect_word("a name") : "";
    std::string tag;
    if (take_sign("<")) {
        tag = path();
        expect(">");
    }
    if (at_sign("{")) {
        Type type;
        type.kind = Type::Kind::variant;
        type.members = members();
        type.tag = tag;
        TypeRef out = finished(at, std::move(type));
        if (!name.empty()) declare(at, "variant " + name, out);
        return out;
    }
    auto known = find("variant " + name);
    if (!known) {
        wrong(at, fmt::format("variant '{}' is not declared", name), "its declaration before its use");
        return placeholder();
    }
    if (tag.empty()) return known;
    Type type = *known;
    type.tag = tag;
    return finished(at, std::move(type));
}

TypeRef TypeParser::enumeration() {
    const std::size_t at = token().at;
    const std::string name = token().kind == Token::Kind::word ? expect_word("a name") : "";
    TypeRef container;
    if (take_sign(":")) container = type();
    if (!at_sign("{")) {
        if (auto known = find("enum " + name); known && !container) return known;
        wrong(at, fmt::format("enum '{}' is not declared", name), "its declaration before its use");
        return placeholder();
    }
    if (!container) container = find("int");
    if (!container || container->kind != Type::Kind::integer) {
        wrong(at, "an enumeration over no integer", "enum : INTEGER { ... }, or a typealias of int");
        return placeholder();
    }
    Type type = *container;
    type.kind = Type::Kind::enumeration;
    std::int64_t next = 0;
    expect("{");
    while (!at_sign("}") && !at_end()) {
        Label label;
        if (token().kind == Token::Kind::text) {
            label.name = token().text;
            take();
        } else {
            label.name = expect_word("a label");
        }
        label.first = take_sign("=") ? signed_number() : next;
        label.last = take_sign("...") ? signed_number() : label.first;
        next = static_cast<std::int64_t>(static_cast<std::uint64_t>(label.last) + 1);
        type.labels.push_back(std::move(label));
        if (!take_sign(",")) break;
    }
    expect("}");
    TypeRef out = finished(at, std::move(type));
    if (!name.empty()) declare(at, "enum " + name, out);
    return out;
}

// The longest run of words that is a name; the word behind it is that of a field.
TypeRef TypeParser::named_type() {
    constexpr std::size_t kMostWords = 6;
    TypeRef found;
    std::size_t words = 0;
    std::string name;
    for (std::size_t i = 0; i < kMostWords && token(i).kind == Token::Kind::word; ++i) {
        name += (i ? " " : "") + std::string(token(i).spelled);
        std::string pointer = name;
        std::size_t stars = 0;
        while (at_sign("*", i + 1 + stars)) pointer += " *", ++stars;
        if (const auto known = find(pointer)) {
            found = known;
            words = i + 1 + stars;
        }
    }
    if (!found) {
        wrong(token().at, fmt::format("{} where a type should be", quoted(token())),
              "integer, floating_point, string, struct, variant, enum, or a name that was declared before");
        return placeholder();
    }
    for (std::size_t i = 0; i < words; ++i) take();
    return found;
}

TypeRef TypeParser::type() {
    if (++nesting_ > kMostDepth)
        wrong(token().at, fmt::format("types nested deeper than {}", kMostDepth), "flatter types");
    take_word("const");
    TypeRef out = take_word("integer")          ? integer()
                  : take_word("floating_point") ? floating_point()
                  : take_word("string")         ? string()
                  : take_word("struct")         ? structure()
                  : take_word("variant")        ? variant()
                  : take_word("enum")           ? enumeration()
                                                : named_type();
    --nesting_;
    return out;
}

std::string TypeParser::alias_name() {
    std::string out = expect_word("a name");
    while (token().kind == Token::Kind::word || at_sign("*")) {
        out += " " + std::string(token().spelled);
        take();
    }
    return out;
}

void TypeParser::typealias() {
    TypeRef what = type();
    // An abstract declarator may stand here with a name that means nothing: typealias uint8_t x[16] := uuid_t
    if (token().kind == Token::Kind::word) take();
    what = declared(what);
    expect(":=");
    const std::size_t at = token().at;
    declare(at, alias_name(), what);
    expect(";");
}

void TypeParser::type_definition() {
    const TypeRef base = type();
    do {
        const std::size_t at = token().at;
        const std::string name = expect_word("a name");
        declare(at, name, declared(base));
    } while (take_sign(","));
    expect(";");
}

bool TypeParser::alias_statement() {
    if (take_word("typealias"))
        typealias();
    else if (take_word("typedef"))
        type_definition();
    else
        return false;
    return true;
}

bool TypeParser::type_statement() {
    if (alias_statement()) return true;
    if (!at_word("struct") && !at_word("variant") && !at_word("enum")) return false;
    type();
    expect(";");
    return true;
}

}  // namespace cloister::ctf
