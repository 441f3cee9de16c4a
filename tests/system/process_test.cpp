#include "system/process.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

namespace cloister::system {
namespace {

TEST(Process, HasEndedAsSoonAsItIsAZombie) {
    const pid_t pid = fork();
    if (pid == 0) {
        pause();
        _exit(0);
    }
    const Process child(pid);
    EXPECT_FALSE(child.ended());
    kill(pid, SIGKILL);
    siginfo_t info{};
    ASSERT_EQ(waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT), 0);
    EXPECT_TRUE(child.ended()) << "nobody has waited for it yet";
    EXPECT_TRUE(Process(pid).ended());
    waitpid(pid, nullptr, 0);
    EXPECT_TRUE(child.ended());
}

TEST(Process, OneThatIsNotThereHasEnded) {
    EXPECT_TRUE(Process(0x3fffffff).ended());
    EXPECT_TRUE(Process(-1).ended());
    EXPECT_FALSE(Process(getpid()).ended());
}

}  // namespace
}  // namespace cloister::system
