#include "ctf/query.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <utility>

#include <fmt/format.h>

namespace cloister::ctf {
namespace {

constexpr std::size_t kMostNesting = 100;

bool word_part(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

// A tab or an escape sequence in the text would move the caret away from its place.
std::string echo(std::string_view text) {
    std::string out(text);
    std::replace_if(
        out.begin(), out.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
    return out;
}

// The value behind the one that begins here, with all that is inside it.
std::size_t past(const std::vector<Value>& values, std::size_t i) {
    std::size_t open = 0;
    do {
        if (values[i].kind == Value::Kind::begin_structure || values[i].kind == Value::Kind::begin_array) ++open;
        if (values[i].kind == Value::Kind::end) --open;
        ++i;
    } while (open > 0);
    return i;
}

}  // namespace

class QueryParser {
public:
    explicit QueryParser(std::string_view text) : text_(text) {}

    Result<Query> run() {
        query_.root_ = any();
        skip_space();
        if (at_ < text_.size()) wrong(at_, "more than a condition", "&&, || or the end");
        if (why_.empty()) return std::move(query_);
        // Error::text() puts "  found  " before the first line.
        return fail({"the condition does not parse: " + why_, needs_,
                     fmt::format("{}\n{:>{}}", echo(text_), "^", 9 + where_ + 1),
                     "comparisons of fields, as in --where 'price >= 100.5 && venue == \"XETRA\"'"});
    }

private:
    // After the first error nothing more is seen, so that everything ends.
    void wrong(std::size_t at, std::string why, std::string needs) {
        if (!why_.empty()) return;
        why_ = std::move(why);
        needs_ = std::move(needs);
        where_ = at;
        at_ = text_.size();
    }
    void skip_space() {
        while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_])) != 0) ++at_;
    }
    bool take(std::string_view sign) {
        skip_space();
        if (!text_.substr(at_).starts_with(sign)) return false;
        at_ += sign.size();
        return true;
    }
    std::size_t add(Query::Node node) {
        query_.nodes_.push_back(std::move(node));
        return query_.nodes_.size() - 1;
    }

    std::size_t any() {
        std::size_t left = all();
        while (take("||")) left = add({.kind = Query::Kind::any, .left = left, .right = all()});
        return left;
    }
    std::size_t all() {
        std::size_t left = one();
        while (take("&&")) left = add({.kind = Query::Kind::all, .left = left, .right = one()});
        return left;
    }
    std::size_t one() {
        skip_space();
        if (++depth_ > kMostNesting)
            wrong(at_, fmt::format("nested deeper than {}", kMostNesting), "a flatter condition");
        std::size_t out = 0;
        if (const std::size_t begin = at_; take("(")) {
            out = any();
            if (!take(")")) wrong(at_, fmt::format("the parenthesis at {} has no end", begin + 1), ")");
        } else if (!text_.substr(at_).starts_with("!=") && take("!")) {
            out = add({.kind = Query::Kind::negation, .left = one()});
        } else {
            out = comparison();
        }
        --depth_;
        return out;
    }

    std::size_t comparison() {
        Query::Node node{.kind = Query::Kind::comparison};
        std::size_t begin = 0;
        do {
            skip_space();
            begin = at_;
            while (at_ < text_.size() && word_part(text_[at_])) ++at_;
            node.path.emplace_back(text_.substr(begin, at_ - begin));
            if (node.path.back().empty()) wrong(begin, "the name of a field is missing", "FIELD == VALUE, !, or (");
        } while (take("."));
        if (std::isdigit(static_cast<unsigned char>(node.path.front().empty() ? 'x' : node.path.front().front())) != 0)
            wrong(begin, "a number where a field should be", "the field on the left, as in order == 7");
        relation(node);
        constant(node);
        return add(std::move(node));
    }

    void relation(Query::Node& node) {
        constexpr std::array<std::pair<std::string_view, Query::Relation>, 6> kRelations{
            {{"==", Query::Relation::equal},
             {"!=", Query::Relation::unequal},
             {"<=", Query::Relation::less_or_equal},
             {">=", Query::Relation::greater_or_equal},
             {"<", Query::Relation::less},
             {">", Query::Relation::greater}}};
        skip_space();
        for (const auto& [sign, relation] : kRelations)
            if (take(sign)) {
                node.relation = relation;
                return;
            }
        wrong(at_, fmt::format("'{}' is compared with nothing", node.path.back()), "== != < <= > or >=");
    }

    void constant(Query::Node& node) {
        skip_space();
        const std::size_t begin = at_;
        if (begin >= text_.size()) return wrong(begin, "the value is missing", "a number, or a string in quotes");
        const char quote = text_[begin];
        if (quote == '"' || quote == '\'') {
            node.is_text = true;
            for (++at_; at_ < text_.size() && text_[at_] != quote; ++at_) {
                if (text_[at_] == '\\' && at_ + 1 < text_.size()) ++at_;
                node.text += text_[at_];
            }
            if (at_ >= text_.size()) return wrong(begin, "a string without an end", std::string(1, quote));
            ++at_;
            return;
        }
        // What strtold reads, without the words that it reads too (nan, infinity).
        if (at_ < text_.size() && (text_[at_] == '-' || text_[at_] == '+')) ++at_;
        if (at_ >= text_.size() || (std::isdigit(static_cast<unsigned char>(text_[at_])) == 0 && text_[at_] != '.'))
            return wrong(begin, "neither a number nor a string", "a number, or a string in quotes, as in \"XETRA\"");
        const std::string rest(text_.substr(begin));
        char* end = nullptr;
        node.number = std::strtold(rest.c_str(), &end);
        at_ = begin + static_cast<std::size_t>(end - rest.c_str());
        if (end == rest.c_str() || (at_ < text_.size() && (word_part(text_[at_]) || text_[at_] == '.')))
            wrong(begin, "not a number", "digits, 0x and digits, or a decimal fraction");
    }

    std::string_view text_;
    std::size_t at_ = 0, where_ = 0, depth_ = 0;
    std::string why_, needs_;
    Query query_;
};

Result<Query> Query::parse(std::string_view text) { return QueryParser(text).run(); }

template <class T>
bool Query::related(Relation relation, const T& a, const T& b) {
    switch (relation) {
        case Relation::equal:
            return a == b;
        case Relation::unequal:
            return a != b;
        case Relation::less:
            return a < b;
        case Relation::less_or_equal:
            return a <= b;
        case Relation::greater:
            return a > b;
        case Relation::greater_or_equal:
            return a >= b;
    }
    return false;
}

bool Query::compare(const Node& node, const Value& value) {
    switch (value.kind) {
        case Value::Kind::text:
            return node.is_text && related<std::string_view>(node.relation, value.text, node.text);
        case Value::Kind::real:
            return !node.is_text && related<long double>(node.relation, value.as_real(), node.number);
        case Value::Kind::unsigned_integer:
        case Value::Kind::signed_integer:
            break;
        default:
            return false;
    }
    const bool is_signed = value.kind == Value::Kind::signed_integer;
    if (!node.is_text)
        return related<long double>(
            node.relation,
            is_signed ? static_cast<long double>(value.as_signed()) : static_cast<long double>(value.bits),
            node.number);
    const auto labels = labels_of(*value.field->type, value.bits);
    const bool has = std::find(labels.begin(), labels.end(), node.text) != labels.end();
    return !labels.empty() &&
           ((node.relation == Relation::equal && has) || (node.relation == Relation::unequal && !has));
}

bool Query::holds(std::size_t index, const std::vector<Value>& values, std::optional<std::uint64_t> cpu) const {
    const Node& node = nodes_[index];
    switch (node.kind) {
        case Kind::any:
            return holds(node.left, values, cpu) || holds(node.right, values, cpu);
        case Kind::all:
            return holds(node.left, values, cpu) && holds(node.right, values, cpu);
        case Kind::negation:
            return !holds(node.left, values, cpu);
        case Kind::comparison:
            break;
    }
    std::size_t begin = 0, end = values.size(), found = end;
    for (std::size_t level = 0; level < node.path.size(); ++level) {
        found = values.size();
        // Where a context and the event itself have a field of the name, the event's counts: it is the last.
        for (std::size_t i = begin; i < end; i = past(values, i))
            if (values[i].field->name == node.path[level]) found = i;
        if (found == values.size()) break;
        begin = found + 1;
        end = values[found].kind == Value::Kind::begin_structure ? past(values, found) - 1 : begin;
    }
    if (found < values.size()) {
        if (values[found].kind != Value::Kind::begin_array) return compare(node, values[found]);
        for (std::size_t i = found + 1; values[i].kind != Value::Kind::end; i = past(values, i))
            if (compare(node, values[i])) return true;
        return false;
    }
    if (node.path.size() == 1 && node.path.front() == "cpu_id" && cpu)
        return !node.is_text && related<long double>(node.relation, static_cast<long double>(*cpu), node.number);
    return false;
}

bool Query::matches(const std::vector<Value>& values, std::optional<std::uint64_t> cpu) const {
    return holds(root_, values, cpu);
}

std::vector<std::string> Query::fields() const {
    std::vector<std::string> out;
    for (const auto& node : nodes_)
        if (node.kind == Kind::comparison) out.push_back(fmt::format("{}", fmt::join(node.path, ".")));
    return out;
}

}  // namespace cloister::ctf
