#include "unwind/sampled_stack.hpp"

#include <algorithm>
#include <span>

namespace cloister::unwind {
namespace {

Registers registers_of(const cl_stack& s) {
    Registers registers;
    registers.value = {s.ax, s.dx,  s.cx,  s.bx,  s.si,  s.di,  s.bp,  s.sp, s.r8,
                       s.r9, s.r10, s.r11, s.r12, s.r13, s.r14, s.r15, s.ip};
    registers.known = (1U << kRegisters) - 1;
    return registers;
}

// Whether the bytes end in a call instruction.
bool ends_in_call(const std::array<unsigned char, 7>& code) {
    if (code[code.size() - 5] == 0xe8) return true;  // call distance
    for (std::size_t length = 2; length <= code.size(); ++length) {
        const unsigned char* at = code.data() + code.size() - length;
        if (at[0] != 0xff || (at[1] >> 3 & 7) != 2) continue;  // call r/m64
        const int mode = at[1] >> 6;
        const int operand = at[1] & 7;
        std::size_t real = 2;
        if (mode != 3 && operand == 4) real += 1;  // a SIB byte
        if (mode == 1) real += 1;
        if (mode == 2 || (mode == 0 && operand == 5)) real += 4;
        if (mode == 0 && operand == 4 && length > 2 && (at[2] & 7) == 5) real += 4;
        if (real == length) return true;
    }
    return false;
}

// Whether a word that was found can be a return address: generated code has no file to ask.
bool returnable(Code& code, std::uint64_t pc) {
    if (!code.executable(pc - 1)) return false;
    const auto bytes = code.bytes_before(pc);
    return !bytes || ends_in_call(*bytes);
}

// A syscall leaves the address after it in rcx and the flags in r11. Both may also be there by chance, in the first
// instruction of a function that was called through rcx.
bool is_after_syscall(const cl_stack& stack, Code& code) {
    if (stack.cx != stack.ip) return false;
    const auto bytes = code.bytes_before(stack.ip);
    return !bytes || ((*bytes)[5] == 0x0f && (*bytes)[6] == 0x05);
}

// Along the frame pointer: [rbp] is the caller's, [rbp + 8] the return address.
bool follow_frame_pointer(const StackCopy& stack, Code& code, Registers& registers) {
    const std::uint64_t frame = registers.value[kRbp];
    std::uint64_t caller_frame = 0;
    std::uint64_t pc = 0;
    if (!registers.has(kRbp) || frame % 8 != 0 || frame < registers.value[kRsp]) return false;
    if (!stack.read(frame, 8, caller_frame) || !stack.read(frame + 8, 8, pc) || !returnable(code, pc)) return false;
    registers.known = 0;
    registers.set(kRbp, caller_frame);
    registers.set(kRsp, frame + 16);
    registers.set(kReturn, pc);
    return true;
}

// What the kernel found along the frame pointers beyond the last place that both agree on.
void append_kernel_walk(const cl_stack& stack, Code& code, std::vector<StackPc>& out) {
    const std::span walk(stack.user, std::min<std::size_t>(stack.user_n, CL_STACK_FRAMES));
    auto next = walk.end();
    for (std::size_t i = out.size(); i-- > 0 && next == walk.end();) {
        // The place of a recursion is there many times: the n-th here is the n-th there.
        auto left =
            std::count_if(out.begin(), out.begin() + i + 1, [&](const StackPc& at) { return at.pc == out[i].pc; });
        const auto match =
            std::find_if(walk.begin(), walk.end(), [&](std::uint64_t pc) { return pc == out[i].pc && --left == 0; });
        if (match != walk.end()) next = match + 1;
    }
    for (; next != walk.end() && out.size() < kMaxStackPcs; ++next) {
        if (!returnable(code, *next)) return;  // rbp held something else
        out.push_back({*next, true, true});
    }
}

}  // namespace

std::vector<StackPc> walk(const cl_stack& stack, Code& code) {
    std::vector<StackPc> out;
    if (stack.ip == 0) return out;
    out.push_back({stack.ip, is_after_syscall(stack, code), false});
    Registers registers = registers_of(stack);
    StackCopy copy{stack.sp, {stack.copy, std::min<std::size_t>(stack.copy_n, CL_STACK_COPY)}};
    if (!code.readable(stack.ip)) copy.bytes = {};
    bool guessed = false;
    bool has_caller = true;
    while (out.size() < kMaxStackPcs) {
        const FrameRow* row = code.row(out.back().lookup());
        const Step taken = row ? step(*row, copy, registers) : Step::stuck;
        has_caller = taken != Step::outermost;
        if (!has_caller) break;
        if (taken == Step::stuck) {
            // Where there are rules, rbp is theirs to explain.
            if (row || !follow_frame_pointer(copy, code, registers)) break;
            guessed = true;
        }
        const std::uint64_t pc = registers.value[kReturn];
        const bool interrupted = taken == Step::done && row->signal_frame;
        if (!code.executable(interrupted ? pc : pc - 1)) break;
        out.push_back({pc, !interrupted, guessed});
    }
    if (has_caller) append_kernel_walk(stack, code, out);
    return out;
}

}  // namespace cloister::unwind
