#include "system/proc.hpp"

#include <atomic>
#include <thread>

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fake_root.hpp"

namespace cloister::system {
namespace {

using testing::ElementsAre;
using tests::FakeRoot;

constexpr const char* kInterrupts =
    "           CPU0       CPU2       \n"
    " 36:          5      35823 PCI-MSIX-0000:00:02.0   1-edge      virtio1-req.0\n"
    "  9:          0          0   IO-APIC   9-fasteoi   acpi\n"
    "LOC:      29109      26131   Local timer interrupts\n"
    "ERR:          7\n"
    "MIS:          0\n";

TEST(Interrupts, TheColumnOfTheCpuAndNotItsNumber) {
    FakeRoot root;
    root.file("/proc/interrupts", kInterrupts);
    const auto lines = read_interrupts(2, root.path());
    ASSERT_EQ(lines.size(), 3U) << "ERR and MIS are not counted by CPU";
    EXPECT_EQ(lines[0].name, "36");
    EXPECT_EQ(lines[0].description, "PCI-MSIX-0000:00:02.0 1-edge virtio1-req.0");
    EXPECT_EQ(lines[0].count, 35823U);
    EXPECT_EQ(lines[2].name, "LOC");
    EXPECT_EQ(lines[2].description, "Local timer interrupts");
    EXPECT_EQ(lines[2].count, 26131U);
    EXPECT_EQ(read_interrupts(0, root.path()).at(2).count, 29109U);
    EXPECT_TRUE(read_interrupts(1, root.path()).empty()) << "offline";
}

TEST(Interrupts, RiseIsTheDifference) {
    const std::vector<InterruptLine> before = {{"LOC", "timer", 10}, {"TLB", "shootdowns", 4}, {"36", "old", 9}};
    const std::vector<InterruptLine> after = {
        {"LOC", "timer", 15}, {"TLB", "shootdowns", 4}, {"36", "new", 2}, {"40", "x", 3}};
    const auto rose = rise(before, after);
    ASSERT_EQ(rose.size(), 2U) << "what stayed or was counted anew is left out";
    EXPECT_EQ(rose[0].name, "LOC");
    EXPECT_EQ(rose[0].count, 5U);
    EXPECT_EQ(rose[1].name, "40");
    EXPECT_EQ(rose[1].count, 3U);
}

TEST(Interrupts, OfThisMachine) {
    const auto lines = read_interrupts(0);
    const auto timer = std::find_if(lines.begin(), lines.end(), [](const auto& line) { return line.name == "LOC"; });
    ASSERT_NE(timer, lines.end());
    EXPECT_GT(timer->count, 0U);
    EXPECT_EQ(timer->description, "Local timer interrupts");
}

TEST(TaskCountersOf, AThreadWithAnyName) {
    FakeRoot root;
    root.file("/proc/77/task/77/stat",
              "77 (a) b (c) S 1 77 77 0 -1 4194560 1234 5 67 8 250 30 0 0 20 0 1 0 100 1000 10 18446744073709551615\n")
        .file("/proc/77/task/77/status",
              "Name:\ta\nnonvoluntary_ctxt_switches:\t9\nvoluntary_ctxt_switches:\t41\nCpus_allowed_list:\t0-1\n")
        .file("/proc/77/task/77/schedstat", "282898 116797 2\n");
    const auto task = read_task(77, root.path()).value();
    EXPECT_EQ(task.comm, "a) b (c");
    EXPECT_EQ(task.minor_faults, 1234U);
    EXPECT_EQ(task.major_faults, 67U);
    EXPECT_EQ(task.voluntary, 41U);
    EXPECT_EQ(task.involuntary, 9U);
    const auto tick = 1'000'000'000U / static_cast<unsigned>(sysconf(_SC_CLK_TCK));
    EXPECT_EQ(task.user_ns, 250ULL * tick);
    EXPECT_EQ(task.system_ns, 30ULL * tick);
    EXPECT_EQ(task.cpu_ns, 282898U);
    EXPECT_EQ(task.wait_ns, 116797U);
    const auto none = read_task(78, root.path());
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().needs, "a thread that is alive");
}

TEST(TaskCountersOf, TheOneThreadAndNotItsProcess) {
    constexpr std::size_t kPages = 500;
    constexpr std::size_t kPage = 4096;
    std::atomic<pid_t> other{0};
    std::atomic<bool> leave{false};
    std::thread quiet([&] {
        other = gettid();
        while (!leave) std::this_thread::yield();
    });
    while (other == 0) std::this_thread::yield();
    auto* memory =
        static_cast<char*>(mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(memory, MAP_FAILED);
    madvise(memory, kPages * kPage, MADV_NOHUGEPAGE);
    const auto before = read_task(gettid()).value();
    const auto quiet_before = read_task(other).value();
    for (std::size_t i = 0; i < kPages; ++i) static_cast<volatile char*>(memory)[i * kPage] = 1;
    const auto after = read_task(gettid()).value();
    const auto quiet_after = read_task(other).value();
    rusage usage{};
    getrusage(RUSAGE_THREAD, &usage);
    const auto threads = threads_of(getpid());
    leave = true;
    quiet.join();
    munmap(memory, kPages * kPage);
    EXPECT_GE(after.minor_faults - before.minor_faults, kPages);
    EXPECT_LE(after.minor_faults, static_cast<std::uint64_t>(usage.ru_minflt));
    EXPECT_LT(quiet_after.minor_faults - quiet_before.minor_faults, kPages);
    EXPECT_THAT(threads, testing::IsSupersetOf({getpid(), other.load()}));
    EXPECT_TRUE(std::is_sorted(threads.begin(), threads.end()));
    EXPECT_TRUE(threads_of(0x3fffffff).empty());
}

void make_privileges(FakeRoot& root, const char* uid, const char* capabilities, const char* uid_map) {
    root.file("/proc/self/status", std::string("Uid:\t1000\t") + uid + "\t0\t0\nCapEff:\t" + capabilities + "\n")
        .file("/proc/self/uid_map", uid_map)
        .file("/proc/sys/kernel/perf_event_paranoid", "2\n")
        .file("/proc/sys/kernel/perf_event_mlock_kb", "516\n");
}

constexpr const char* kInitialMap = "         0          0 4294967295\n";

TEST(PrivilegesRead, NoneAtAll) {
    FakeRoot root;
    make_privileges(root, "1000", "0000000000000000", kInitialMap);
    const auto found = read_privileges(root.path());
    EXPECT_FALSE(found.root || found.cap_bpf || found.cap_perfmon || found.cap_sys_admin);
    EXPECT_EQ(found.perf_event_paranoid, 2);
    EXPECT_EQ(found.perf_event_mlock_kb, 516);
    EXPECT_FALSE(found.btf || found.tracefs_mounted || found.container);
    EXPECT_EQ(found.tracefs, "");
}

TEST(PrivilegesRead, EachCapabilityByItself) {
    const auto with = [](const char* capabilities) {
        FakeRoot root;
        make_privileges(root, "1000", capabilities, kInitialMap);
        return read_privileges(root.path());
    };
    const auto perfmon = with("0000004000000000");
    EXPECT_TRUE(perfmon.cap_perfmon);
    EXPECT_FALSE(perfmon.cap_bpf || perfmon.cap_sys_admin || perfmon.root);
    const auto bpf = with("0000008000000000");
    EXPECT_TRUE(bpf.cap_bpf);
    EXPECT_FALSE(bpf.cap_perfmon || bpf.cap_sys_admin);
    const auto admin = with("0000000000200000");
    EXPECT_TRUE(admin.cap_sys_admin);
    EXPECT_FALSE(admin.cap_perfmon || admin.cap_bpf);
}

TEST(PrivilegesRead, RootOfAUserNamespaceHasNone) {
    FakeRoot root;
    make_privileges(root, "0", "000001ffffffffff", "         0       1000          1\n");
    const auto inside = read_privileges(root.path());
    EXPECT_FALSE(inside.root || inside.cap_bpf || inside.cap_perfmon || inside.cap_sys_admin);
    EXPECT_TRUE(inside.container);
    make_privileges(root, "0", "000001ffffffffff", kInitialMap);
    const auto outside = read_privileges(root.path());
    EXPECT_TRUE(outside.root && outside.cap_bpf && outside.cap_perfmon && outside.cap_sys_admin);
    EXPECT_FALSE(outside.container);
}

TEST(PrivilegesRead, WhereTracefsIs) {
    FakeRoot root;
    make_privileges(root, "0", "0", kInitialMap);
    root.file("/proc/self/mountinfo",
              "43 23 0:13 / /sys/kernel/debug/tracing rw - tracefs none rw\n"
              "42 23 0:13 / /sys/kernel/tracing rw,relatime - tracefs none rw\n")
        .file("/sys/kernel/btf/vmlinux", "x")
        .file("/run/.containerenv", "");
    const auto found = read_privileges(root.path());
    EXPECT_TRUE(found.tracefs_mounted);
    EXPECT_EQ(found.tracefs, "/sys/kernel/tracing");
    EXPECT_TRUE(found.btf);
    EXPECT_TRUE(found.container);
    EXPECT_EQ(read_privileges("/nonexistent").perf_event_paranoid, 99);
}

}  // namespace
}  // namespace cloister::system
