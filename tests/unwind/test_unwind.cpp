// Whole stacks of real programs, in every shape that compilers give them.
#include <filesystem>

#include <gtest/gtest.h>

#include "subject.hpp"
#include "traced.hpp"
#include "unwind/elf_module.hpp"
#include "unwind/symbols.hpp"

#include <sys/syscall.h>

namespace cloister::unwind::test {
namespace {

using Names = std::vector<std::string>;

// The stack at the stop, resolved after the program has gone.
class Stacks : public testing::TestWithParam<const char*> {
protected:
    std::vector<Frame> at_stop(const std::string& scenario, long marker) {
        Traced program({subject(GetParam()), scenario});
        if (!program.to_stop(marker)) return {};
        return look(program);
    }
    std::vector<Frame> look(Traced& program) {
        const auto pid = static_cast<std::uint32_t>(program.pid());
        EXPECT_TRUE(spaces_.snapshot(pid));
        const auto stack = program.stack();
        program.end();
        return symbols_.user(*stack);
    }
    [[nodiscard]] static bool has_frame_pointers() {
        return GetParam() == std::string("o0") || GetParam() == std::string("o2_fp");
    }

    AddressSpaces spaces_;
    Symbols symbols_{spaces_};
};

// Names, source places, and the end of the stack.
void expect_lines(const std::vector<Frame>& frames, const Names& lines) {
    for (std::size_t i = 0; i < lines.size(); ++i) {
        if (lines[i].empty()) continue;
        ASSERT_LT(i, frames.size());
        ASSERT_NE(line_of(lines[i]), 0) << lines[i];
        EXPECT_EQ(frames[i].file, "subject.cc") << text(frames);
        EXPECT_EQ(frames[i].line, line_of(lines[i])) << text(frames);
    }
}

TEST_P(Stacks, ASyscallStubOfTheCLibraryKeepsItsCaller) {
    Traced program({subject(GetParam()), "munmap"});
    std::uint64_t page = 0;
    // The program's own munmap comes last: the loader's are done by the time of main.
    ASSERT_TRUE(program.to_syscall(SYS_mmap));
    std::vector<Frame> frames;
    do {
        ASSERT_TRUE(program.to_syscall(SYS_munmap));
        AddressSpaces spaces;
        ASSERT_TRUE(spaces.snapshot(static_cast<std::uint32_t>(program.pid())));
        frames = Symbols(spaces).user(*program.stack());
        page = program.registers().rdi;
    } while (functions(frames).back() != "main");
    EXPECT_NE(page, 0U);
    EXPECT_EQ(functions(frames), (Names{"munmap", "rotate_log", "main"}));
    EXPECT_EQ(frames[1].text(), "rotate_log subject.cc:" + std::to_string(line_of("munmap")));
    EXPECT_FALSE(any_guessed(frames)) << text(frames);
    EXPECT_EQ(frames.back().function, "_start") << text(frames);
}

TEST_P(Stacks, InlinedFunctionsAndTemplatesHaveTheirNamesAndLines) {
    const auto frames = at_stop("template", 2);
    const std::string queue = "ring::Queue<ring::Queue<int>*>::";
    EXPECT_EQ(functions(frames), (Names{"stop", queue + "note", queue + "push", queue + "operator()", "main"}));
    expect_lines(frames, {"stop", "note", "push", "call"});
    ASSERT_GE(frames.size(), 4U);
    EXPECT_EQ(frames[0].pc, frames[2].pc);
    EXPECT_NE(frames[2].pc, frames[3].pc);
    EXPECT_FALSE(any_guessed(frames)) << text(frames);
}

TEST_P(Stacks, ACallbackFromTheCLibraryKeepsWhoCalledTheLibrary) {
    const auto frames = at_stop("qsort", 3);
    auto names = functions(frames);
    ASSERT_GE(names.size(), 5U) << text(frames);
    EXPECT_EQ(Names(names.begin(), names.begin() + 2), (Names{"stop", "compare"}));
    EXPECT_EQ(Names(names.end() - 2, names.end()), (Names{"sort_prices", "main"}));
    expect_lines(frames, {"stop", "compare"});
    EXPECT_EQ(frame_of(frames, "sort_prices").line, line_of("sort"));
    EXPECT_FALSE(any_guessed(frames)) << text(frames);
}

TEST_P(Stacks, GoThroughSignalFrames) {
    const auto frames = at_stop("signal", 4);
    const auto names = functions(frames);
    ASSERT_GE(names.size(), 5U) << text(frames);
    EXPECT_EQ(Names(names.begin(), names.begin() + 2), (Names{"stop", "on_signal"}));
    EXPECT_EQ(Names(names.end() - 2, names.end()), (Names{"interrupt_oneself", "main"}));
    expect_lines(frames, {"stop", "handler"});
    EXPECT_EQ(frame_of(frames, "interrupt_oneself").line, line_of("raise"));
    EXPECT_FALSE(any_guessed(frames)) << text(frames);
}

TEST_P(Stacks, DeeperThanTheCopyGoOnAlongFramePointersAsAGuess) {
    const auto frames = at_stop("deep", 5);
    const auto names = functions(frames);
    const auto calls = static_cast<std::size_t>(std::count(names.begin(), names.end(), "descend"));
    ASSERT_GT(calls, 3U) << text(frames);
    if (has_frame_pointers()) {
        EXPECT_EQ(calls, 21U);
        EXPECT_EQ(names.back(), "main");
        EXPECT_TRUE(any_guessed(frames));
    } else {
        EXPECT_LT(calls, 21U);
        EXPECT_EQ(names.size(), calls + 1) << "stop, and nothing that is not there: " << text(frames);
        EXPECT_FALSE(any_guessed(frames)) << text(frames);
    }
    // Seven or so fit into the copy, and a guess is never followed by a certainty.
    EXPECT_FALSE(frames[3].guessed);
    EXPECT_TRUE(std::is_sorted(frames.begin(), frames.end(),
                               [](const Frame& a, const Frame& b) { return !a.guessed && b.guessed; }));
}

TEST_P(Stacks, ACallThatNeverReturnsBelongsToItsCaller) {
    const auto frames = at_stop("noreturn", 6);
    EXPECT_EQ(functions(frames), (Names{"stop", "give_up", "last_call", "main"})) << text(frames);
    EXPECT_EQ(frame_of(frames, "last_call").line, line_of("last call"));
}

TEST_P(Stacks, GeneratedCodeIsAnAddressAndWhatIsBelowItAGuess) {
    const auto frames = at_stop("generated", 7);
    EXPECT_EQ(functions(frames), (Names{"stop", "under_generated_code", "", "run_generated_code", "main"}))
        << text(frames);
    ASSERT_GE(frames.size(), 5U);
    EXPECT_TRUE(frames[2].text().starts_with("0x")) << frames[2].text();
    EXPECT_TRUE(frames[2].module.empty());
    EXPECT_FALSE(frames[2].guessed);
    EXPECT_TRUE(frames[3].guessed);
    EXPECT_TRUE(frames[3].text().starts_with("? run_generated_code")) << frames[3].text();
}

TEST_P(Stacks, LeadOutOfTheVdso) {
    Traced program({subject(GetParam()), "vdso"});
    ASSERT_TRUE(program.to_stop(8));
    const auto pid = static_cast<std::uint32_t>(program.pid());
    ASSERT_TRUE(spaces_.snapshot(pid));
    std::optional<AddressSpaces::Place> place;
    for (int i = 0; i < 100'000; ++i) {
        program.step();
        place = spaces_.find(pid, program.registers().rip);
        if (place && place->map->path == "[vdso]") break;
    }
    ASSERT_TRUE(place && place->map->path == "[vdso]");
    for (int i = 0; i < 5; ++i) program.step();  // its frame is half made
    const auto frames = look(program);
    EXPECT_EQ(frames[0].module, "[vdso]");
    EXPECT_NE(frames[0].function.find("clock_gettime"), std::string::npos) << text(frames);
    const auto names = functions(frames);
    EXPECT_EQ(Names(names.end() - 2, names.end()), (Names{"read_clock", "main"})) << text(frames);
    EXPECT_FALSE(any_guessed(frames)) << text(frames);
}

TEST_P(Stacks, ALambdaIsNamedAfterItsFunction) {
    const auto frames = at_stop("lambda", 9);
    const auto names = functions(frames);
    ASSERT_EQ(names.size(), 4U) << text(frames);
    EXPECT_EQ(names[0], "stop");
    // What stands between is the compiler's: {lambda(int)#1} or $_1.
    EXPECT_TRUE(names[1].starts_with("through_a_lambda(Config const&)::")) << names[1];
    EXPECT_TRUE(names[1].ends_with("::operator()")) << names[1];
    EXPECT_EQ(names[2], "through_a_lambda");
    EXPECT_EQ(frame_of(frames, "through_a_lambda").line, line_of("lambda"));
}

INSTANTIATE_TEST_SUITE_P(Shapes, Stacks, testing::Values("o0", "o2", "o2_fp", "static", "debug_frame"),
                         [](const auto& shape) { return std::string(shape.param); });

TEST(StrippedProgram, UnwindsAllTheSameAndGivesModuleAndAddress) {
    Traced program({subject("stripped"), "qsort"});
    ASSERT_TRUE(program.to_stop(3));
    AddressSpaces spaces;
    ASSERT_TRUE(spaces.snapshot(static_cast<std::uint32_t>(program.pid())));
    const auto frames = Symbols(spaces).user(*program.stack());
    // What its twin with symbols calls the same addresses.
    FileIdentity identity;
    FileHandle handle = open_regular(subject("o2"), identity);
    const auto twin = ElfModule::open(MappedFile(subject("o2"), identity, std::move(handle)));
    ASSERT_TRUE(twin);
    Names own;
    for (const Frame& frame : frames) {
        if (frame.module != "unwind_subject_stripped") continue;
        EXPECT_TRUE(frame.function.empty()) << frame.text();
        EXPECT_TRUE(frame.text().starts_with("unwind_subject_stripped+0x")) << frame.text();
        own.push_back(twin->names(frame.offset - 1).places.back().function);
    }
    EXPECT_EQ(own, (Names{"compare", "sort_prices", "main", "_start"})) << text(frames);
    EXPECT_FALSE(any_guessed(frames));
}

TEST(SeparateDebugFile, GivesWhatTheProgramItselfWouldGive) {
    FileIdentity identity;
    FileHandle whole_handle = open_regular(subject("o2"), identity);
    const auto whole = ElfModule::open(MappedFile(subject("o2"), identity, std::move(whole_handle)));
    FileHandle stripped_handle = open_regular(subject("stripped"), identity);
    const MappedFile stripped_file(subject("stripped"), identity, std::move(stripped_handle));
    ASSERT_TRUE(whole);

    // Where a distribution would put it: by the build id, which the file itself tells.
    std::string id;
    {
        elf_version(EV_CURRENT);
        const FileHandle fd = stripped_file.open();
        Elf* elf = elf_begin(fd.get(), ELF_C_READ, nullptr);
        Elf_Scn* section = nullptr;
        while (id.empty() && (section = elf_nextscn(elf, section))) {
            const Elf_Data* data = elf_rawdata(section, nullptr);
            const std::string_view bytes(static_cast<const char*>(data->d_buf), data->d_buf ? data->d_size : 0);
            if (bytes.size() != 36 || bytes.substr(12, 4) != std::string_view("GNU\0", 4)) continue;
            for (const char c : bytes.substr(16)) {
                char hex[3];
                std::snprintf(hex, sizeof hex, "%02x", static_cast<unsigned char>(c));
                id += hex;
            }
        }
        elf_end(elf);
    }
    ASSERT_EQ(id.size(), 40U);
    const std::filesystem::path root = testing::TempDir() + "cloister-debug-" + std::to_string(::getpid());
    const auto folder = root / ".build-id" / id.substr(0, 2);
    std::filesystem::create_directories(folder);
    std::filesystem::copy(std::string(CLOISTER_SUBJECT_STRIPPED) + ".debug", folder / (id.substr(2) + ".debug"));

    const auto split = ElfModule::open(stripped_file, root);
    ASSERT_TRUE(split);
    std::size_t inlined = 0;
    std::size_t with_lines = 0;
    for (std::uint64_t offset = 0; offset < std::filesystem::file_size(subject("stripped")); ++offset) {
        const auto address = whole->address(offset);
        if (!address) continue;
        const auto& expected = whole->names(*address);
        const auto& found = split->names(*address);
        ASSERT_EQ(expected.places.size(), found.places.size()) << std::hex << *address;
        for (std::size_t i = 0; i < expected.places.size(); ++i) {
            ASSERT_EQ(expected.places[i].function, found.places[i].function);
            ASSERT_EQ(expected.places[i].line, found.places[i].line);
            with_lines += expected.places[i].file == "subject.cc";
        }
        inlined += expected.places.size() > 1;
    }
    EXPECT_GT(with_lines, 1000U);
    EXPECT_GT(inlined, 10U);
    const auto without = ElfModule::open(stripped_file, root / "nowhere");
    ASSERT_TRUE(without);
    std::filesystem::remove_all(root);
}

TEST(Stacks, AKernelThreadHasNoUserPart) {
    AddressSpaces spaces;
    cl_stack stack{};
    stack.tgid = 2;
    EXPECT_TRUE(Symbols(spaces).user(stack).empty());
}

TEST(Stacks, OfAProcessThatIsNotKnownAreOneAddress) {
    AddressSpaces spaces;
    const auto stack = std::make_unique<cl_stack>();
    stack->tgid = 0x7ffffff0;
    stack->ip = 0x401234;
    stack->sp = 0x7ffc00000000;
    stack->bp = 0x7ffc00000010;
    stack->copy_n = 64;
    stack->user_n = 2;
    stack->user[0] = stack->ip;
    stack->user[1] = 0x401999;
    EXPECT_EQ(text(Symbols(spaces).user(*stack)), "0x401234");
}

TEST(Frame, Text) {
    Frame frame;
    frame.pc = 0x7f0012345678;
    EXPECT_EQ(frame.text(), "0x7f0012345678");
    frame.module = "libfoo.so";
    frame.offset = 0x1234;
    EXPECT_EQ(frame.text(), "libfoo.so+0x1234");
    frame.function = "rotate_log";
    EXPECT_EQ(frame.text(), "rotate_log");
    frame.file = "log.cc";
    frame.line = 88;
    EXPECT_EQ(frame.text(), "rotate_log log.cc:88");
    frame.guessed = true;
    EXPECT_EQ(frame.text(), "? rotate_log log.cc:88");
    Frame kernel;
    kernel.kernel = true;
    kernel.function = "work";
    kernel.module = "[kernel]";
    EXPECT_EQ(kernel.text(), "work");
    kernel.module = "[virtio_blk]";
    EXPECT_EQ(kernel.text(), "work [virtio_blk]");
}

}  // namespace
}  // namespace cloister::unwind::test
