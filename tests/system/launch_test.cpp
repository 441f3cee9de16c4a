#include "system/launch.hpp"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <set>

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "as_nobody.hpp"
#include "fake_root.hpp"
#include "system/files.hpp"

namespace cloister::system {
namespace {

using testing::HasSubstr;
using tests::FakeRoot;

std::string status_of(pid_t pid, std::string_view key) {
    return std::string(value_of(read_file(fmt::format("/proc/{}/status", pid)).value_or(""), key));
}

struct AtStart {  // of this test program, before anything in it changed it
    std::string blocked = status_of(getpid(), "SigBlk:"), ignored = status_of(getpid(), "SigIgn:");
    std::string environment = read_file("/proc/self/environ").value_or("");
};
const AtStart at_start;

CpuSet everywhere() { return get_affinity(0).value(); }

int wait_for(pid_t pid) {
    int status = 0;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    return status;
}

// The exit code of a command, or of the error if it never starts.
int run(std::vector<std::string> argv) {
    auto launch = Launch::prepare(std::move(argv), everywhere());
    if (!launch) return launch.error().status;
    if (auto gone = launch->go(); !gone) return gone.error().status;
    return exit_code(wait_for(launch->pid()));
}

Error error_of(std::vector<std::string> argv) {
    auto launch = Launch::prepare(std::move(argv), everywhere());
    if (!launch) return launch.error();
    const pid_t pid = launch->pid();
    auto gone = launch->go();
    EXPECT_FALSE(gone);
    EXPECT_EQ(launch->pid(), -1);
    EXPECT_EQ(waitpid(pid, nullptr, 0), -1) << "it has been reaped";
    return gone ? Error{} : gone.error();
}

std::string make_file(FakeRoot& root, const char* name, const std::string& text, mode_t mode) {
    root.file(name, text);
    const auto path = root.path() + name;
    EXPECT_EQ(chmod(path.c_str(), mode), 0);
    return path;
}

// A command that has stopped itself, to be looked at; killed in the end.
class Stopped {
public:
    explicit Stopped(const CpuSet& cpus = everywhere())
        : launch_(Launch::prepare({"/bin/sh", "-c", "kill -STOP $$"}, cpus).value()) {
        EXPECT_TRUE(launch_.go());
        int status = 0;
        EXPECT_EQ(waitpid(pid(), &status, WUNTRACED), pid());
        EXPECT_TRUE(WIFSTOPPED(status));
    }
    ~Stopped() {
        kill(pid(), SIGKILL);
        wait_for(pid());
    }
    [[nodiscard]] pid_t pid() const { return launch_.pid(); }
    [[nodiscard]] std::string status(std::string_view key) const { return status_of(pid(), key); }

private:
    Launch launch_;
};

TEST(Launch, ItsOwnExitCode) {
    EXPECT_EQ(run({"true"}), 0);
    EXPECT_EQ(run({"/bin/sh", "-c", "exit 42"}), 42);
    EXPECT_EQ(run({"/bin/sh", "-c", "kill -KILL $$"}), 128 + SIGKILL);
    EXPECT_EQ(run({"/bin/sh", "-c", "kill -TERM $$"}), 128 + SIGTERM);
    EXPECT_EQ(run({"/bin/sh", "-c", "test \"$1\" = 'a  b' -a \"$2\" = ''", "name", "a  b", ""}), 0);
}

TEST(Launch, NotFoundIs127) {
    const auto named = error_of({"no-such-command-anywhere"});
    EXPECT_EQ(named.status, 127);
    EXPECT_THAT(named.what, HasSubstr("no-such-command-anywhere"));
    EXPECT_THAT(named.found, HasSubstr("PATH="));
    EXPECT_EQ(error_of({"/no/such/file"}).status, 127);
    EXPECT_EQ(error_of({""}).status, 127);
    EXPECT_EQ(error_of({}).status, 125);
}

TEST(Launch, NotExecutableIs126) {
    FakeRoot root;
    const auto file = error_of({make_file(root, "/plain", "#!/bin/sh\n", 0644)});
    EXPECT_EQ(file.status, 126);
    EXPECT_THAT(file.set, HasSubstr("chmod +x " + root.path() + "/plain"));
    const auto folder = error_of({root.path()});
    EXPECT_EQ(folder.status, 126);
    EXPECT_EQ(folder.found, "a folder");
    const auto damaged = error_of({make_file(root, "/damaged", "\177ELFrubbish", 0755)});
    EXPECT_EQ(damaged.status, 126);
    EXPECT_THAT(damaged.found, HasSubstr("damaged"));
}

TEST(Launch, ScriptWithoutFirstLineGoesToTheShell) {
    FakeRoot root;
    const auto script = make_file(root, "/script", "test \"$1\" = 'x y' && exit 17\n", 0755);
    EXPECT_EQ(run({script, "x y"}), 17);
}

TEST(Launch, MissingInterpreterIs127AndNamed) {
    FakeRoot root;
    const auto missing = error_of({make_file(root, "/missing", "#! /no/such/shell -e\n", 0755)});
    EXPECT_EQ(missing.status, 127);
    EXPECT_THAT(missing.needs, HasSubstr("/no/such/shell"));
    EXPECT_THAT(missing.needs, Not(HasSubstr("-e")));
    const auto dos = error_of({make_file(root, "/dos", "#!/bin/sh\r\n", 0755)});
    EXPECT_EQ(dos.status, 127);
    EXPECT_THAT(dos.found, HasSubstr("carriage return"));
}

TEST(Launch, LooksAlongPathAsExecvpDoes) {
    FakeRoot root;
    const auto good = make_file(root, "/b/tool", "#!/bin/sh\n", 0755);
    make_file(root, "/a/tool", "", 0644);
    make_file(root, "/c/tool/file", "", 0644);
    const auto path = fmt::format("{0}/none:{0}/a:{0}/c:{0}/b", root.path());
    EXPECT_EQ(find_program("tool", path).value().path, good) << "what may not be executed is passed over";
    const auto refused = find_program("tool", root.path() + "/a");
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().status, 126);
    EXPECT_EQ(find_program("tool", root.path() + "/none").error().status, 127);
}

TEST(Launch, WaitsUntilReleased) {
    auto launch = Launch::prepare({"/bin/sh", "-c", "exit 3"}, everywhere()).value();
    const auto program = [&] { return std::filesystem::read_symlink(fmt::format("/proc/{}/exe", launch.pid())); };
    EXPECT_EQ(program(), std::filesystem::read_symlink("/proc/self/exe"));
    ASSERT_TRUE(launch.go());
    EXPECT_EQ(exit_code(wait_for(launch.pid())), 3);
    const Stopped other;
    EXPECT_EQ(std::filesystem::read_symlink(fmt::format("/proc/{}/exe", other.pid())),
              std::filesystem::canonical("/bin/sh"));
}

TEST(Launch, OnItsCpusOnly) {
    for (const int cpu : everywhere().list()) {
        CpuSet one;
        one.add(cpu);
        EXPECT_EQ(Stopped(one).status("Cpus_allowed_list:"), one.text());
    }
    CpuSet none;
    none.add(8000);
    EXPECT_FALSE(Launch::prepare({"true"}, none));
}

std::set<int> descriptors_of(pid_t pid) {
    std::set<int> out;
    for (const auto& entry : std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", pid))) {
        out.insert(std::stoi(entry.path().filename()));
    }
    return out;
}

TEST(Launch, NoDescriptorOfOursLeaks) {
    const int given = open("/dev/null", O_RDONLY);  // the command's to inherit
    const Fd ours(open("/dev/null", O_RDONLY | O_CLOEXEC));
    std::set<int> expected;
    for (const int fd : descriptors_of(getpid())) {
        const int flags = fcntl(fd, F_GETFD);  // -1: the one that listed them
        if (flags >= 0 && (flags & FD_CLOEXEC) == 0) expected.insert(fd);
    }
    EXPECT_TRUE(expected.contains(given));
    EXPECT_EQ(descriptors_of(Stopped().pid()), expected);
    close(given);
}

void ignore_nothing(int) {}

TEST(Launch, SignalsAreThoseThatWeWereStartedWith) {
    sigset_t blocked, before;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigaddset(&blocked, SIGINT);
    pthread_sigmask(SIG_BLOCK, &blocked, &before);
    auto* const pipe_before = std::signal(SIGPIPE, SIG_IGN);
    if (pipe_before == SIG_IGN) std::signal(SIGPIPE, SIG_DFL);  // whatever it was, it is something else now
    auto* const hup_before = std::signal(SIGHUP, ignore_nothing);
    {
        const Stopped child;
        EXPECT_NE(status_of(getpid(), "SigBlk:"), at_start.blocked) << "else this shows nothing";
        EXPECT_NE(status_of(getpid(), "SigIgn:"), at_start.ignored);
        EXPECT_EQ(child.status("SigBlk:"), at_start.blocked);
        EXPECT_EQ(child.status("SigIgn:"), at_start.ignored);
        EXPECT_EQ(child.status("SigPnd:"), "0000000000000000");
    }
    std::signal(SIGPIPE, pipe_before);
    std::signal(SIGHUP, hup_before);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

TEST(Launch, LimitsNiceAndEnvironmentToo) {
    rlimit files{};
    getrlimit(RLIMIT_NOFILE, &files);
    const auto limits_before = read_file("/proc/self/limits");
    const int nice_before = getpriority(PRIO_PROCESS, 0);
    const rlimit fewer{files.rlim_cur - 1, files.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &fewer), 0);
    setenv("CLOISTER_TEST_ADDED", "1", 1);
    // Only root can take a raised nice value back.
    if (geteuid() == 0) {
        ASSERT_EQ(setpriority(PRIO_PROCESS, 0, nice_before + 1), 0);
    }
    {
        const Stopped child;
        const auto folder = fmt::format("/proc/{}/", child.pid());
        EXPECT_NE(read_file("/proc/self/limits"), limits_before) << "else this shows nothing";
        EXPECT_EQ(read_file(folder + "limits"), limits_before);
        EXPECT_EQ(read_file(folder + "environ"), at_start.environment);
        EXPECT_EQ(getpriority(PRIO_PROCESS, static_cast<id_t>(child.pid())), nice_before);
    }
    setrlimit(RLIMIT_NOFILE, &files);
    unsetenv("CLOISTER_TEST_ADDED");
    if (geteuid() == 0) setpriority(PRIO_PROCESS, 0, nice_before);
}

TEST(Launch, KilledIfItNeverWent) {
    pid_t pid = -1;
    {
        auto launch = Launch::prepare({"true"}, everywhere()).value();
        pid = launch.pid();
        auto moved = std::move(launch);
        EXPECT_EQ(moved.pid(), pid);
        EXPECT_EQ(kill(pid, 0), 0);
    }
    EXPECT_EQ(kill(pid, 0), -1);
    EXPECT_EQ(errno, ESRCH);
}

TEST(Launch, KilledWhileItWaitsIsASignalLikeAnyOther) {
    auto launch = Launch::prepare({"true"}, everywhere()).value();
    kill(launch.pid(), SIGTERM);
    siginfo_t info{};
    ASSERT_EQ(waitid(P_PID, static_cast<id_t>(launch.pid()), &info, WEXITED | WNOWAIT), 0);
    EXPECT_TRUE(launch.go());
    EXPECT_EQ(exit_code(wait_for(launch.pid())), 128 + SIGTERM);
}

// What becomes of a launched command whose launcher ends without a word, before go() or after it.
int status_when_launcher_dies(bool go) {
    EXPECT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
    int pids[2];
    EXPECT_EQ(pipe2(pids, O_CLOEXEC), 0);
    const pid_t launcher = fork();
    if (launcher == 0) {
        auto launch = Launch::prepare({"/bin/sh", "-c", "kill -STOP $$; exit 7"}, everywhere()).value();
        if (go && !launch.go()) _exit(1);
        const pid_t pid = launch.pid();
        if (go) waitpid(pid, nullptr, WUNTRACED);
        _exit(write(pids[1], &pid, sizeof pid) == sizeof pid ? 0 : 1);
    }
    close(pids[1]);
    pid_t pid = 0;
    EXPECT_EQ(read(pids[0], &pid, sizeof pid), static_cast<ssize_t>(sizeof pid));
    close(pids[0]);
    EXPECT_EQ(exit_code(wait_for(launcher)), 0);
    if (go) kill(pid, SIGCONT);
    const int status = wait_for(pid);
    prctl(PR_SET_CHILD_SUBREAPER, 0);
    return status;
}

TEST(Launch, DiesWithItsLauncherUntilItsExecOnly) {
    const int held = exit_code(status_when_launcher_dies(false));
    EXPECT_TRUE(held == 128 + SIGKILL || held == 125) << held;
    EXPECT_EQ(exit_code(status_when_launcher_dies(true)), 7);
}

TEST(Program, WhatItsExecChanges) {
    // Set-user-ID root everywhere: no change for root, one for anybody else.
    const auto su = find_program("/bin/su", "").value();
    EXPECT_TRUE(su.elf);
    EXPECT_EQ(su.setuid, geteuid() != 0);
    EXPECT_EQ(su.drops_events(), geteuid() != 0);
    const auto plain = find_program("/bin/true", "").value();
    EXPECT_FALSE(plain.drops_events());
    if (geteuid() != 0) return;
    FakeRoot root;
    const auto path = make_file(root, "/owned", "#!/bin/sh\n", 0755);
    ASSERT_EQ(chown(path.c_str(), 65534, 65534), 0);
    ASSERT_EQ(chmod(path.c_str(), 06755), 0);
    const auto owned = find_program(path, "").value();
    EXPECT_TRUE(owned.setuid && owned.setgid && owned.drops_events());
    EXPECT_FALSE(owned.elf);
}

// Run by the next test as another user.
TEST(ProgramOfEnvironment, CapabilitiesAndReading) {
    const char* folder = std::getenv("CLOISTER_TEST_FOLDER");
    if (!folder) {
        EXPECT_EQ(geteuid(), 0U) << "the environment names the folder";
        return;
    }
    const auto capable = find_program(std::string(folder) + "/capable", "").value();
    EXPECT_TRUE(capable.capabilities && capable.drops_events());
    EXPECT_FALSE(capable.unreadable || capable.setuid || capable.setgid);
    const auto hidden = find_program(std::string(folder) + "/hidden", "").value();
    EXPECT_TRUE(hidden.unreadable && hidden.drops_events());
}

TEST(Program, WhatItsExecChangesForNobody) {
    if (geteuid() != 0) GTEST_SKIP() << "only root can become somebody else";
    FakeRoot root;
    ASSERT_EQ(chmod(root.path().c_str(), 0755), 0);
    const auto capable = make_file(root, "/capable", "x", 0755);
    make_file(root, "/hidden", "x", 0711);
    // struct vfs_cap_data of revision 2, effective: CAP_NET_RAW (13) permitted.
    const std::uint32_t capabilities[5] = {0x02000001, 1U << 13, 0, 0, 0};
    ASSERT_EQ(setxattr(capable.c_str(), "security.capability", capabilities, sizeof capabilities, 0), 0);
    EXPECT_FALSE(find_program(capable, "").value().drops_events()) << "root has them already";
    setenv("CLOISTER_TEST_FOLDER", root.path().c_str(), 1);
    const auto result = tests::run_as_nobody("ProgramOfEnvironment.*:Program.WhatItsExecChanges");
    unsetenv("CLOISTER_TEST_FOLDER");
    EXPECT_EQ(result.status, 0) << result.output;
    EXPECT_THAT(result.output, HasSubstr("[  PASSED  ] 2 tests."));
}

TEST(ReproduceSignal, EvenIfBlockedOrIgnored) {
    for (const int sig : {SIGTERM, SIGSEGV, SIGKILL, SIGINT, SIGRTMIN + 1}) {
        const pid_t pid = fork();
        if (pid == 0) {
            sigset_t all;
            sigfillset(&all);
            sigprocmask(SIG_SETMASK, &all, nullptr);
            std::signal(sig, SIG_IGN);
            reproduce_signal(sig);
        }
        const int status = wait_for(pid);
        ASSERT_TRUE(WIFSIGNALED(status)) << sig;
        EXPECT_EQ(WTERMSIG(status), sig);
        EXPECT_FALSE(WCOREDUMP(status));
    }
}

}  // namespace
}  // namespace cloister::system
