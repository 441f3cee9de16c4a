// One type at a time into a program; what earlier fields of the trace can be referred to is remembered in a tree.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "ctf/layout.hpp"

namespace cloister::ctf {

// The dynamic scopes, outermost first: what a field may refer to lies in its own or in one before it.
enum class Scope : std::uint8_t { packet_header, packet_context, event_header, event_context, context, fields, count };

class LayoutCompiler {
public:
    explicit LayoutCompiler(TraceLayout& layout) : layout_(layout) {}

    // Compiles `type` (null: an empty scope) for a scope, and forgets the scopes behind it. The program must stay where
    // it is: a later one may have an op of it keep its value. `clock`: whose values count as the time.
    void add(Program& program, Scope scope, const TypeRef& type, const std::string& clock);
    // Something behind the event header last added refers to a field in it.
    [[nodiscard]] bool header_is_referred_to() const { return header_is_referred_to_; }
    [[nodiscard]] const Error* error() const { return failed_ ? &error_ : nullptr; }

private:
    // A field that was compiled, by its name in the metadata.
    struct Node {
        std::string name;
        std::vector<std::unique_ptr<Node>> children;
        Program* program = nullptr;  // of an integer: where its op is
        std::size_t op = 0;
        const Type* type = nullptr;
    };

    void field(Node& into, const std::string& name, const std::string& shown, const TypeRef& type);
    void integer(Node& node, const NamedField* named, const Type& type);
    void structure(Node& node, const NamedField* named, const Type& type);
    void variant(Node& node, const std::string& name, const Type& type);
    void array(Node& node, const NamedField* named, const Type& type);
    std::size_t emit(Op op);
    void align(std::uint64_t bits);
    [[nodiscard]] bool is_big(const Type& type) const;
    // The field that `path` means at this place; null when there is none.
    [[nodiscard]] Node* find(std::string_view path);
    [[nodiscard]] std::int32_t slot_of(Node& node);
    Role role_of(std::string_view name) const;
    void wrong(std::string needs, std::string found);

    TraceLayout& layout_;
    std::array<Node, static_cast<std::size_t>(Scope::count)> roots_;
    std::vector<Node*> enclosing_;
    Program* program_ = nullptr;
    const Program* header_ = nullptr;
    bool header_is_referred_to_ = false;
    Scope scope_{};
    std::string clock_;
    std::size_t ops_ = 0;
    bool failed_ = false;
    Error error_;
};

}  // namespace cloister::ctf
