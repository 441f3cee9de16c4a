// The types of fields, as TSDL declares them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "ctf/schema.hpp"

namespace cloister::ctf {

struct Type;
using TypeRef = std::shared_ptr<const Type>;

enum class ByteOrder : std::uint8_t { native, little, big };  // native: the trace's, which may be declared later

struct Member {
    std::string name;  // as in the metadata, "_" included
    TypeRef type;
};

struct Type {
    enum class Kind : std::uint8_t { integer, enumeration, real, string, structure, variant, array, sequence };

    Kind kind = Kind::integer;
    std::uint64_t align = 1;  // bits, a power of two
    unsigned depth = 1;       // of nesting, itself included; at most kMostDepth

    // integer, enumeration (what it is stored in), real
    unsigned bits = 8;  // 1 to 64
    bool is_signed = false;
    bool text = false;  // a character, by its encoding
    unsigned base = 10;
    ByteOrder order = ByteOrder::native;
    std::string clock;  // whose value it is, or ""

    std::vector<Label> labels;    // enumeration
    std::vector<Member> members;  // structure; variant: its options
    std::string tag;              // variant: the field that chooses; "" where that is said at its use
    TypeRef element;              // array, sequence
    std::uint64_t length = 0;     // array
    std::string length_field;     // sequence

    [[nodiscard]] bool leaf() const { return kind == Kind::integer || kind == Kind::enumeration; }
};

inline constexpr unsigned kMostDepth = 64;

// Names in the metadata begin with a "_" that is not theirs, so that none is a keyword.
[[nodiscard]] inline std::string_view shown_name(std::string_view name) {
    return name.starts_with('_') ? name.substr(1) : name;
}

// The labels of an enumeration that hold for a value; none for any other type.
[[nodiscard]] inline std::vector<std::string_view> labels_of(const Type& type, std::uint64_t value) {
    std::vector<std::string_view> out;
    if (type.kind != Type::Kind::enumeration) return out;
    const std::uint64_t flip = type.is_signed ? std::uint64_t{1} << 63U : 0;  // so that they compare as unsigned
    for (const auto& label : type.labels)
        if ((value ^ flip) >= (static_cast<std::uint64_t>(label.first) ^ flip) &&
            (value ^ flip) <= (static_cast<std::uint64_t>(label.last) ^ flip))
            out.emplace_back(label.name);
    return out;
}

}  // namespace cloister::ctf
