// --where 'venue == "XETRA" && (price >= 100.5 || !(order < 7))'
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hpp"
#include "ctf/decode.hpp"

namespace cloister::ctf {

// A condition on the fields of an event. A comparison is FIELD, one of == != < <= > >=, and a number or a string in
// quotes; && binds tighter than ||. A field inside a structure is a.b; an array fulfils what one of its elements does;
// an enumeration is compared with a number or with the name of a label. Every comparison with a field that an event
// does not have, or that is of another kind, is false. cpu_id is the packet's where no field has that name.
class Query {
public:
    // The error shows where it does not parse and what may stand there.
    [[nodiscard]] static Result<Query> parse(std::string_view text);

    // `values` as Cursor::fields() gives them.
    [[nodiscard]] bool matches(const std::vector<Value>& values, std::optional<std::uint64_t> cpu) const;

    // The names of the fields that it asks for, as written, in their order.
    [[nodiscard]] std::vector<std::string> fields() const;

private:
    friend class QueryParser;
    enum class Kind { any, all, negation, comparison };
    enum class Relation { equal, unequal, less, less_or_equal, greater, greater_or_equal };
    struct Node {
        Kind kind{};
        std::size_t left = 0, right = 0;     // nodes
        std::vector<std::string> path = {};  // of a comparison
        Relation relation{};
        bool is_text = false;
        std::string text = {};
        long double number = 0;  // holds all of 64 bits exactly
    };

    [[nodiscard]] bool holds(std::size_t node, const std::vector<Value>& values,
                             std::optional<std::uint64_t> cpu) const;
    [[nodiscard]] static bool compare(const Node& node, const Value& value);
    template <class T>
    [[nodiscard]] static bool related(Relation relation, const T& a, const T& b);

    std::vector<Node> nodes_;
    std::size_t root_ = 0;
};

}  // namespace cloister::ctf
