#include "breach/mappings.hpp"

#include <algorithm>
#include <csignal>
#include <fstream>
#include <set>
#include <tuple>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "as_nobody.hpp"
#include "system/files.hpp"
#include "system/launch.hpp"
#include "system/proc.hpp"

namespace cloister::breach {
namespace {

using testing::HasSubstr;
using unwind::AddressSpaces;

using Entry = std::tuple<std::uint64_t, std::uint64_t, std::uint64_t, std::string>;

// The executable mappings that /proc shows, without the one that no process has made.
std::set<Entry> proc_maps(pid_t pid) {
    std::set<Entry> out;
    const auto text = system::read_file(fmt::format("/proc/{}/maps", pid)).value_or("");
    for (const auto line : system::split_lines(text)) {
        const auto words = system::split_words(line);
        if (words.size() < 5 || words[1].at(2) != 'x') continue;
        const std::string path(words.size() > 5 ? words[5] : "");
        if (path == "[vsyscall]") continue;
        const std::string range(words[0]);
        const auto dash = range.find('-');
        const bool file = path.starts_with("/");
        out.emplace(std::stoull(range, nullptr, 16), std::stoull(range.substr(dash + 1), nullptr, 16),
                    file ? std::stoull(std::string(words[2]), nullptr, 16) : 0, path);
    }
    return out;
}

std::set<Entry> known_maps(const AddressSpaces& spaces, pid_t pid) {
    std::set<Entry> out;
    const auto* maps = spaces.maps(static_cast<std::uint32_t>(pid));
    if (!maps) return out;
    for (const auto& map : *maps) {
        if (map.path == "[vsyscall]") continue;
        out.emplace(map.start, map.end, map.path.starts_with("/") ? map.offset : 0, map.path);
    }
    return out;
}

// A command that follows `script` until it has stopped itself.
struct Script {
    explicit Script(const std::string& script, AddressSpaces& spaces)
        : launch(system::Launch::prepare({"/bin/sh", "-c", script}, system::get_affinity(0).value()).value()),
          mappings(Mappings::follow(launch.pid(), spaces).value()) {}
    ~Script() {
        kill(launch.pid(), SIGKILL);
        waitpid(launch.pid(), nullptr, 0);
    }
    void run_until_stopped() {
        ASSERT_TRUE(launch.go());
        int status = 0;
        ASSERT_EQ(waitpid(launch.pid(), &status, WUNTRACED), launch.pid());
        ASSERT_TRUE(WIFSTOPPED(status));
        mappings.drain();
    }
    system::Launch launch;
    Mappings mappings;
};

TEST(Mappings, OfAProgramAreThoseOfProc) {
    AddressSpaces spaces;
    Script script("kill -STOP $$", spaces);
    const auto before = known_maps(spaces, script.launch.pid());
    EXPECT_FALSE(before.empty()) << "what it was forked with, from /proc";
    script.run_until_stopped();
    const auto known = known_maps(spaces, script.launch.pid());
    EXPECT_EQ(known, proc_maps(script.launch.pid()));
    EXPECT_NE(known, before);
    const auto has = [&](const char* part) {
        return std::any_of(known.begin(), known.end(),
                           [&](const Entry& entry) { return std::get<3>(entry).find(part) != std::string::npos; });
    };
    EXPECT_TRUE(has("libc.so.6"));
    EXPECT_TRUE(has("[vdso]"));
    EXPECT_EQ(script.mappings.lost(), 0U);
}

TEST(Mappings, OfChildrenAndOfWhatTheyExecute) {
    AddressSpaces spaces;
    // A subshell (fork alone) and a program (fork and exec), both alive while the shell is stopped.
    Script script("(kill -STOP $(exec sh -c 'echo $PPID'); exit) & sleep 1000 & kill -STOP $$", spaces);
    script.run_until_stopped();
    std::vector<pid_t> children;
    const auto list = system::read_word(fmt::format("/proc/{0}/task/{0}/children", script.launch.pid()));
    for (const auto word : system::split_words(list)) children.push_back(std::stoi(std::string(word)));
    ASSERT_EQ(children.size(), 2U);
    // They get where they are going in their own time.
    const auto state = [](pid_t pid) {
        return std::string(
                   system::value_of(system::read_file(fmt::format("/proc/{}/status", pid)).value_or(""), "State:"))
            .substr(0, 1);
    };
    const auto name = [](pid_t pid) { return system::read_word(fmt::format("/proc/{}/comm", pid)); };
    while (state(children[0]) != "T" || name(children[1]) != "sleep" || state(children[1]) != "S") usleep(1000);
    script.mappings.drain();
    for (const pid_t child : children) {
        EXPECT_EQ(known_maps(spaces, child), proc_maps(child)) << child;
        kill(child, SIGKILL);
    }
    EXPECT_EQ(known_maps(spaces, children[0]), known_maps(spaces, script.launch.pid()));
    EXPECT_NE(known_maps(spaces, children[1]), known_maps(spaces, children[0]));
}

TEST(Mappings, OfAProcessThatRunsAlready) {
    int go[2], done[2];
    ASSERT_EQ(pipe(go), 0);
    ASSERT_EQ(pipe(done), 0);
    const pid_t pid = fork();
    if (pid == 0) {
        char byte = 0;
        if (read(go[0], &byte, 1) != 1) _exit(1);
        const int file = open("/proc/self/exe", O_RDONLY);
        if (mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0) == MAP_FAILED) _exit(1);
        // Not executable: of no interest.
        if (mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, file, 0) == MAP_FAILED) _exit(1);
        // Made executable later, as a JIT does.
        void* code = mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (code == MAP_FAILED || mprotect(code, 8192, PROT_READ | PROT_EXEC) != 0) _exit(1);
        if (write(done[1], "d", 1) != 1 || read(go[0], &byte, 1) != 1) _exit(1);
        _exit(0);
    }
    AddressSpaces spaces;
    auto mappings = Mappings::follow(pid, spaces).value();
    EXPECT_EQ(known_maps(spaces, pid), proc_maps(pid));
    const auto before = known_maps(spaces, pid);
    char byte = 0;
    ASSERT_EQ(write(go[1], "g", 1), 1);
    ASSERT_EQ(read(done[0], &byte, 1), 1);
    mappings.drain();
    const auto known = known_maps(spaces, pid);
    EXPECT_EQ(known, proc_maps(pid));
    EXPECT_EQ(known.size(), before.size() + 2);
    ASSERT_EQ(write(go[1], "g", 1), 1);
    waitpid(pid, nullptr, 0);
    mappings.drain();
    EXPECT_EQ(known_maps(spaces, pid), known) << "kept after its end";
    for (const int fd : {go[0], go[1], done[0], done[1]}) close(fd);
}

TEST(Mappings, OfNobodyIsAnError) {
    AddressSpaces spaces;
    const auto none = Mappings::follow(0x3fffffff, spaces);
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().needs, "a process that is alive");
}

TEST(MappingsAsNobody, TheSame) {
    if (geteuid() != 0) GTEST_SKIP() << "only root can become somebody else; the others have run without privilege";
    if (system::read_privileges().perf_event_paranoid > 2) return;
    const auto result = tests::run_as_nobody("Mappings.*");
    EXPECT_EQ(result.status, 0) << result.output;
    EXPECT_THAT(result.output, HasSubstr("[  PASSED  ] 4 tests."));
}

}  // namespace
}  // namespace cloister::breach
