#include "ctf/decode.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace cloister::ctf {

bool Decoder::too_short(const Op& op, std::uint64_t at, std::uint64_t bits) {
    const std::string what = !op.field                ? "padding"
                             : op.field->name.empty() ? "an element"
                                                      : fmt::format("field '{}'", op.field->name);
    why_ = fmt::format("{} takes {} bits, and {} are left", what, bits, bits_.end - std::min(at, bits_.end));
    return false;
}

bool Decoder::integer(const Op& op, std::uint64_t& at, std::vector<Value>* values) {
    if (op.bits > bits_.end - at) return too_short(op, at, op.bits);
    std::uint64_t value = read_bits(bits_.data, at, op.bits, op.big);
    if (op.clock) clock_ = advance(clock_, value, op.bits);
    const bool is_signed = op.kind == Op::Kind::signed_integer;
    if (is_signed && op.bits < 64) {
        const unsigned unused = 64U - op.bits;
        value = static_cast<std::uint64_t>(static_cast<std::int64_t>(value << unused) >> unused);
    }
    if (op.role != Role::none) {
        roles_[static_cast<std::size_t>(op.role)] = value;
        has_ |= 1U << static_cast<unsigned>(op.role);
    }
    if (op.slot >= 0) slots_[static_cast<std::size_t>(op.slot)] = value;
    if (values)
        values->push_back(
            {is_signed ? Value::Kind::signed_integer : Value::Kind::unsigned_integer, op.field, value, {}});
    at += op.bits;
    return true;
}

bool Decoder::real(const Op& op, std::uint64_t& at, std::vector<Value>* values) {
    if (op.bits > bits_.end - at) return too_short(op, at, op.bits);
    if (values) {
        const std::uint64_t raw = read_bits(bits_.data, at, op.bits, op.big);
        const double value =
            op.bits == 32 ? double{std::bit_cast<float>(static_cast<std::uint32_t>(raw))} : std::bit_cast<double>(raw);
        values->push_back({Value::Kind::real, op.field, std::bit_cast<std::uint64_t>(value), {}});
    }
    at += op.bits;
    return true;
}

// Strings and text begin at whole bytes: an op before them sees to it.
bool Decoder::string(const Op& op, std::uint64_t& at, std::vector<Value>* values) {
    const auto* const begin = reinterpret_cast<const char*>(bits_.data + at / 8);
    const std::size_t most = bits_.end / 8 - at / 8;
    const void* const end = most ? std::memchr(begin, 0, most) : nullptr;
    if (!end && bits_.cut && most) {
        if (values) values->push_back({Value::Kind::text, op.field, 0, std::string_view(begin, most)});
        at = bits_.end;
        return true;
    }
    if (!end) {
        why_ = fmt::format("string '{}' has no end in the {} bytes that are left", op.field->name, most);
        return false;
    }
    const auto size = static_cast<std::size_t>(static_cast<const char*>(end) - begin);
    if (values) values->push_back({Value::Kind::text, op.field, 0, std::string_view(begin, size)});
    at += 8 * (size + 1);
    return true;
}

bool Decoder::text(const Op& op, std::uint64_t& at, std::vector<Value>* values) {
    std::uint64_t count = count_of(op);
    if (bits_.cut && at != bits_.end) count = std::min(count, (bits_.end - at) / 8);
    if (count > (bits_.end - at) / 8) {
        why_ = fmt::format("text '{}' takes {} bytes, and {} are left", op.field->name, count, (bits_.end - at) / 8);
        return false;
    }
    const std::string_view all(reinterpret_cast<const char*>(bits_.data + at / 8), count);
    if (values) values->push_back({Value::Kind::text, op.field, 0, all.substr(0, all.find('\0'))});
    at += 8 * count;
    return true;
}

std::uint64_t Decoder::count_of(const Op& op) const {
    return op.from_slot ? slots_[static_cast<std::size_t>(op.slot)] : op.count;
}

bool Decoder::array(const Program& program, std::size_t& next, std::uint64_t at, std::vector<Value>* values) {
    const Op& op = program.ops[next];
    const std::uint64_t count = count_of(op);
    if (op.role == Role::uuid) {
        roles_[static_cast<std::size_t>(Role::uuid)] = at;
        has_ |= 1U << static_cast<unsigned>(Role::uuid);
    }
    if (count > steps_) {
        why_ = fmt::format("array '{}' has {} elements, more than its packet can hold", op.field->name, count);
        return false;
    }
    steps_ -= count;
    if (values) values->push_back({Value::Kind::begin_array, op.field, 0, {}});
    if (count == 0) {
        if (values) values->push_back({Value::Kind::end, nullptr, 0, {}});
        next = op.target;
        return true;
    }
    loops_.push_back({count, next + 1});
    ++next;
    return true;
}

bool Decoder::choose(const Program& program, std::size_t& next) {
    const Op& op = program.ops[next];
    const ChoiceTable& table = program.tables[op.target];
    const std::uint64_t value = slots_[static_cast<std::size_t>(op.slot)];
    const std::uint64_t tag = table.is_signed ? value ^ std::uint64_t{1} << 63U : value;
    for (const auto& choice : table.choices)
        if (tag >= choice.first && tag <= choice.last) {
            next = choice.target;
            return true;
        }
    why_ = table.is_signed
               ? fmt::format("no option of the variant for '{}' = {}", table.tag, static_cast<std::int64_t>(value))
               : fmt::format("no option of the variant for '{}' = {}", table.tag, value);
    return false;
}

bool Decoder::run(const Program& program, std::uint64_t& at, std::vector<Value>* values) {
    loops_.clear();
    // Inside, `at` never passes the end.
    if (at > bits_.end) return too_short({}, bits_.end, 0);
    for (std::size_t next = 0; next < program.ops.size();) {
        const Op& op = program.ops[next];
        bool fine = true;
        switch (op.kind) {
            case Op::Kind::align: {
                const std::uint64_t to = (at + op.count - 1) & ~(op.count - 1);
                if (to > bits_.end) return too_short(op, at, to - at);
                at = to;
                break;
            }
            case Op::Kind::unsigned_integer:
            case Op::Kind::signed_integer:
                fine = integer(op, at, values);
                break;
            case Op::Kind::real:
                fine = real(op, at, values);
                break;
            case Op::Kind::string:
                fine = string(op, at, values);
                break;
            case Op::Kind::text:
                fine = text(op, at, values);
                break;
            case Op::Kind::begin:
                if (values) values->push_back({Value::Kind::begin_structure, op.field, 0, {}});
                break;
            case Op::Kind::end:
                if (values) values->push_back({Value::Kind::end, nullptr, 0, {}});
                break;
            case Op::Kind::array:
                if (!array(program, next, at, values)) return false;
                continue;
            case Op::Kind::repeat:
                if (--loops_.back().left > 0) {
                    next = loops_.back().begin;
                    continue;
                }
                loops_.pop_back();
                if (values) values->push_back({Value::Kind::end, nullptr, 0, {}});
                break;
            case Op::Kind::choose:
                if (!choose(program, next)) return false;
                continue;
            case Op::Kind::jump:
                next = op.target;
                continue;
        }
        if (!fine) return false;
        ++next;
    }
    return true;
}

}  // namespace cloister::ctf
