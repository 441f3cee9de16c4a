// A program followed instruction by instruction: at every one of them the unwound stack must be the real one, which the
// test keeps itself by watching calls.
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "subject.hpp"
#include "traced.hpp"
#include "unwind/symbols.hpp"

#include <sys/syscall.h>

namespace cloister::unwind::test {
namespace {

constexpr int kMaxSteps = 100'000;
// More than lies above the program's stack pointer at its stop, up to the outermost return address.
constexpr std::uint64_t kAboveStop = 1024;

struct Return {
    std::uint64_t slot, pc;  // where the return address lies, and it
};

// One for each place: inlined functions share theirs.
std::vector<std::uint64_t> places(const std::vector<Frame>& frames, bool certain_only) {
    std::vector<std::uint64_t> out;
    for (const Frame& frame : frames) {
        if (certain_only && frame.guessed) break;
        if (out.empty() || out.back() != frame.pc) out.push_back(frame.pc);
    }
    return out;
}

class Steps : public testing::TestWithParam<const char*> {};

TEST_P(Steps, EveryInstructionHasItsRealStack) {
    Traced program({subject(GetParam()), "stretch"});
    ASSERT_TRUE(program.to_stop(20));
    const auto pid = static_cast<std::uint32_t>(program.pid());
    AddressSpaces spaces;
    ASSERT_TRUE(spaces.snapshot(pid));
    const Symbols symbols(spaces);

    const auto at_start = symbols.user(*program.stack());
    ASSERT_EQ(at_start.back().function, "_start") << text(at_start);
    std::vector<Return> shadow;  // outermost first
    const auto start = places(at_start, true);
    for (std::size_t i = start.size() - 1; i > 0; --i) shadow.push_back({~0ULL, start[i]});
    const std::uint64_t top = program.registers().rsp;

    std::set<std::string> seen;
    int complete = 0;
    int steps = 0;
    for (; steps < kMaxSteps; ++steps) {
        const user_regs_struct before = program.registers();
        program.step();
        const user_regs_struct now = program.registers();
        if (now.orig_rax == SYS_getppid && now.rdi == 21 && now.rip == now.rcx) break;
        while (shadow.back().slot < now.rsp) shadow.pop_back();
        if (now.rsp == before.rsp - 8) {
            const std::uint64_t pushed = program.word(now.rsp);
            // A call leaves the address of the next instruction, and goes elsewhere.
            if (pushed > before.rip && pushed <= before.rip + 15 && now.rip != pushed)
                shadow.push_back({now.rsp, pushed});
        }
        const auto stack = program.stack();
        const auto frames = symbols.user(*stack);
        for (const Frame& frame : frames) seen.insert(frame.function);
        std::vector<std::uint64_t> real{now.rip};
        for (auto at = shadow.rbegin(); at != shadow.rend(); ++at)
            if (at->pc != real.back()) real.push_back(at->pc);
        const auto found = places(frames, true);
        ASSERT_LE(found.size(), real.size()) << "step " << steps << ": " << text(frames);
        ASSERT_TRUE(std::equal(found.begin(), found.end(), real.begin())) << "step " << steps << ": " << text(frames);
        // Not copied to the end: lazy binding alone saves up to 3 KiB of registers, depending on the processor.
        if (now.rsp + stack->copy_n < top + kAboveStop) continue;
        ASSERT_EQ(found.size(), real.size()) << "step " << steps << ": " << text(frames);
        ++complete;
    }
    EXPECT_GT(steps, 1000);
    EXPECT_LT(steps, kMaxSteps);
    EXPECT_GT(complete, steps / 2);
    for (const char* function : {"compare", "getcpu", "sort_prices", "stretch", "malloc", "ring::Queue<long>::push"})
        EXPECT_TRUE(seen.contains(function)) << function;
    EXPECT_EQ(seen.contains("snprintf@plt"), GetParam() != std::string("static"));
}

INSTANTIATE_TEST_SUITE_P(Shapes, Steps, testing::Values("o0", "o2", "o2_fp", "static", "debug_frame"),
                         [](const auto& shape) { return std::string(shape.param); });

}  // namespace
}  // namespace cloister::unwind::test
