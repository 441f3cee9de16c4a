#include "unwind/call_frames.hpp"

#include <cstdlib>
#include <cstring>
#include <optional>

#include <dwarf.h>

namespace cloister::unwind {
namespace {

constexpr std::size_t kMaxRows = 65536;  // remembered of one module
constexpr std::size_t kMaxOps = 256;     // of one rule
constexpr std::size_t kMaxDepth = 64;    // of an expression's stack

using Rule = FrameRow::Rule;

Rule keep(FrameRow& row, const Dwarf_Op* ops, std::size_t count) {
    if (count > kMaxOps) return {};
    const Rule rule{Rule::How::expression, static_cast<std::uint32_t>(row.ops.size()),
                    static_cast<std::uint32_t>(count)};
    row.ops.insert(row.ops.end(), ops, ops + count);
    return rule;
}

std::unique_ptr<const FrameRow> make_row(Dwarf_CFI* cfi, std::uint64_t address) {
    Dwarf_Frame* raw = nullptr;
    if (!cfi || dwarf_cfi_addrframe(cfi, address, &raw) != 0) return nullptr;
    const std::unique_ptr<Dwarf_Frame, decltype(&std::free)> frame(raw, &std::free);
    auto row = std::make_unique<FrameRow>();
    Dwarf_Addr start = 0;
    Dwarf_Addr end = 0;
    if (dwarf_frame_info(raw, &start, &end, &row->signal_frame) != static_cast<int>(kReturn)) return nullptr;
    Dwarf_Op* ops = nullptr;
    std::size_t count = 0;
    if (dwarf_frame_cfa(raw, &ops, &count) != 0 || count == 0) return nullptr;
    row->cfa = keep(*row, ops, count);
    // A callee keeps rbx where the rules say nothing of it. libdw knows that of the other registers; 0.188 has rax for
    // rbx.
    row->registers[kRbx].how = Rule::How::same;
    for (std::size_t i = 0; i < kRegisters; ++i) {
        Dwarf_Op memory[3];
        if (dwarf_frame_register(raw, static_cast<int>(i), memory, &ops, &count) != 0) continue;
        if (count > 0) {
            row->registers[i] = keep(*row, ops, count);
        } else if (!ops) {
            row->registers[i].how = Rule::How::same;
        }
    }
    return row;
}

// The stack machine of DWARF expressions, as far as call frame information uses it: no branches, no types.
class Machine {
public:
    Machine(const Registers& registers, const StackCopy& memory, std::uint64_t cfa)
        : registers_(registers), memory_(memory), cfa_(cfa) {}

    // The value that the operations leave; empty when something they need is not known.
    [[nodiscard]] std::optional<std::uint64_t> run(std::span<const Dwarf_Op> ops) {
        for (const Dwarf_Op& op : ops) {
            if (!one(op) || depth_ > kMaxDepth - 2) return std::nullopt;
        }
        return depth_ > 0 ? std::optional(stack_[depth_ - 1]) : std::nullopt;
    }

private:
    void push(std::uint64_t value) { stack_[depth_++] = value; }

    bool push_register(std::uint64_t index, std::uint64_t offset) {
        if (index >= kRegisters || !registers_.has(index)) return false;
        push(registers_.value[index] + offset);
        return true;
    }

    bool one(const Dwarf_Op& op) {
        if (op.atom >= DW_OP_lit0 && op.atom <= DW_OP_lit31) {
            push(op.atom - DW_OP_lit0);
            return true;
        }
        if (op.atom >= DW_OP_breg0 && op.atom <= DW_OP_breg31) return push_register(op.atom - DW_OP_breg0, op.number);
        switch (op.atom) {
            case DW_OP_bregx:
                return push_register(op.number, op.number2);
            case DW_OP_call_frame_cfa:
                push(cfa_);
                return true;
            case DW_OP_const1u:
            case DW_OP_const1s:
            case DW_OP_const2u:
            case DW_OP_const2s:
            case DW_OP_const4u:
            case DW_OP_const4s:
            case DW_OP_const8u:
            case DW_OP_const8s:
            case DW_OP_constu:
            case DW_OP_consts:
                push(op.number);
                return true;
            case DW_OP_nop:
                return true;
            default:
                return depth_ > 0 && (unary(op) || (depth_ > 1 && binary(op)));
        }
    }

    bool unary(const Dwarf_Op& op) {
        std::uint64_t& top = stack_[depth_ - 1];
        switch (op.atom) {
            case DW_OP_dup:
                push(top);
                return true;
            case DW_OP_drop:
                --depth_;
                return true;
            case DW_OP_deref:
                return memory_.read(top, 8, top);
            case DW_OP_deref_size:
                return op.number <= 8 && memory_.read(top, op.number, top);
            case DW_OP_plus_uconst:
                top += op.number;
                return true;
            case DW_OP_neg:
                top = 0 - top;
                return true;
            case DW_OP_not:
                top = ~top;
                return true;
            default:
                return false;
        }
    }

    bool binary(const Dwarf_Op& op) {
        const std::uint64_t right = stack_[depth_ - 1];
        std::uint64_t& left = stack_[depth_ - 2];
        const auto signed_left = static_cast<std::int64_t>(left);
        const auto signed_right = static_cast<std::int64_t>(right);
        switch (op.atom) {
            case DW_OP_plus:
                left += right;
                break;
            case DW_OP_minus:
                left -= right;
                break;
            case DW_OP_mul:
                left *= right;
                break;
            case DW_OP_and:
                left &= right;
                break;
            case DW_OP_or:
                left |= right;
                break;
            case DW_OP_xor:
                left ^= right;
                break;
            case DW_OP_shl:
                left = right < 64 ? left << right : 0;
                break;
            case DW_OP_shr:
                left = right < 64 ? left >> right : 0;
                break;
            case DW_OP_eq:
                left = left == right;
                break;
            case DW_OP_ne:
                left = left != right;
                break;
            case DW_OP_ge:
                left = signed_left >= signed_right;
                break;
            case DW_OP_gt:
                left = signed_left > signed_right;
                break;
            case DW_OP_le:
                left = signed_left <= signed_right;
                break;
            case DW_OP_lt:
                left = signed_left < signed_right;
                break;
            default:
                return false;
        }
        --depth_;
        return true;
    }

    const Registers& registers_;
    const StackCopy& memory_;
    std::uint64_t cfa_;
    std::array<std::uint64_t, kMaxDepth> stack_{};
    std::size_t depth_ = 0;
};

// The value in the caller of register `index`.
std::optional<std::uint64_t> caller_value(std::span<const Dwarf_Op> ops, std::size_t index, const Registers& registers,
                                          const StackCopy& stack, std::uint64_t cfa) {
    const Dwarf_Op& only = ops.front();
    const bool names_register = only.atom == DW_OP_regx || (only.atom >= DW_OP_reg0 && only.atom <= DW_OP_reg31);
    if (ops.size() == 1 && names_register) {
        const std::uint64_t other = only.atom == DW_OP_regx ? only.number : only.atom - DW_OP_reg0;
        return other < kRegisters && registers.has(other) ? std::optional(registers.value[other]) : std::nullopt;
    }
    const bool is_value = ops.back().atom == DW_OP_stack_value;
    auto result = Machine(registers, stack, cfa).run(is_value ? ops.first(ops.size() - 1) : ops);
    if (!result || is_value) return result;
    // What lies below the stack pointer has been popped already: in epilogues compilers do not say that again.
    if (*result < registers.value[kRsp] && index != kReturn)
        return registers.has(index) ? std::optional(registers.value[index]) : std::nullopt;
    std::uint64_t value = 0;
    return stack.read(*result, 8, value) ? std::optional(value) : std::nullopt;
}

}  // namespace

bool StackCopy::read(std::uint64_t address, std::size_t size, std::uint64_t& value) const {
    const std::uint64_t at = address - base;
    if (address < base || at > bytes.size() || size > bytes.size() - at) return false;
    value = 0;
    std::memcpy(&value, bytes.data() + at, size);
    return true;
}

Step step(const FrameRow& row, const StackCopy& stack, Registers& registers) {
    auto ops_of = [&](const Rule& rule) { return std::span(row.ops).subspan(rule.first, rule.count); };
    if (row.registers[kReturn].how == Rule::How::undefined) return Step::outermost;
    if (row.cfa.how != Rule::How::expression) return Step::stuck;
    const auto cfa = Machine(registers, stack, 0).run(ops_of(row.cfa));
    if (!cfa) return Step::stuck;
    Registers caller;
    for (std::size_t i = 0; i < kRegisters; ++i) {
        const Rule& rule = row.registers[i];
        if (rule.how == Rule::How::same && registers.has(i)) caller.set(i, registers.value[i]);
        if (rule.how != Rule::How::expression) continue;
        if (const auto value = caller_value(ops_of(rule), i, registers, stack, *cfa)) caller.set(i, *value);
    }
    if (!caller.has(kRsp)) caller.set(kRsp, *cfa);
    if (!caller.has(kReturn)) return Step::stuck;
    // A stack grows down; only a signal may have moved to another one.
    if (!row.signal_frame && caller.value[kRsp] <= registers.value[kRsp]) return Step::stuck;
    if (caller.value[kReturn] == 0) return Step::outermost;
    registers = caller;
    return Step::done;
}

const FrameRow& FrameRow::at_call() {
    static const FrameRow row = [] {
        FrameRow made;
        const Dwarf_Op above[] = {{DW_OP_bregx, kRsp, 8, 0}};
        const Dwarf_Op top[] = {{DW_OP_bregx, kRsp, 0, 0}};
        for (Rule& rule : made.registers) rule.how = Rule::How::same;
        made.cfa = keep(made, above, 1);
        made.registers[kRsp] = {};
        made.registers[kReturn] = keep(made, top, 1);
        return made;
    }();
    return row;
}

const FrameRow* CallFrames::row(std::uint64_t address) {
    if (const auto known = rows_.find(address); known != rows_.end()) return known->second.get();
    if (rows_.size() >= kMaxRows) rows_.clear();
    auto row = make_row(eh_, address);
    if (!row) row = make_row(debug_, address);
    return rows_.emplace(address, std::move(row)).first->second.get();
}

}  // namespace cloister::unwind
