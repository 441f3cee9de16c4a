#include "breach/spinner.hpp"

#include <array>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <string>

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "breach/gaps.hpp"
#include "breach/probe/record.h"
#include "system/tsc.hpp"

namespace cloister::breach {
namespace {

using Entry = TscGap::Entry;
constexpr std::uint64_t kGapNs = 1000;

void nap() {
    const timespec time{0, 4'000'000};
    ::nanosleep(&time, nullptr);
}

// Waits for something that must come, up to a limit that only a broken spinner reaches.
bool eventually(const std::function<bool()>& holds) {
    for (int i = 0; i < 7500; ++i) {  // 30 s
        if (holds()) return true;
        nap();
    }
    return false;
}

// The highest and the lowest CPU that this process may use.
std::pair<int, int> cpus() {
    cpu_set_t set;
    CPU_ZERO(&set);
    ::sched_getaffinity(0, sizeof set, &set);
    int low = -1, high = -1;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (!CPU_ISSET(static_cast<unsigned>(cpu), &set)) continue;
        if (low < 0) low = cpu;
        high = cpu;
    }
    return {high, low};
}

std::string slurp(const std::string& path) {
    std::ifstream file(path);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
}

std::string status_field(pid_t pid, const std::string& name) {
    std::istringstream lines(slurp("/proc/" + std::to_string(pid) + "/status"));
    for (std::string line; std::getline(lines, line);) {
        if (line.starts_with(name + ":\t")) return line.substr(name.size() + 2);
    }
    return "";
}

struct Faults {
    unsigned long minor = 0, major = 0;
    bool operator==(const Faults&) const = default;
};
Faults faults_of(pid_t pid) {
    const std::string stat = slurp("/proc/" + std::to_string(pid) + "/stat");
    std::istringstream fields(stat.substr(stat.rfind(')') + 2));
    std::string skip;
    for (int i = 0; i < 7; ++i) fields >> skip;  // state ppid pgrp session tty tpgid flags
    Faults faults;
    unsigned long children = 0;
    fields >> faults.minor >> children >> faults.major;
    return faults;
}

Spinner started(int cpu) {
    auto spinner = Spinner::start(cpu, kGapNs);
    if (!spinner) throw std::runtime_error(spinner.error().text());
    return std::move(*spinner);
}

TEST(Spinner, FindsTheGapsAndTheyAddUp) {
    const int cpu = cpus().first;
    Spinner spinner = started(cpu);
    system::TscClock clock;
    clock.sample();
    spinner.go();
    std::vector<TscGap> gaps;
    std::uint64_t until = 0;
    const auto entries = [&gaps] {
        return std::count_if(gaps.begin(), gaps.end(), [](const TscGap& g) { return g.kernel == Entry::yes; });
    };
    // A tick costs more than 1 us on any machine that runs at its own rate of 100 Hz or more.
    ASSERT_TRUE(eventually([&] {
        spinner.drain(gaps);
        clock.sample();
        EXPECT_GE(spinner.drained_until(), until);
        until = spinner.drained_until();
        return entries() >= 200;
    }));
    EXPECT_TRUE(spinner.alive());
    spinner.stop();
    EXPECT_FALSE(spinner.alive());
    EXPECT_EQ(spinner.ending(), "");
    spinner.drain(gaps);
    while (!clock.sample()) nap();

    const Spinner::Stats stats = spinner.stats();
    EXPECT_TRUE(stats.sees_entries);
    EXPECT_TRUE(stats.locked);
    EXPECT_GT(stats.loops, gaps.size());
    EXPECT_GE(stats.entries, static_cast<std::uint64_t>(entries()));
    EXPECT_LE(stats.max_step_cycles, spinner.threshold_cycles());
    EXPECT_EQ(spinner.overflow(), 0U);
    EXPECT_EQ(spinner.drained_until(), stats.end_tsc);

    GapBook::Totals totals;
    std::uint64_t emitted = 0;
    GapBook book({.tid = static_cast<std::uint32_t>(spinner.pid()), .threshold_ns = kGapNs, .traced = false},
                 [&emitted](const Breach& breach) { emitted += breach.duration_ns(); });
    book.begin(clock.to_ns(stats.begin_tsc));
    std::uint64_t last = stats.begin_tsc, kept = 0;
    for (const TscGap& gap : gaps) {
        ASSERT_GE(gap.before, last);
        ASSERT_GT(gap.after - gap.before, spinner.threshold_cycles());
        ASSERT_LE(gap.after, stats.end_tsc);
        ASSERT_EQ(gap.cpu_before, cpu);
        ASSERT_FALSE(gap.moved());
        kept += clock.to_ns(gap.before) - clock.to_ns(last);
        last = gap.after;
        book.gap(on_clock(gap, clock));
    }
    kept += clock.to_ns(stats.end_tsc) - clock.to_ns(last);
    book.finish(clock.to_ns(stats.end_tsc));
    totals = book.totals();
    EXPECT_EQ(totals.gaps, gaps.size());
    EXPECT_EQ(totals.kernel, static_cast<std::uint64_t>(entries()));
    EXPECT_EQ(totals.lost_ns + kept, clock.to_ns(stats.end_tsc) - clock.to_ns(stats.begin_tsc));
    EXPECT_EQ(emitted, totals.lost_ns);
}

TEST(Spinner, NeitherFaultsNorYieldsNorSleepsWhileItSpins) {
    Spinner spinner = started(cpus().first);
    spinner.go();
    std::vector<TscGap> gaps;
    ASSERT_TRUE(eventually([&] { return spinner.drain(gaps) > 0 || !gaps.empty(); }));
    const Faults faults = faults_of(spinner.pid());
    const std::string voluntary = status_field(spinner.pid(), "voluntary_ctxt_switches");
    ASSERT_NE(voluntary, "");
    EXPECT_GT(faults.minor, 0UL);  // of its start: the counter counts
    const std::size_t before = gaps.size();
    ASSERT_TRUE(eventually([&] {
        spinner.drain(gaps);
        return gaps.size() >= before + 500;
    }));
    EXPECT_EQ(faults_of(spinner.pid()), faults);
    EXPECT_EQ(status_field(spinner.pid(), "voluntary_ctxt_switches"), voluntary);
    EXPECT_EQ(status_field(spinner.pid(), "Name"), "cloister-spin");
}

TEST(Spinner, HasNothingMappedThatTheCollectorCouldTouch) {
    Spinner spinner = started(cpus().first);
    std::istringstream maps(slurp("/proc/" + std::to_string(spinner.pid()) + "/maps"));
    std::array<char, 4096> self{};
    ASSERT_GT(::readlink("/proc/self/exe", self.data(), self.size() - 1), 0);
    int code = 0, shared = 0, thread_area = 0;
    for (std::string line; std::getline(maps, line);) {
        if (line.find("[vsyscall]") != std::string::npos) continue;  // the kernel's, the same everywhere
        if (line.find(self.data()) != std::string::npos && line.find(" r-xp ") != std::string::npos) {
            ++code;
        } else if (line.find(" rw-s ") != std::string::npos) {
            ++shared;
        } else if (line.find(" rw-p ") != std::string::npos) {
            ++thread_area;
        } else {
            ADD_FAILURE() << line;
        }
    }
    EXPECT_EQ(code, 1);
    EXPECT_EQ(shared, 1);
    EXPECT_EQ(thread_area, 1);
    EXPECT_EQ(status_field(spinner.pid(), "VmLck"), status_field(spinner.pid(), "VmSize"));
}

// Read from this very program: the code of the loop has no call and no syscall, in any build.
TEST(Spinner, LoopCallsNothing) {
    std::array<char, 4096> self{};
    ASSERT_GT(::readlink("/proc/self/exe", self.data(), self.size() - 1), 0);
    const std::string command = "objdump -d -j cloister_spin --no-show-raw-insn '" + std::string(self.data()) + "'";
    const std::unique_ptr<FILE, int (*)(FILE*)> objdump(::popen(command.c_str(), "r"), ::pclose);
    ASSERT_NE(objdump, nullptr);
    bool in_spin = false;
    int instructions = 0, readings = 0;
    for (std::array<char, 512> line; std::fgets(line.data(), line.size(), objdump.get()) != nullptr;) {
        const std::string text = line.data();
        if (text.find(">:") != std::string::npos) in_spin = text.find("SpinnerProcess4spin") != std::string::npos;
        const std::size_t tab = text.find('\t');
        if (!in_spin || tab == std::string::npos) continue;
        const std::string instruction = text.substr(tab + 1);
        ++instructions;
        readings += instruction.starts_with("rdtscp") ? 1 : 0;
        EXPECT_FALSE(instruction.starts_with("call") || instruction.starts_with("syscall") ||
                     instruction.find("@plt") != std::string::npos || instruction.find("%fs:") != std::string::npos)
            << text;
    }
    EXPECT_GE(readings, 2);
    EXPECT_GT(instructions, 30);
}

TEST(Spinner, NotesThatItWasMoved) {
    const auto [cpu, other] = cpus();
    ASSERT_NE(cpu, other) << "needs two CPUs";
    Spinner spinner = started(cpu);
    spinner.go();
    std::vector<TscGap> gaps;
    ASSERT_TRUE(eventually([&] { return spinner.drain(gaps) > 0; }));
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<unsigned>(other), &set);
    ASSERT_EQ(::sched_setaffinity(spinner.pid(), sizeof set, &set), 0);
    const auto moved = [&] {
        return std::find_if(gaps.begin(), gaps.end(), [](const TscGap& g) { return g.moved(); });
    };
    ASSERT_TRUE(eventually([&] {
        spinner.drain(gaps);
        return moved() != gaps.end();
    }));
    EXPECT_EQ(moved()->cpu_before, cpu);
    EXPECT_EQ(moved()->cpu_after, other);
    EXPECT_EQ(moved()->kernel, Entry::yes);
}

TEST(Spinner, TellsThatItWasKilled) {
    Spinner spinner = started(cpus().first);
    spinner.go();
    std::vector<TscGap> gaps;
    ASSERT_TRUE(eventually([&] { return spinner.drain(gaps) > 0; }));
    ASSERT_EQ(::kill(spinner.pid(), SIGKILL), 0);
    EXPECT_TRUE(eventually([&] { return !spinner.alive(); }));
    EXPECT_NE(spinner.ending().find("signal 9"), std::string::npos) << spinner.ending();
    EXPECT_EQ(spinner.stats().end_tsc, 0U);
    spinner.drain(gaps);
    spinner.stop();
}

TEST(Spinner, SpinsOnThroughTheTerminalsSignals) {
    Spinner spinner = started(cpus().first);
    spinner.go();
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGTSTP, SIGQUIT}) ASSERT_EQ(::kill(spinner.pid(), signal), 0);
    std::vector<TscGap> gaps;
    ASSERT_TRUE(eventually([&] {
        spinner.drain(gaps);
        return gaps.size() >= 20;
    }));
    EXPECT_TRUE(spinner.alive());
    spinner.stop();
    EXPECT_EQ(spinner.ending(), "");
}

TEST(Spinner, StopsBeforeItWasLetGo) {
    Spinner spinner = started(cpus().first);
    const pid_t pid = spinner.pid();
    spinner.stop();
    EXPECT_EQ(spinner.ending(), "");
    EXPECT_EQ(spinner.stats().begin_tsc, 0U);
    EXPECT_EQ(::kill(pid, 0), -1) << "it is reaped";
    spinner.stop();
}

TEST(Spinner, IsKilledIfItDoesNotStop) {
    Spinner spinner = started(cpus().first);
    ASSERT_EQ(::kill(spinner.pid(), SIGSTOP), 0);
    spinner.stop();
    EXPECT_FALSE(spinner.alive());
    EXPECT_NE(spinner.ending().find("signal 9"), std::string::npos) << spinner.ending();
}

TEST(Spinner, DiesWithItsCollector) {
    ASSERT_EQ(::prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
    std::array<int, 2> pipe{};
    ASSERT_EQ(::pipe(pipe.data()), 0);
    const pid_t collector = ::fork();
    ASSERT_GE(collector, 0);
    if (collector == 0) {
        auto spinner = Spinner::start(cpus().first, kGapNs);
        const pid_t pid = spinner ? spinner->pid() : -1;
        if (spinner) spinner->go();
        ::_exit(::write(pipe[1], &pid, sizeof pid) == sizeof pid ? 0 : 1);
    }
    pid_t spinner = -1;
    ASSERT_EQ(::read(pipe[0], &spinner, sizeof spinner), static_cast<ssize_t>(sizeof spinner));
    ASSERT_GT(spinner, 0);
    int status = 0;
    ASSERT_EQ(::waitpid(collector, &status, 0), collector);
    ASSERT_EQ(::waitpid(spinner, &status, 0), spinner);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    ::close(pipe[0]);
    ::close(pipe[1]);
    ::prctl(PR_SET_CHILD_SUBREAPER, 0);
}

TEST(Spinner, TeachesWhatItNeeds) {
    const int cpu = cpus().first;
    const struct {
        int cpu;
        std::uint64_t gap;
    } cases[] = {{cpu, 1}, {cpu, 2'000'000'000}, {-1, kGapNs}, {CL_CPUS, kGapNs}, {CL_CPUS - 1, kGapNs}};
    for (const auto& c : cases) {
        const auto spinner = Spinner::start(c.cpu, c.gap);
        ASSERT_FALSE(spinner) << c.cpu << " " << c.gap;
        EXPECT_FALSE(spinner.error().what.empty());
        EXPECT_FALSE(spinner.error().needs.empty());
        EXPECT_FALSE(spinner.error().found.empty());
        EXPECT_FALSE(spinner.error().set.empty());
    }
    EXPECT_NE(Spinner::start(CL_CPUS - 1, kGapNs).error().found.find("Invalid argument"), std::string::npos);
}

}  // namespace
}  // namespace cloister::breach
