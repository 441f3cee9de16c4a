#include "system/cpu.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fake_root.hpp"

namespace cloister::system {
namespace {

using testing::HasSubstr;
using tests::FakeRoot;

CpuSet cpus(std::string_view text) { return parse_cpu_list(text).value(); }

TEST(CpuList, ComesBackAsItWasWritten) {
    for (const char* text : {"0", "2-5,7", "0-1", "63-65", "1,3,5", "1023"}) EXPECT_EQ(cpus(text).text(), text);
}

TEST(CpuList, ReadsEveryFormOfRange) {
    EXPECT_EQ(cpus("0-6:2").text(), "0,2,4,6");
    EXPECT_EQ(cpus("0-7:2/4").text(), "0-1,4-5");
    EXPECT_EQ(cpus("7,2-4,3-5\n").text(), "2-5,7");
    EXPECT_EQ(cpus("5-5").list(), std::vector<int>{5});
}

TEST(CpuList, ShowsWhereItDoesNotParse) {
    const auto found = [](std::string_view text) {
        const auto result = parse_cpu_list(text);
        return result ? "parsed as " + result->text() : result.error().found;
    };
    EXPECT_THAT(found("2-x,7"), HasSubstr("\"x,7\" at character 3"));
    EXPECT_THAT(found("1,,2"), HasSubstr("\",2\" at character 3"));
    EXPECT_THAT(found("5-2"), HasSubstr("at least 5"));
    EXPECT_THAT(found("1 2"), HasSubstr("\" 2\" at character 2"));
    EXPECT_THAT(found("0-7:0"), HasSubstr("stride of at least 1"));
    EXPECT_THAT(found("1,"), HasSubstr("its end at character 3"));
    EXPECT_THAT(found(""), HasSubstr("its end at character 1"));
    EXPECT_THAT(found("-1"), HasSubstr("at character 1"));
    EXPECT_THAT(found("65536"), HasSubstr("a CPU number"));
    EXPECT_THAT(found("99999999999999999999"), HasSubstr("a CPU number"));
    EXPECT_THAT(found("0-4:3/2"), HasSubstr("group size of at least 3"));
}

TEST(CpuSet, EqualWhateverWasRemoved) {
    auto set = cpus("1,300");
    EXPECT_EQ(set.size(), 2U);
    set.remove(300);
    set.remove(-1);
    set.add(-1);
    EXPECT_EQ(set, cpus("1"));
    EXPECT_TRUE(set.has(1));
    EXPECT_FALSE(set.has(300));
    EXPECT_FALSE(set.has(-1));
    set.remove(1);
    EXPECT_TRUE(set.empty());
    EXPECT_EQ(set.text(), "");
}

constexpr const char* kCpu = "/sys/devices/system/cpu/";

void make_machine(FakeRoot& root, const char* possible, const char* online) {
    root.file(std::string(kCpu) + "possible", possible)
        .file(std::string(kCpu) + "present", possible)
        .file(std::string(kCpu) + "online", online)
        .file("/proc/sys/kernel/osrelease", "6.12.0-amd64\n")
        .file("/proc/self/status", "Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t0-3\n");
}

TEST(Topology, ReadsIsolationFromAllItsPlaces) {
    FakeRoot root;
    make_machine(root, "0-7\n", "0-7\n");
    root.file(std::string(kCpu) + "isolated", "5\n")
        .file(std::string(kCpu) + "nohz_full", "4-5\n")
        .file("/proc/cmdline", "quiet rcu_nocbs=6-N isolcpus=domain,5 -- rcu_nocbs=0\n")
        .file("/proc/self/cgroup", "0::/\n")
        .file("/proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
        .file("/sys/fs/cgroup/cpuset.cpus.isolated", "7\n")
        .file("/sys/fs/cgroup/cpuset.cpus.effective", "0-7\n");
    const auto topology = read_topology(root.path());
    EXPECT_EQ(topology.isolation_of(5), "nohz_full, domain-isolated, rcu_nocbs");
    EXPECT_EQ(topology.isolation_of(4), "nohz_full, rcu_nocbs");
    EXPECT_EQ(topology.isolation_of(6), "rcu_nocbs");
    EXPECT_EQ(topology.isolation_of(7), "domain-isolated, rcu_nocbs");
    EXPECT_EQ(topology.isolation_of(0), "none");
    EXPECT_EQ(topology.allowed.text(), "0-3");
    EXPECT_EQ(topology.kernel, "6.12.0-amd64");
}

TEST(Topology, AMissingOrNullListIsEmpty) {
    FakeRoot root;
    make_machine(root, "0-1\n", "0-1\n");
    root.file(std::string(kCpu) + "isolated", "\n").file(std::string(kCpu) + "nohz_full", " (null)\n");
    const auto topology = read_topology(root.path());
    EXPECT_TRUE(topology.isolated.empty());
    EXPECT_TRUE(topology.nohz_full.empty());
    EXPECT_EQ(topology.cpuset, topology.online) << "no cgroup, so nothing is forbidden";
    EXPECT_EQ(topology.isolation_of(1), "none");
}

TEST(Topology, AllOfRcuNocbs) {
    FakeRoot root;
    make_machine(root, "0-3\n", "0-3\n");
    root.file("/proc/cmdline", "rcu_nocbs=all");
    EXPECT_EQ(read_topology(root.path()).rcu_nocbs.text(), "0-3");
}

TEST(Topology, CpusetOfVersion1) {
    FakeRoot root;
    make_machine(root, "0-7\n", "0-7\n");
    root.file("/proc/self/cgroup", "4:memory:/other\n3:cpu,cpuset:/jobs/a b\n0::/unified\n")
        .file("/proc/self/mountinfo",
              "34 31 0:28 / /sys/fs/cgroup/cpuset\\040v1 rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuset\n")
        .file("/sys/fs/cgroup/cpuset v1/jobs/a b/cpuset.cpus", "0-7\n")
        .file("/sys/fs/cgroup/cpuset v1/jobs/a b/cpuset.effective_cpus", "2-3\n");
    const auto topology = read_topology(root.path());
    EXPECT_EQ(topology.cpuset.text(), "2-3");
    EXPECT_EQ(topology.cgroup, "/jobs/a b");
    EXPECT_EQ(topology.cpuset_file, "/sys/fs/cgroup/cpuset v1/jobs/a b/cpuset.effective_cpus");
}

TEST(Topology, CpusetOfVersion2IsInheritedFromAbove) {
    FakeRoot root;
    make_machine(root, "0-7\n", "0-7\n");
    root.file("/proc/self/cgroup", "0::/a.slice/b.scope\n")
        .file("/proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
        .file("/sys/fs/cgroup/a.slice/cpuset.cpus.effective", "0-3\n")
        .file("/sys/fs/cgroup/a.slice/b.scope/cgroup.procs", "1\n")
        .file("/sys/fs/cgroup/cpuset.cpus.effective", "0-7\n");
    const auto topology = read_topology(root.path());
    EXPECT_EQ(topology.cpuset.text(), "0-3");
    EXPECT_EQ(topology.cpuset_file, "/sys/fs/cgroup/a.slice/cpuset.cpus.effective");
}

TEST(Topology, CgroupOfAContainerIsBelowTheRootOfItsMount) {
    FakeRoot root;
    make_machine(root, "0-7\n", "0-7\n");
    root.file("/proc/self/cgroup", "3:cpuset:/docker/abc/inner\n")
        .file("/proc/self/mountinfo", "34 31 0:28 /docker/abc /sys/fs/cgroup/cpuset ro - cgroup cgroup rw,cpuset\n")
        .file("/sys/fs/cgroup/cpuset/inner/cpuset.effective_cpus", "6\n");
    EXPECT_EQ(read_topology(root.path()).cpuset.text(), "6");
}

Topology machine(std::string_view possible, std::string_view online) {
    Topology out;
    out.possible = cpus(possible);
    out.online = out.cpuset = cpus(online);
    return out;
}

TEST(ChooseCpu, TheHighestUnlessOneIsIsolated) {
    auto topology = machine("0-7", "0-7");
    EXPECT_EQ(choose_cpu(topology, -1).value(), 7);
    topology.nohz_full = cpus("2");
    EXPECT_EQ(choose_cpu(topology, -1).value(), 2);
    topology.isolated = cpus("3,4");
    EXPECT_EQ(choose_cpu(topology, -1).value(), 4);
    topology.isolated = cpus("2-4");
    EXPECT_EQ(choose_cpu(topology, -1).value(), 2) << "isolated both ways";
    topology.cpuset = cpus("0,5-6");
    EXPECT_EQ(choose_cpu(topology, -1).value(), 6);
    EXPECT_EQ(choose_cpu(topology, 5).value(), 5);
    EXPECT_EQ(choose_cpu(topology, 0).value(), 0);
}

TEST(ChooseCpu, ErrorsTeach) {
    auto topology = machine("0-3", "0-2");
    const auto unknown = choose_cpu(topology, 9);
    ASSERT_FALSE(unknown);
    EXPECT_EQ(unknown.error().what, "there is no CPU 9");
    EXPECT_THAT(unknown.error().found, HasSubstr("0-3"));
    EXPECT_THAT(unknown.error().set, HasSubstr("0-2"));

    const auto offline = choose_cpu(topology, 3);
    ASSERT_FALSE(offline);
    EXPECT_EQ(offline.error().what, "CPU 3 is offline");
    EXPECT_THAT(offline.error().set, HasSubstr("/sys/devices/system/cpu/cpu3/online"));

    topology.present = cpus("0-2");
    const auto absent = choose_cpu(topology, 3);
    ASSERT_FALSE(absent);
    EXPECT_EQ(absent.error().what, "there is no CPU 3") << "possible, but not plugged in";

    topology.cpuset = cpus("0-1");
    topology.cgroup = "/jobs";
    topology.cpuset_file = "/sys/fs/cgroup/jobs/cpuset.cpus.effective";
    const auto outside = choose_cpu(topology, 2);
    ASSERT_FALSE(outside);
    EXPECT_THAT(outside.error().needs, HasSubstr("/jobs"));
    EXPECT_EQ(outside.error().found, "/sys/fs/cgroup/jobs/cpuset.cpus.effective: 0-1");
    EXPECT_THAT(outside.error().set, HasSubstr("echo 0-2 | sudo tee /sys/fs/cgroup/jobs/cpuset.cpus,"));

    topology.cpuset = cpus("1");
    for (const int wanted : {-1, 1}) {
        const auto alone = choose_cpu(topology, wanted);
        ASSERT_FALSE(alone);
        EXPECT_EQ(alone.error().needs, "two CPUs, one for the task and one for the observer");
        EXPECT_THAT(alone.error().set, HasSubstr(topology.cpuset_file));
    }
    const auto single = choose_cpu(machine("0", "0"), -1);
    ASSERT_FALSE(single);
    EXPECT_THAT(single.error().set, HasSubstr("virtual machine"));
}

TEST(Affinity, IsWhatWasSet) {
    const auto before = get_affinity(0).value();
    for (const int cpu : before.list()) {
        CpuSet one;
        one.add(cpu);
        ASSERT_TRUE(set_affinity(0, one));
        EXPECT_EQ(get_affinity(0).value(), one);
        EXPECT_EQ(sched_getcpu(), cpu);
    }
    ASSERT_TRUE(set_affinity(0, before));
    EXPECT_EQ(get_affinity(0).value(), before);
    EXPECT_EQ(read_topology().allowed, before);
}

TEST(Affinity, ErrorsTeach) {
    const auto none = set_affinity(0, cpus("8000"));
    ASSERT_FALSE(none);
    EXPECT_THAT(none.error().found, HasSubstr("online: " + read_topology().online.text()));
    const auto gone = set_affinity(0x3fffffff, cpus("0"));
    ASSERT_FALSE(gone);
    EXPECT_THAT(gone.error().found, HasSubstr("no such thread"));
    EXPECT_FALSE(get_affinity(0x3fffffff));
}

}  // namespace
}  // namespace cloister::system
