#include "tracepoint/filter.hpp"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace cloister::tracepoint {

struct Expression {
    enum Kind { test, conjunction, disjunction, negation } kind = test;
    std::unique_ptr<Expression> left, right;
    // of a test
    std::string field, text;  // text: of a string, or the name of an enumerator
    enum Value { none, number, string, word } value = none;
    Test::Comparison comparison = Test::not_equal;
    long double amount = 0;
    std::size_t position = 0;  // of the field, from 1
    std::size_t tests = 1;     // in all of it
};

namespace {

using Node = std::unique_ptr<Expression>;
constexpr int kNesting = 64;

bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; }

class Parser {
public:
    explicit Parser(std::string_view text) : text_(text) {}

    Result<Parsed> all() {
        auto whole = expression(0);
        if (!whole) return fail(whole.error());
        skip();
        if (at_ != text_.size()) return wrong("&&, || or the end");
        if ((*whole)->tests > kTests)
            return fail({.what = "the filter is too long",
                         .needs = "at most " + std::to_string(kTests) + " comparisons",
                         .found = std::to_string((*whole)->tests)});
        return Parsed(std::move(*whole));
    }

private:
    [[nodiscard]] tl::unexpected<Error> wrong(const char* needs) const {
        const std::string rest(text_.substr(at_, 12));
        return fail({.what = "cannot understand the filter " + std::string(text_),
                     .needs = std::string(needs) + " at position " + std::to_string(at_ + 1),
                     .found = rest.empty() ? "its end" : rest});
    }

    void skip() {
        while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
    }

    bool take(std::string_view token) {
        skip();
        if (!text_.substr(at_).starts_with(token)) return false;
        at_ += token.size();
        return true;
    }

    std::string word() {
        skip();
        const std::size_t begin = at_;
        while (at_ < text_.size() && is_word(text_[at_])) ++at_;
        return std::string(text_.substr(begin, at_ - begin));
    }

    Result<Node> joined(Expression::Kind kind, std::string_view token, int depth) {
        auto left = kind == Expression::disjunction ? joined(Expression::conjunction, "&&", depth) : term(depth);
        while (left && take(token)) {
            auto right = kind == Expression::disjunction ? joined(Expression::conjunction, "&&", depth) : term(depth);
            if (!right) return right;
            auto both = std::make_unique<Expression>();
            both->kind = kind;
            both->tests = (*left)->tests + (*right)->tests;
            both->left = std::move(*left);
            both->right = std::move(*right);
            left = std::move(both);
        }
        return left;
    }

    Result<Node> expression(int depth) { return joined(Expression::disjunction, "||", depth); }

    Result<Node> term(int depth) {
        if (depth > kNesting) return wrong("no more than 64 nested parentheses");
        skip();
        if (text_.substr(at_).starts_with("!") && !text_.substr(at_).starts_with("!=")) {
            ++at_;
            auto inner = term(depth + 1);
            if (!inner) return inner;
            auto node = std::make_unique<Expression>();
            node->kind = Expression::negation;
            node->tests = (*inner)->tests;
            node->left = std::move(*inner);
            return node;
        }
        if (take("(")) {
            auto inner = expression(depth + 1);
            if (inner && !take(")")) return wrong(")");
            return inner;
        }
        return comparison();
    }

    Result<Node> comparison() {
        auto node = std::make_unique<Expression>();
        skip();
        node->position = at_ + 1;
        if (at_ >= text_.size() || std::isdigit(static_cast<unsigned char>(text_[at_])) || !is_word(text_[at_]))
            return wrong("a field, !, or (");
        node->field = word();
        constexpr std::pair<const char*, Test::Comparison> kComparisons[] = {
            {"==", Test::equal},         {"!=", Test::not_equal}, {"<=", Test::less_equal},
            {">=", Test::greater_equal}, {"<", Test::less},       {">", Test::greater}};
        const auto* const found = std::find_if(std::begin(kComparisons), std::end(kComparisons),
                                               [this](const auto& one) { return take(one.first); });
        if (found == std::end(kComparisons)) return node;
        node->comparison = found->second;
        return value(std::move(node));
    }

    Result<Node> value(Node node) {
        skip();
        if (take("\"")) {
            node->value = Expression::string;
            while (at_ < text_.size() && text_[at_] != '"') {
                if (text_[at_] == '\\' && at_ + 1 < text_.size()) ++at_;
                node->text += text_[at_++];
            }
            if (!take("\"")) return wrong("\" to end the string");
            return node;
        }
        const std::string rest(text_.substr(at_));
        if (!rest.empty() && (std::isdigit(static_cast<unsigned char>(rest[0])) || std::strchr("+-.", rest[0]))) {
            char* end = nullptr;
            node->amount = std::strtold(rest.c_str(), &end);
            if (end == rest.c_str()) return wrong("a number");
            at_ += static_cast<std::size_t>(end - rest.c_str());
            if (at_ < text_.size() && is_word(text_[at_])) return wrong("a number without a unit");
            node->value = Expression::number;
            return node;
        }
        node->text = word();
        if (node->text.empty()) return wrong("a number, a string, or a name");
        node->value = node->text == "true" || node->text == "false" ? Expression::number : Expression::word;
        node->amount = node->text == "true";
        return node;
    }

    std::string_view text_;
    std::size_t at_ = 0;
};

class Compiler {
public:
    explicit Compiler(const cloister_class& event_class) : class_(event_class) {}

    // Writes the tests of `node` from index `base` on; they go on at if_true or if_false.
    Result<void> emit(const Expression& node, std::size_t base, std::size_t if_true, std::size_t if_false) {
        const std::size_t behind_left = base + (node.left ? node.left->tests : 0);
        switch (node.kind) {
            case Expression::negation:
                return emit(*node.left, base, if_false, if_true);
            case Expression::conjunction:
                if (auto ok = emit(*node.left, base, behind_left, if_false); !ok) return ok;
                return emit(*node.right, behind_left, if_true, if_false);
            case Expression::disjunction:
                if (auto ok = emit(*node.left, base, if_true, behind_left); !ok) return ok;
                return emit(*node.right, behind_left, if_true, if_false);
            case Expression::test:
                break;
        }
        auto test = compile(node);
        if (!test) return fail(test.error());
        test->if_true = static_cast<std::uint8_t>(if_true);
        test->if_false = static_cast<std::uint8_t>(if_false);
        tests_.push_back(*test);
        return {};
    }

    [[nodiscard]] const Program* program() {
        const std::size_t head = tests_.size() * sizeof(Test);
        for (Test& test : tests_) test.text += static_cast<std::uint32_t>(head);
        auto* const block = static_cast<char*>(std::malloc(head + texts_.size()));
        std::memcpy(block, tests_.data(), head);
        std::memcpy(block + head, texts_.data(), texts_.size());
        return reinterpret_cast<const Program*>(block);
    }

private:
    [[nodiscard]] tl::unexpected<Error> wrong(const Expression& node, std::string needs, std::string found) const {
        return fail({.what = "the filter does not fit " + std::string(class_.provider) + ":" + class_.name,
                     .needs = std::move(needs) + " at position " + std::to_string(node.position),
                     .found = std::move(found)});
    }

    Result<Test> compile(const Expression& node) {
        const auto* const end = class_.fields + class_.field_count;
        const auto* const field =
            std::find_if(class_.fields, end, [&](const cloister_field& one) { return node.field == one.name; });
        if (field == end) {
            std::string names;
            for (const auto* one = class_.fields; one != end; ++one)
                names += (names.empty() ? "" : ", ") + std::string(one->name);
            return wrong(node, "a field of the event (" + names + ")", node.field);
        }
        if (field->is_sequence) return wrong(node, "a field that is a number or a string", node.field + ", a sequence");
        Test test{};
        test.field = static_cast<std::uint8_t>(field - class_.fields);
        test.comparison = node.comparison;
        test.number = node.amount;
        if (field->kind == CLOISTER_STRING) {
            if (node.value != Expression::string ||
                (test.comparison != Test::equal && test.comparison != Test::not_equal))
                return wrong(node, node.field + " == \"...\" or " + node.field + " != \"...\"", "another comparison");
            test.text = static_cast<std::uint32_t>(texts_.size());
            test.text_size = static_cast<std::uint32_t>(node.text.size());
            texts_ += node.text;
            return test;
        }
        if (node.value == Expression::string) return wrong(node, "a number for " + node.field, "a string");
        if (node.value == Expression::word) {
            const auto* const last = field->enumerators + field->enumerator_count;
            const auto* const named = std::find_if(
                field->enumerators, last, [&](const cloister_enumerator& one) { return node.text == one.name; });
            if (named == last) return wrong(node, "a number, or an enumerator of " + node.field, node.text);
            test.number = static_cast<long double>(named->value);
        }
        return test;
    }

    const cloister_class& class_;
    std::vector<Test> tests_;
    std::string texts_;
};

}  // namespace

Result<Parsed> parse_filter(std::string_view text) {
    if (std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isspace(c); })) return Parsed();
    return Parser(text).all();
}

Result<const Program*> compile_filter(const Parsed& expression, const cloister_class& event_class) {
    if (!expression) return nullptr;
    Compiler compiler(event_class);
    if (auto ok = compiler.emit(*expression, 0, kAccept, kReject); !ok) return fail(ok.error());
    return compiler.program();
}

}  // namespace cloister::tracepoint
