// Broken files and stacks of garbage: whatever is made of them, it ends, it is bounded, and certain frames are in code.
#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "subject.hpp"
#include "traced.hpp"
#include "unwind/elf_module.hpp"
#include "unwind/sampled_stack.hpp"
#include "unwind/symbols.hpp"

namespace cloister::unwind::test {
namespace {

std::vector<char> bytes_of(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return std::vector<char>(std::istreambuf_iterator<char>(file), {});
}

// How many addresses had names, and how many had rows.
std::pair<std::size_t, std::size_t> use(ElfModule& module, std::size_t size, std::mt19937_64& random) {
    std::pair<std::size_t, std::size_t> known;
    for (int i = 0; i < 40; ++i) {
        const auto address = module.address(random() % size);
        if (!address) continue;
        const auto& names = module.names(*address);
        for (const SourcePlace& place : names.places) EXPECT_LE(place.function.size(), 1U << 20);
        known.first += !names.places.empty();
        if (const FrameRow* row = module.row(*address)) {
            ++known.second;
            Registers registers;
            for (std::size_t r = 0; r < kRegisters; ++r) registers.set(r, random());
            std::vector<unsigned char> stack(256);
            (void)step(*row, {registers.value[kRsp], stack}, registers);
        }
    }
    return known;
}

class BrokenFiles : public testing::TestWithParam<const char*> {};

TEST_P(BrokenFiles, AreReadAsFarAsTheyMakeSense) {
    const std::vector<char> whole = bytes_of(subject(GetParam()));
    ASSERT_GT(whole.size(), 4096U);
    std::mt19937_64 random(2);
    std::pair<std::size_t, std::size_t> known;
    int opened = 0;
    for (int round = 0; round < 150; ++round) {
        std::vector<char> broken = whole;
        if (round % 10 == 9) broken.resize(random() % broken.size());
        const bool headers = round % 3 == 0;  // program headers follow the first 64 bytes
        const std::size_t reach = std::min<std::size_t>(headers ? 1024 : broken.size(), broken.size());
        for (std::uint64_t n = random() % 64 + 1; reach > 0 && n > 0; --n)
            broken[(headers ? 16 : 0) + random() % (reach > 16 ? reach - 16 : 1)] = static_cast<char>(random());
        const auto module = ElfModule::open(MappedFile(broken), "/nonexistent");
        if (!module) continue;
        ++opened;
        const auto [names, rows] = use(*module, broken.size(), random);
        known.first += names;
        known.second += rows;
    }
    EXPECT_GT(opened, 50);
    EXPECT_GT(known.first, 0U);
    EXPECT_GT(known.second, 0U);
}

INSTANTIATE_TEST_SUITE_P(Shapes, BrokenFiles, testing::Values("o0", "o2", "stripped", "debug_frame"),
                         [](const auto& shape) { return std::string(shape.param); });

TEST(BrokenFile, ThatIsNotAnElfAtAll) {
    EXPECT_FALSE(ElfModule::open(MappedFile(std::vector<char>(1, 'x'))));
    EXPECT_FALSE(ElfModule::open(MappedFile(std::vector<char>(10'000, 'x'))));
    const std::vector<char> head = bytes_of(subject("o2"));
    EXPECT_FALSE(ElfModule::open(MappedFile(std::vector<char>(head.begin(), head.begin() + 64))));
}

TEST(BrokenFile, ThatClaimsMoreThanAnyProgramHas) {
    std::vector<char> bytes = bytes_of(subject("o2"));
    Elf64_Ehdr header;
    std::memcpy(&header, bytes.data(), sizeof header);
    ASSERT_TRUE(ElfModule::open(MappedFile(bytes)));
    Elf64_Shdr section;
    char* const at = bytes.data() + header.e_shoff + sizeof section;
    std::memcpy(&section, at, sizeof section);
    section.sh_size = std::uint64_t{1} << 40;
    std::memcpy(at, &section, sizeof section);
    EXPECT_FALSE(ElfModule::open(MappedFile(bytes)));
}

TEST(GarbageStacks, EndAndStayInCode) {
    Traced program({subject("o2_fp"), "qsort"});
    ASSERT_TRUE(program.to_stop(3));
    const auto pid = static_cast<std::uint32_t>(program.pid());
    AddressSpaces spaces;
    ASSERT_TRUE(spaces.snapshot(pid));
    const auto real = program.stack();
    program.end();
    const Symbols symbols(spaces);
    const auto expected = symbols.user(*real).size();
    const auto& maps = *spaces.maps(pid);

    std::mt19937_64 random(1);
    // What looks most like a stack: real words, addresses in the stack, addresses in code, anything.
    auto word = [&]() -> std::uint64_t {
        const auto& map = maps[random() % maps.size()];
        switch (random() % 4) {
            case 0:
                return real->sp + random() % CL_STACK_COPY;
            case 1:
                return map.start + random() % (map.end - map.start);
            case 2:
                return real->user[random() % real->user_n];
            default:
                return random() >> random() % 64;
        }
    };
    std::set<std::size_t> sizes;
    for (int round = 0; round < 4000; ++round) {
        const auto stack = std::make_unique<cl_stack>(*real);
        for (cl_u64* reg : {&stack->bp, &stack->bx, &stack->sp, &stack->ip, &stack->r12, &stack->cx})
            if (random() % 4 == 0) *reg = word();
        for (std::uint64_t n = random() % 256; n > 0; --n) {
            const std::uint64_t value = word();
            std::memcpy(stack->copy + random() % (CL_STACK_COPY / 8) * 8, &value, sizeof value);
        }
        if (random() % 8 == 0) stack->copy_n = static_cast<cl_u32>(random());
        if (random() % 4 == 0) stack->user_n = static_cast<cl_u32>(random());
        for (cl_u64& pc : stack->user)
            if (random() % 4 == 0) pc = word();
        const auto frames = symbols.user(*stack);
        std::set<std::uint64_t> places;
        for (const Frame& frame : frames) {
            places.insert(frame.pc);
            if (frame.pc == stack->ip) continue;
            ASSERT_TRUE(spaces.find(pid, frame.pc - 1) || spaces.find(pid, frame.pc)) << frame.text();
        }
        ASSERT_LE(places.size(), kMaxStackPcs);
        sizes.insert(frames.size());
    }
    EXPECT_TRUE(sizes.contains(expected)) << "some are whole still";
    EXPECT_GT(sizes.size(), 5U);
}

// A stack whose frames lead back to themselves.
TEST(GarbageStacks, CirclesEnd) {
    struct Circle final : Code {
        const FrameRow* row(std::uint64_t) override { return nullptr; }
        bool executable(std::uint64_t) override { return true; }
        std::optional<std::array<unsigned char, 7>> bytes_before(std::uint64_t) override { return std::nullopt; }
        bool readable(std::uint64_t) override { return true; }
    } code;
    const auto stack = std::make_unique<cl_stack>();
    stack->ip = 0x401000;
    stack->sp = 0x7ffc00000000;
    stack->bp = stack->sp + 64;
    stack->copy_n = CL_STACK_COPY;
    const std::uint64_t frame[2] = {stack->sp + 64, 0x402000};
    std::memcpy(stack->copy + 64, frame, sizeof frame);
    EXPECT_EQ(walk(*stack, code).size(), 2U);
    // And one that goes on for longer than anyone would read.
    for (std::uint64_t at = 64; at + 16 <= CL_STACK_COPY; at += 16) {
        const std::uint64_t next[2] = {stack->sp + at + 16, 0x402000 + at};
        std::memcpy(stack->copy + at, next, sizeof next);
    }
    EXPECT_EQ(walk(*stack, code).size(), kMaxStackPcs);
}

}  // namespace
}  // namespace cloister::unwind::test
