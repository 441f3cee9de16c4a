#include "breach/correlate.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "breach/kernel_names.hpp"
#include "stream.hpp"

namespace cloister::breach::testing {
namespace {

std::string read(const std::filesystem::path& path) {
    std::ifstream in(path);
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
}

std::vector<std::string> fixtures() {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(FIXTURES))
        if (entry.path().extension() == ".txt") names.push_back(entry.path().stem());
    std::ranges::sort(names);
    return names;
}

class Fixture : public ::testing::TestWithParam<std::string> {};

TEST_P(Fixture, GivesTheExpectedReport) {
    const std::filesystem::path path = std::filesystem::path(FIXTURES) / GetParam();
    const std::string stream = read(path.string() + ".txt"), expected = read(path.string() + ".expected");
    ASSERT_FALSE(stream.empty());
    ASSERT_FALSE(expected.empty());
    EXPECT_EQ(replay(stream), expected);
}

INSTANTIATE_TEST_SUITE_P(Streams, Fixture, ::testing::ValuesIn(fixtures()),
                         [](const auto& param) { return param.param; });

TEST(Stream, KeepsEveryFieldOfARecord) {
    const std::string line =
        "offcpu start=10 end=20 cpu=1 tid=2 tgid=3 a=4 b=5 c=6 d=7 who_tid=8 who_tgid=9 stack=10 site=11 "
        "flags=in_syscall|by_observer \"comm=a b\" sys=35@5";
    EXPECT_EQ(text_of(record_of(line)), line);
    EXPECT_THROW((void)record_of("offcpu nonsense=1"), std::runtime_error);
}

TEST(KernelNames, OfBothSyscallTables) {
    EXPECT_EQ(syscall_name(0), "read");
    EXPECT_EQ(syscall_name(451), "cachestat");
    EXPECT_EQ(syscall_name(500), "syscall 500");
    EXPECT_EQ(syscall_name(CL_I386 | 4), "i386:write");
    EXPECT_EQ(syscall_name(CL_I386 | 223), "i386:syscall 223");
    EXPECT_EQ(syscall_name(4096), "syscall 4096");
    EXPECT_TRUE(is_syscall(24, "sched_yield"));
    EXPECT_TRUE(is_syscall(CL_I386 | 158, "sched_yield"));
    EXPECT_FALSE(is_syscall(158, "sched_yield"));
    EXPECT_FALSE(is_syscall(-1, "sched_yield"));
}

TEST(KernelNames, OfSignals) {
    EXPECT_EQ(signal_name(14), "SIGALRM");
    EXPECT_EQ(signal_name(34), "SIGRTMIN");
    EXPECT_EQ(signal_name(36), "SIGRTMIN+2");
    EXPECT_EQ(signal_name(99), "signal 99");
    EXPECT_EQ(trap_detail(8, 1), "SIGFPE, integer divide by zero");
    EXPECT_EQ(trap_detail(11, 0x80), "SIGSEGV, general protection");
    EXPECT_EQ(trap_detail(11, 99), "SIGSEGV, si_code 99");
    EXPECT_EQ(trap_detail(11, 0), "");     // kill(2)
    EXPECT_EQ(trap_detail(14, 0x80), "");  // no exception raises SIGALRM
}

TEST(KernelNames, OfFaultsIpisAndWorkers) {
    EXPECT_EQ(fault_detail(6, 0), "minor, write");
    EXPECT_EQ(fault_detail(4, CL_FAULT_MAJOR), "major, read");
    EXPECT_EQ(fault_detail(20, CL_FAULT_END_UNSEEN), "failed, fetch");
    EXPECT_EQ(fault_detail(2, CL_FAULT_KERNEL), "minor, write, in kernel");
    EXPECT_EQ(ipi_detail("do_sync_core"), "text patching (do_sync_core)");
    EXPECT_EQ(ipi_detail("something"), "function call: something");
    EXPECT_EQ(softirq_name(9), "RCU");
    EXPECT_EQ(softirq_name(10), "softirq 10");
    EXPECT_EQ(steady_comm("kworker/u8:3-events"), "kworker/u8");
    EXPECT_EQ(steady_comm("rcuop/1"), "rcuop/1");
}

}  // namespace
}  // namespace cloister::breach::testing
