// What needs the live kernel and its administrator.
#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "subject.hpp"
#include "traced.hpp"
#include "unwind/symbols.hpp"

#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

namespace cloister::unwind::test {
namespace {

TEST(LiveKernel, FunctionsHaveTheNamesThatTheKernelGivesThem) {
    AddressSpaces spaces;
    const Symbols symbols(spaces);
    std::ifstream table("/proc/kallsyms");
    std::string address;
    std::string type;
    std::string name;
    while (table >> address >> type >> name && name != "do_nanosleep") table.ignore(256, '\n');
    ASSERT_EQ(name, "do_nanosleep");
    const std::uint64_t at = std::stoull(address, nullptr, 16);
    ASSERT_NE(at, 0U) << "kptr_restrict hides the addresses, even from root";
    EXPECT_EQ(symbols.kernel_function(at), "do_nanosleep");
    EXPECT_EQ(symbols.kernel_function(at + 1), "do_nanosleep");
    EXPECT_EQ(symbols.kernel_function(0x1234), "0x1234");
    const Frame frame = symbols.kernel(at + 3);
    EXPECT_EQ(frame.text(), "do_nanosleep");
    EXPECT_EQ(frame.offset, 3U);
    EXPECT_TRUE(frame.kernel);

    cl_stack stack{};
    stack.kernel_n = 2;
    stack.kernel[0] = at + 1;  // the call is the byte before
    stack.kernel[1] = 0x1234;
    EXPECT_EQ(text(symbols.kernel(stack)), "do_nanosleep < 0x1234");
}

// In the child: another file under the program's path, in a mount namespace of its own.
void hide(const std::string& path) {
    const auto folder = std::filesystem::path(path).parent_path();
    if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("none", folder.c_str(), "tmpfs", 0, nullptr) != 0)
        ::_exit(126);
    std::filesystem::copy_file(subject("o2"), path);
}

TEST(LiveMounts, AProgramOfAnotherMountNamespaceIsReadThere) {
    const std::string folder = testing::TempDir() + "cloister-mounts-" + std::to_string(::getpid());
    std::filesystem::create_directories(folder);
    const std::string path = folder + "/program";
    // What is seen under this path from here is another program.
    std::filesystem::copy_file("/bin/true", path);
    {
        Traced program({path, "template"}, hide);
        ASSERT_TRUE(program.to_stop(2));
        AddressSpaces spaces;
        ASSERT_TRUE(spaces.snapshot(static_cast<std::uint32_t>(program.pid())));
        const auto stack = program.stack();
        program.end();
        const auto frames = Symbols(spaces).user(*stack);
        EXPECT_EQ(frames[0].function, "stop") << text(frames);
        EXPECT_EQ(frames[0].line, line_of("stop"));
        EXPECT_EQ(frame_of(frames, "main").module, "program") << text(frames);
    }
    std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace cloister::unwind::test
