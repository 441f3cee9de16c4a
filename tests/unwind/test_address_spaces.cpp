#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "subject.hpp"
#include "traced.hpp"
#include "unwind/mapped_file.hpp"
#include "unwind/symbols.hpp"

#include <unistd.h>

namespace cloister::unwind::test {
namespace {

// Above every pid: no such process is there, so what is said of it is all that is known.
constexpr std::uint32_t kNobody = 0x40000000;

std::string text_of(const AddressSpaces& spaces, std::uint32_t tgid) {
    std::string out;
    if (!spaces.maps(tgid)) return "unknown";
    for (const auto& map : *spaces.maps(tgid)) {
        char line[256];
        std::snprintf(line, sizeof line, "%lx-%lx@%lx %s\n", map.start, map.end, map.offset, map.path.c_str());
        out += line;
    }
    return out;
}

TEST(AddressSpaces, KeepMapsInOrder) {
    AddressSpaces spaces;
    EXPECT_FALSE(spaces.knows(kNobody));
    EXPECT_EQ(spaces.maps(kNobody), nullptr);
    spaces.map(kNobody, {0x5000, 0x6000, 0, "/b"});
    spaces.map(kNobody, {0x1000, 0x2000, 0x100, "/a"});
    spaces.map(kNobody, {0x9000, 0x8000, 0, "/backwards"});
    EXPECT_TRUE(spaces.knows(kNobody));
    EXPECT_EQ(text_of(spaces, kNobody), "1000-2000@100 /a\n5000-6000@0 /b\n");
    EXPECT_EQ(spaces.find(kNobody, 0x1000)->map->path, "/a");
    EXPECT_EQ(spaces.find(kNobody, 0x1fff)->map->path, "/a");
    EXPECT_FALSE(spaces.find(kNobody, 0x2000));
    EXPECT_FALSE(spaces.find(kNobody, 0xfff));
    EXPECT_FALSE(spaces.find(kNobody, 0x7000));
    EXPECT_FALSE(spaces.find(kNobody + 1, 0x1000));
}

TEST(AddressSpaces, ANewMapReplacesWhatItCovers) {
    AddressSpaces spaces;
    spaces.map(kNobody, {0x1000, 0x5000, 0x10000, "/a"});
    spaces.map(kNobody, {0x2000, 0x3000, 0, "/hole"});
    EXPECT_EQ(text_of(spaces, kNobody), "1000-2000@10000 /a\n2000-3000@0 /hole\n3000-5000@12000 /a\n");
    spaces.map(kNobody, {0x1800, 0x4000, 0x500, "/b"});
    EXPECT_EQ(text_of(spaces, kNobody), "1000-1800@10000 /a\n1800-4000@500 /b\n4000-5000@13000 /a\n");
    spaces.map(kNobody, {0x4000, 0x6000, 0, "/c"});
    EXPECT_EQ(text_of(spaces, kNobody), "1000-1800@10000 /a\n1800-4000@500 /b\n4000-6000@0 /c\n");
    spaces.map(kNobody, {0x0, 0x10000, 0, "/all"});
    EXPECT_EQ(text_of(spaces, kNobody), "0-10000@0 /all\n");
}

TEST(AddressSpaces, AChildStartsWithItsParentsAndGoesItsOwnWay) {
    AddressSpaces spaces;
    const auto parent = kNobody;
    const auto child = kNobody + 1;
    spaces.map(parent, {0x1000, 0x2000, 0, "/a"});
    spaces.fork(parent, child);
    EXPECT_EQ(spaces.maps(parent), spaces.maps(child)) << "not copied before one of them changes";
    spaces.map(child, {0x5000, 0x6000, 0, "/child"});
    spaces.map(parent, {0x7000, 0x8000, 0, "/parent"});
    EXPECT_EQ(text_of(spaces, parent), "1000-2000@0 /a\n7000-8000@0 /parent\n");
    EXPECT_EQ(text_of(spaces, child), "1000-2000@0 /a\n5000-6000@0 /child\n");
    spaces.fork(kNobody + 2, kNobody + 3);
    EXPECT_FALSE(spaces.knows(kNobody + 3)) << "nothing is known of the parent";
    spaces.fork(parent, parent);
    EXPECT_EQ(text_of(spaces, parent), "1000-2000@0 /a\n7000-8000@0 /parent\n");
}

TEST(AddressSpaces, ExecForgets) {
    AddressSpaces spaces;
    spaces.map(kNobody, {0x1000, 0x2000, 0, "/a"});
    spaces.fork(kNobody, kNobody + 1);
    spaces.exec(kNobody);
    EXPECT_FALSE(spaces.knows(kNobody));
    EXPECT_TRUE(spaces.knows(kNobody + 1));
    EXPECT_FALSE(spaces.find(kNobody, 0x1000));
}

TEST(AddressSpaces, AStackFromBeforeAnExecIsOfTheProgramBefore) {
    AddressSpaces spaces;
    spaces.map(kNobody, {0x1000, 0x2000, 0, "/shell"});
    spaces.exec(kNobody, 500);
    spaces.map(kNobody, {0x1000, 0x2000, 0, "/program"});
    spaces.exec(kNobody, 900);
    spaces.map(kNobody, {0x1000, 0x2000, 0, "/last"});
    EXPECT_EQ(spaces.find(kNobody, 0x1000, 499)->map->path, "/shell");
    EXPECT_EQ(spaces.find(kNobody, 0x1000, 500)->map->path, "/program");
    EXPECT_EQ(spaces.find(kNobody, 0x1000, 899)->map->path, "/program");
    EXPECT_EQ(spaces.find(kNobody, 0x1000, 900)->map->path, "/last");
    EXPECT_EQ(spaces.find(kNobody, 0x1000)->map->path, "/last");

    const Symbols symbols(spaces);
    const auto stack = std::make_unique<cl_stack>();
    stack->tgid = kNobody;
    stack->ip = 0x1010;
    stack->start = 700;
    EXPECT_EQ(text(symbols.user(*stack)), "program+0x10");
}

TEST(AddressSpaces, AreBounded) {
    AddressSpaces spaces;
    const auto many = static_cast<std::uint32_t>(AddressSpaces::kMaxProcesses + 100);
    for (std::uint32_t i = 0; i < many; ++i) spaces.map(kNobody + i, {0x1000, 0x2000, 0, "/a"});
    std::size_t known = 0;
    for (std::uint32_t i = 0; i < many; ++i) known += spaces.knows(kNobody + i);
    EXPECT_EQ(known, AddressSpaces::kMaxProcesses);
    EXPECT_FALSE(spaces.knows(kNobody));
    EXPECT_TRUE(spaces.knows(kNobody + many - 1));
}

TEST(AddressSpaces, ASnapshotHasTheCodeOfALivingProcess) {
    AddressSpaces spaces;
    const auto self = static_cast<std::uint32_t>(::getpid());
    ASSERT_TRUE(spaces.snapshot(self));
    const auto here = spaces.find(self, reinterpret_cast<std::uint64_t>(&line_of));
    ASSERT_TRUE(here);
    EXPECT_EQ(here->map->path, std::filesystem::read_symlink("/proc/self/exe"));
    EXPECT_TRUE(here->file);
    int on_stack = 0;
    EXPECT_FALSE(spaces.find(self, reinterpret_cast<std::uint64_t>(&on_stack))) << "only code";
    EXPECT_FALSE(spaces.snapshot(kNobody));
    EXPECT_FALSE(spaces.knows(kNobody));
}

TEST(AddressSpaces, AnUnknownProcessIsReadWhenItIsAskedFor) {
    AddressSpaces spaces;
    const Symbols symbols(spaces);
    const auto self = static_cast<std::uint32_t>(::getpid());
    const auto frames = symbols.user(self, reinterpret_cast<std::uint64_t>(&::getpid), false);
    EXPECT_TRUE(spaces.knows(self));
    EXPECT_FALSE(frames.back().module.empty());
}

class Files : public testing::Test {
protected:
    void SetUp() override {
        folder_ = testing::TempDir() + "cloister-files-" + std::to_string(::getpid());
        std::filesystem::create_directories(folder_);
        path_ = folder_ + "/program";
        std::filesystem::copy_file(subject("o2"), path_);
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }

    std::string folder_, path_;
};

TEST_F(Files, ADeletedProgramIsReadWhileItRunsAndKept) {
    Traced program({path_, "template"});
    ASSERT_TRUE(program.to_stop(2));
    std::filesystem::remove(path_);
    AddressSpaces spaces;
    const auto pid = static_cast<std::uint32_t>(program.pid());
    ASSERT_TRUE(spaces.snapshot(pid));
    const auto stack = program.stack();
    program.end();
    const auto frames = Symbols(spaces).user(*stack);
    EXPECT_EQ(frames[0].function, "stop") << text(frames);
    EXPECT_EQ(frames[0].module, "program");
    EXPECT_EQ(frame_of(frames, "main").file, "subject.cc");
}

TEST_F(Files, AProgramReplacedLaterKeepsItsNames) {
    Traced program({path_, "template"});
    ASSERT_TRUE(program.to_stop(2));
    AddressSpaces spaces;
    ASSERT_TRUE(spaces.snapshot(static_cast<std::uint32_t>(program.pid())));
    const auto stack = program.stack();
    program.end();
    std::filesystem::copy_file(subject("o0"), folder_ + "/new");
    std::filesystem::rename(folder_ + "/new", path_);
    const auto frames = Symbols(spaces).user(*stack);
    EXPECT_EQ(frames[0].function, "stop") << text(frames);
    EXPECT_EQ(frame_of(frames, "main").file, "subject.cc");
}

TEST_F(Files, OneThatIsGoneLeavesTheModulesName) {
    AddressSpaces spaces;
    spaces.map(kNobody, {0x400000, 0x500000, 0x1000, folder_ + "/never.so.1"});
    spaces.map(kNobody, {0x600000, 0x700000, 0, path_ + " (deleted)"});
    spaces.map(kNobody, {0x800000, 0x900000, 0, ""});
    spaces.map(kNobody, {0xa00000, 0xb00000, 0, "//anon"});
    spaces.map(kNobody, {0xc00000, 0xd00000, 0, folder_});
    const Symbols symbols(spaces);
    EXPECT_EQ(text(symbols.user(kNobody, 0x400234, false)), "never.so.1+0x1234");
    EXPECT_EQ(text(symbols.user(kNobody, 0x600234, false)), "program+0x234") << "not the file that now has its path";
    EXPECT_EQ(text(symbols.user(kNobody, 0x800010, false)), "0x800010");
    EXPECT_EQ(text(symbols.user(kNobody, 0xa00010, true)), "0xa00010");
    EXPECT_EQ(text(symbols.user(kNobody, 0x123, false)), "0x123");
    EXPECT_EQ(symbols.user(kNobody, 0xc00010, false).size(), 1U) << "a folder";
}

TEST_F(Files, ManyAreOpenedByAFewDescriptors) {
    AddressSpaces spaces;
    const auto descriptors = [] {
        std::size_t count = 0;
        for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
        return count;
    };
    const std::size_t before = descriptors();
    for (std::uint32_t i = 0; i < 400; ++i) {
        const std::string path = folder_ + "/" + std::to_string(i);
        std::filesystem::copy_file(subject("stripped"), path);
        spaces.map(kNobody + i, {0x400000, 0x500000, 0, path});
    }
    EXPECT_LT(descriptors(), before + 200);
    const Symbols symbols(spaces);
    for (std::uint32_t i = 0; i < 400; ++i) {
        EXPECT_EQ(symbols.user(kNobody + i, 0x401234, false)[0].module, std::to_string(i));
        ASSERT_LT(descriptors(), before + 400);
    }
}

TEST(MappedFile, ModuleNames) {
    EXPECT_EQ(module_name("/usr/lib/libfoo.so.1"), "libfoo.so.1");
    EXPECT_EQ(module_name("/usr/lib/libfoo.so.1 (deleted)"), "libfoo.so.1");
    EXPECT_EQ(module_name("[vdso]"), "[vdso]");
    EXPECT_EQ(module_name("//anon"), "");
    EXPECT_EQ(module_name(""), "");
    EXPECT_EQ(module_name("/memfd:jit (deleted)"), "memfd:jit");
}

TEST(MappedFile, DevicesAndPipesAreLeftAlone) {
    FileIdentity identity;
    EXPECT_FALSE(open_regular("/dev/null", identity));
    EXPECT_FALSE(open_regular("/proc/self", identity));
    EXPECT_TRUE(open_regular("/proc/self/exe", identity));
}

}  // namespace
}  // namespace cloister::unwind::test
