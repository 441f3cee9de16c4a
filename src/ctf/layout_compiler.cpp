#include "ctf/layout_compiler.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace cloister::ctf {
namespace {

// A type may contain another twice, and that a third twice: what a few lines say can be longer than any memory.
constexpr std::size_t kMostOps = std::size_t{1} << 20U;

constexpr std::array<std::pair<std::string_view, Scope>, 6> kScopes{{{"trace.packet.header.", Scope::packet_header},
                                                                     {"stream.packet.context.", Scope::packet_context},
                                                                     {"stream.event.header.", Scope::event_header},
                                                                     {"stream.event.context.", Scope::event_context},
                                                                     {"event.context.", Scope::context},
                                                                     {"event.fields.", Scope::fields}}};

constexpr std::array<std::pair<std::string_view, Role>, 3> kHeaderRoles{
    {{"magic", Role::magic}, {"stream_id", Role::stream_id}, {"stream_instance_id", Role::stream_instance}}};
constexpr std::array<std::pair<std::string_view, Role>, 7> kContextRoles{{{"timestamp_begin", Role::timestamp_begin},
                                                                          {"timestamp_end", Role::timestamp_end},
                                                                          {"content_size", Role::content_size},
                                                                          {"packet_size", Role::packet_size},
                                                                          {"packet_seq_num", Role::sequence_number},
                                                                          {"events_discarded", Role::events_discarded},
                                                                          {"cpu_id", Role::cpu_id}}};

template <class Table>
Role look_up(const Table& table, std::string_view name) {
    for (const auto& [known, role] : table)
        if (known == name) return role;
    return Role::none;
}

}  // namespace

void LayoutCompiler::wrong(std::string needs, std::string found) {
    if (failed_) return;
    failed_ = true;
    error_ = {"the metadata cannot be used", std::move(needs), std::move(found), ""};
}

std::size_t LayoutCompiler::emit(Op op) {
    if (++ops_ > kMostOps) wrong(fmt::format("types of at most {} fields in all", kMostOps), "more");
    program_->ops.push_back(op);
    return program_->ops.size() - 1;
}

void LayoutCompiler::align(std::uint64_t bits) {
    if (bits > 1) emit({.kind = Op::Kind::align, .count = bits});
}

bool LayoutCompiler::is_big(const Type& type) const {
    return (type.order == ByteOrder::native ? layout_.metadata.order : type.order) == ByteOrder::big;
}

Role LayoutCompiler::role_of(std::string_view name) const {
    const bool top = enclosing_.size() == 1;
    if (scope_ == Scope::packet_header && top) return look_up(kHeaderRoles, name);
    if (scope_ == Scope::packet_context && top) return look_up(kContextRoles, name);
    if (scope_ == Scope::event_header && name == "id") return Role::event_id;
    return Role::none;
}

LayoutCompiler::Node* LayoutCompiler::find(std::string_view path) {
    const auto descend = [](Node* node, std::string_view rest) -> Node* {
        while (node && !rest.empty()) {
            const auto dot = std::min(rest.find('.'), rest.size());
            const auto name = rest.substr(0, dot);
            rest.remove_prefix(std::min(dot + 1, rest.size()));
            const auto child = std::find_if(node->children.begin(), node->children.end(),
                                            [&](const auto& one) { return one->name == name; });
            node = child == node->children.end() ? nullptr : child->get();
        }
        return node;
    };
    for (const auto& [prefix, scope] : kScopes)
        if (path.starts_with(prefix))
            return descend(&roots_[static_cast<std::size_t>(scope)], path.substr(prefix.size()));
    for (auto node = enclosing_.rbegin(); node != enclosing_.rend(); ++node)
        if (Node* found = descend(*node, path)) return found;
    for (auto scope = static_cast<std::size_t>(scope_); scope-- > 0;)
        if (Node* found = descend(&roots_[scope], path)) return found;
    return nullptr;
}

std::int32_t LayoutCompiler::slot_of(Node& node) {
    if (program_ != header_ && node.program == header_) header_is_referred_to_ = true;
    Op& op = node.program->ops[node.op];
    if (op.slot < 0) op.slot = static_cast<std::int32_t>(layout_.slots++);
    return op.slot;
}

void LayoutCompiler::add(Program& program, Scope scope, const TypeRef& type, const std::string& clock) {
    for (auto later = static_cast<std::size_t>(scope); later < roots_.size(); ++later) roots_[later] = {};
    program_ = &program;
    scope_ = scope;
    if (scope == Scope::event_header) {
        header_ = &program;
        header_is_referred_to_ = false;
    }
    clock_ = clock;
    if (!type) return;
    Node& root = roots_[static_cast<std::size_t>(scope)];
    enclosing_.assign(1, &root);
    align(type->align);
    for (const auto& member : type->members) field(root, member.name, member.name, member.type);
    enclosing_.clear();
}

void LayoutCompiler::field(Node& into, const std::string& name, const std::string& shown, const TypeRef& type) {
    if (failed_) return;
    const bool own = scope_ > Scope::event_header || (scope_ == Scope::packet_context && role_of(name) == Role::none);
    const NamedField* named = &layout_.names.emplace_back(NamedField{std::string(shown_name(shown)), type, own});
    auto owned = std::make_unique<Node>();
    Node& node = *owned;
    node.name = name;
    node.type = type.get();
    // Known to others only when it is complete: a field cannot refer to itself or into what it is part of.
    switch (type->kind) {
        case Type::Kind::integer:
        case Type::Kind::enumeration:
            integer(node, named, *type);
            break;
        case Type::Kind::real:
            align(type->align);
            emit({.kind = Op::Kind::real,
                  .big = is_big(*type),
                  .bits = static_cast<std::uint8_t>(type->bits),
                  .field = named});
            break;
        case Type::Kind::string:
            align(8);
            emit({.kind = Op::Kind::string, .field = named});
            break;
        case Type::Kind::structure:
            structure(node, named, *type);
            break;
        case Type::Kind::variant:
            variant(node, shown, *type);
            break;
        case Type::Kind::array:
        case Type::Kind::sequence:
            array(node, named, *type);
            break;
    }
    into.children.push_back(std::move(owned));
}

void LayoutCompiler::integer(Node& node, const NamedField* named, const Type& type) {
    align(type.align);
    const bool in_event = scope_ >= Scope::event_header;
    // A trace with one clock may leave out that its timestamps are that clock's.
    const bool implied =
        type.clock.empty() && scope_ == Scope::event_header && node.name == "timestamp" && layout_.clocks.size() == 1;
    node.program = program_;
    node.op = emit({.kind = type.is_signed ? Op::Kind::signed_integer : Op::Kind::unsigned_integer,
                    .big = is_big(type),
                    .clock = in_event && (implied || (!type.clock.empty() && type.clock == clock_)),
                    .bits = static_cast<std::uint8_t>(type.bits),
                    .role = role_of(node.name),
                    .field = named});
}

void LayoutCompiler::structure(Node& node, const NamedField* named, const Type& type) {
    align(type.align);
    emit({.kind = Op::Kind::begin, .field = named});
    enclosing_.push_back(&node);
    for (const auto& member : type.members) field(node, member.name, member.name, member.type);
    enclosing_.pop_back();
    emit({.kind = Op::Kind::end});
}

void LayoutCompiler::variant(Node& node, const std::string& name, const Type& type) {
    Node* const tag = type.tag.empty() ? nullptr : find(type.tag);
    if (!tag || !tag->type || tag->type->kind != Type::Kind::enumeration) {
        wrong("an enumeration before it that chooses", fmt::format("variant '{}' chosen by '{}', which is {}", name,
                                                                   type.tag, tag ? "of another type" : "not there"));
        return;
    }
    ChoiceTable table{tag->type->is_signed, tag->name, {}};
    const std::uint64_t flip = table.is_signed ? std::uint64_t{1} << 63U : 0;
    const std::size_t choose = emit({.kind = Op::Kind::choose, .slot = slot_of(*tag)});
    std::vector<std::size_t> jumps;
    enclosing_.push_back(&node);
    for (const auto& option : type.members) {
        const auto begin = static_cast<std::uint32_t>(program_->ops.size());
        for (const auto& label : tag->type->labels)
            if (label.name == option.name || label.name == shown_name(option.name))
                table.choices.push_back({static_cast<std::uint64_t>(label.first) ^ flip,
                                         static_cast<std::uint64_t>(label.last) ^ flip, begin});
        field(node, option.name, name, option.type);  // what is shown is the variant's name with the option's value
        jumps.push_back(emit({.kind = Op::Kind::jump}));
    }
    enclosing_.pop_back();
    for (const auto jump : jumps) program_->ops[jump].target = static_cast<std::uint32_t>(program_->ops.size());
    program_->ops[choose].target = static_cast<std::uint32_t>(program_->tables.size());
    program_->tables.push_back(std::move(table));
}

void LayoutCompiler::array(Node& node, const NamedField* named, const Type& type) {
    const Type& element = *type.element;
    align(type.align);
    Op op{.kind = Op::Kind::array, .count = type.length, .field = named};
    if (type.kind == Type::Kind::sequence) {
        Node* const length = find(type.length_field);
        if (!length || !length->type || !length->type->leaf() || length->type->is_signed) {
            wrong("an unsigned integer before it that says how many",
                  fmt::format("sequence '{}' with the length '{}', which is {}", node.name, type.length_field,
                              length ? "of another type" : "not there"));
            return;
        }
        op.from_slot = true;
        op.slot = slot_of(*length);
    }
    const bool bytes = element.kind == Type::Kind::integer && element.bits == 8 && element.align <= 8;
    if (bytes && element.text) {
        op.kind = Op::Kind::text;
        align(8);
        emit(op);
        return;
    }
    if (bytes && scope_ == Scope::packet_header && node.name == "uuid" && enclosing_.size() == 1) op.role = Role::uuid;
    const std::size_t begin = emit(op);
    enclosing_.push_back(&node);
    field(node, "", "", type.element);
    enclosing_.pop_back();
    emit({.kind = Op::Kind::repeat, .target = static_cast<std::uint32_t>(begin + 1)});
    program_->ops[begin].target = static_cast<std::uint32_t>(program_->ops.size());
}

}  // namespace cloister::ctf
