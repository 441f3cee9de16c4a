// Events in children of vfork, while other threads write on every CPU: none may land in a lane, be torn or be lost.
#include "recorder/vfork.hpp"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <numeric>
#include <thread>

#include "../core/rseq.hpp"
#include "../scratch.hpp"
#include "found.hpp"

extern char** environ;

namespace cloister::recorder::test {
namespace {

using core::Mode;
using core::Wrote;
using core::test::forbid;
using core::test::is_registered;

constexpr core::Shape kLarge{.slots = 16, .size = 1 << 20, .mode = Mode::discard};
constexpr core::Shape kSmall{.slots = 4, .size = 1 << 16, .mode = Mode::discard};
constexpr std::uint64_t kParent = 100, kChild = 101, kHandler = 102, kGrandchild = 103;  // sources

std::vector<std::uint64_t> up_to(std::uint64_t count) {
    std::vector<std::uint64_t> out(count);
    std::iota(out.begin(), out.end(), 0);
    return out;
}

// A source of events in memory that a child of vfork shares.
struct Source {
    const core::View* view = nullptr;
    std::uint64_t id = 0;
    volatile std::uint64_t done = 0, refused = 0;
    void write() {
        if (core::write_pair(*view, kEvent, id, done) == Wrote::done)
            done = done + 1;
        else
            refused = refused + 1;
    }
};

int status_of(pid_t child) {
    int status = -1;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// The child runs `body`, and ends with what it returns. Its caller's variables are no concern of vfork's.
template <class Body>
[[gnu::noinline]] pid_t vforked(const Body& body) {
    const pid_t pid = vfork();
    if (pid == 0) _exit(body());
    return pid;
}

Source handled;
void on_signal(int) { handled.write(); }

TEST(Vfork, EventsOfChildrenParentsAndOthers) {
    const tests::Scratch folder;
    const auto recorder = make_recorder(kLarge);
    const core::View& view = recorder->view(0);
    std::atomic<bool> stop = false;
    const auto cpus = static_cast<std::uint32_t>(sysconf(_SC_NPROCESSORS_ONLN));
    std::vector<Source> others(2 * std::size_t{cpus});
    std::vector<std::thread> threads;
    sigset_t alarm;
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGALRM);
    pthread_sigmask(SIG_BLOCK, &alarm, nullptr);
    for (std::uint32_t t = 0; t < others.size(); ++t)
        threads.emplace_back([&, t] {
            cpu_set_t one;
            CPU_ZERO(&one);
            CPU_SET(t % cpus, &one);
            sched_setaffinity(0, sizeof one, &one);
            others[t].view = &view;
            others[t].id = t;
            while (!stop && others[t].done < 100'000) others[t].write();
        });
    pthread_sigmask(SIG_UNBLOCK, &alarm, nullptr);

    handled.view = &view;
    handled.id = kHandler;
    auto* const before = std::signal(SIGALRM, on_signal);
    const itimerval often{{0, 500}, {0, 500}}, never{};
    Source parent{.view = &view, .id = kParent}, child{.view = &view, .id = kChild};
    setitimer(ITIMER_REAL, &often, nullptr);
    constexpr int kForks = 300;
    for (int i = 0; i < kForks; ++i) {
        parent.write();
        const pid_t pid = vforked([&] {
            for (int n = 0; n < 20; ++n) {
                child.write();
                if (n % 5 == 0) raise(SIGALRM);  // its handler runs in the child as well
            }
            if (i % 2) execl("/bin/true", "true", nullptr);
            return 0;
        });
        ASSERT_GT(pid, 0);
        parent.write();
        ASSERT_EQ(status_of(pid), 0);
    }
    setitimer(ITIMER_REAL, &never, nullptr);
    std::signal(SIGALRM, before);
    stop = true;
    for (auto& thread : threads) thread.join();
    EXPECT_TRUE(is_registered());

    ASSERT_TRUE(snapshot(recorder->segment(), folder / "trace"));
    const Found found = read_found(folder / "trace");
    EXPECT_EQ(child.done, 20U * kForks);
    EXPECT_EQ(child.refused, 0U);
    EXPECT_EQ(found.of(kChild), up_to(child.done));
    EXPECT_FALSE(found.lanes.contains(kChild)) << "a child of vfork has no CPU";
    EXPECT_EQ(found.of(kParent), up_to(2 * kForks));
    EXPECT_FALSE(found.spilt.contains(kParent)) << "it has its CPU again";
    EXPECT_EQ(found.of(kHandler), up_to(handled.done));
    EXPECT_TRUE(found.spilt.contains(kHandler));
    std::uint64_t dropped = handled.refused;
    for (const auto& other : others) {
        EXPECT_GT(other.done, 0U);
        EXPECT_EQ(found.of(other.id), up_to(other.done));
        EXPECT_FALSE(found.spilt.contains(other.id));
        dropped += other.refused;
    }
    EXPECT_EQ(found.lost, dropped);
}

TEST(Vfork, IsOneToTheProgram) {
    const auto recorder = make_recorder(kSmall);
    int shared = 0;
    errno = 77;
    pid_t pid = vforked([&] { return shared = 5, 3; });
    EXPECT_EQ(errno, 77);
    EXPECT_EQ(status_of(pid), 3);
    EXPECT_EQ(shared, 5) << "the child's memory is the parent's";
    pid = vforked([&] {
        execl("/no/such/program", "x", nullptr);
        shared = errno;
        return 4;
    });
    EXPECT_EQ(status_of(pid), 4);
    EXPECT_EQ(shared, ENOENT);
    EXPECT_TRUE(is_registered());
    Dl_info where{};
    ASSERT_NE(dladdr(dlsym(RTLD_DEFAULT, "vfork"), &where), 0);
    EXPECT_EQ(std::string(where.dli_fname).find("libc.so"), std::string::npos) << "what libraries find is ours";
}

TEST(Vfork, ACallFromALibraryIsTheProgramsOwn) {
    const tests::Scratch folder;
    const auto recorder = make_recorder(kSmall);
    void* library = dlopen(VFORKING_LIBRARY, RTLD_NOW);
    ASSERT_TRUE(library) << dlerror();
    auto* const call = reinterpret_cast<pid_t (*)(void (*)(void*), void*)>(dlsym(library, "in_child_of_vfork"));
    ASSERT_TRUE(call);
    Source child{.view = &recorder->view(0), .id = kChild};
    const pid_t pid = call([](void* source) { static_cast<Source*>(source)->write(); }, &child);
    EXPECT_EQ(status_of(pid), 0);
    EXPECT_EQ(child.done, 1U);
    ASSERT_TRUE(snapshot(recorder->segment(), folder / "trace"));
    EXPECT_EQ(read_found(folder / "trace").spilt.at(kChild), up_to(1));
    dlclose(library);
}

TEST(Vfork, WithinAChildOfVfork) {
    const tests::Scratch folder;
    const auto recorder = make_recorder(kSmall);
    Source child{.view = &recorder->view(0), .id = kChild}, grandchild{.view = &recorder->view(0), .id = kGrandchild};
    const pid_t pid = vforked([&] {
        child.write();
        const pid_t inner = vforked([&] { return grandchild.write(), 0; });
        child.write();
        return status_of(inner);
    });
    EXPECT_EQ(status_of(pid), 0);
    EXPECT_TRUE(is_registered());
    ASSERT_TRUE(snapshot(recorder->segment(), folder / "trace"));
    const Found found = read_found(folder / "trace");
    EXPECT_EQ(found.spilt.at(kChild), up_to(2));
    EXPECT_EQ(found.spilt.at(kGrandchild), up_to(1));
    EXPECT_TRUE(found.lanes.empty());
}

// The others run on while the child is there: with the parent's registration it would be aborted, or abort others.
TEST(Vfork, SpawnAndSystemLeaveThisThreadItsLane) {
    const tests::Scratch folder;
    const auto recorder = make_recorder(kSmall);
    Source parent{.view = &recorder->view(0), .id = kParent};
    for (int i = 0; i < 10; ++i) {
        parent.write();
        const char* const arguments[] = {"true", nullptr};
        pid_t pid = 0;
        ASSERT_EQ(posix_spawn(&pid, "/bin/true", nullptr, nullptr, const_cast<char**>(arguments), environ), 0);
        parent.write();
        EXPECT_EQ(status_of(pid), 0);
        EXPECT_EQ(std::system("true"), 0);
    }
    ASSERT_TRUE(snapshot(recorder->segment(), folder / "trace"));
    const Found found = read_found(folder / "trace");
    EXPECT_EQ(found.of(kParent), up_to(20));
    EXPECT_TRUE(found.spilt.empty());
}

template <class Body>
int in_child(const Body& body) {
    const pid_t pid = fork();
    if (pid == 0) _exit(body());
    return status_of(pid);
}

TEST(Vfork, WithoutRseqItIsVforkAndNothingElse) {
    EXPECT_EQ(in_child([] {
                  const auto recorder = make_recorder(kSmall);
                  if (!core::test::unregister()) return 1;
                  Source source{.view = &recorder->view(0), .id = kChild};
                  const pid_t pid = vforked([&] { return source.write(), 0; });
                  source.write();
                  return status_of(pid) == 0 && source.done == 2 && !is_registered() ? 0 : 2;
              }),
              0);
}

TEST(Vfork, ThatFailsSaysSoAndLeavesTheThreadRegistered) {
    EXPECT_EQ(in_child([] {
                  const auto recorder = make_recorder(kSmall);
                  if (!forbid({SYS_vfork})) return 1;
                  errno = 0;
                  const pid_t pid = vforked([] { return 9; });
                  if (pid != -1 || errno != EPERM) return 2;
                  return is_registered() ? 0 : 3;
              }),
              0);
}

TEST(Vfork, WhereRseqIsForbiddenTheChildHasMemoryOfItsOwn) {
    EXPECT_EQ(in_child([] {
                  const auto recorder = make_recorder(kSmall);
                  Source source{.view = &recorder->view(0), .id = kChild};
                  source.write();
                  if (!forbid({SYS_rseq})) return 1;
                  const pid_t pid = vforked([&] {
                      source.write();
                      return source.done == 1 && source.refused == 1 ? 0 : 9;
                  });
                  source.write();
                  if (status_of(pid) != 0) return 2;
                  return source.done == 2 && source.refused == 0 ? 0 : 3;
              }),
              0);
}

TEST(Vfork, AKilledChildLeavesAHoleAtMost) {
    const tests::Scratch folder;
    const auto recorder = make_recorder({.slots = 4, .size = 4096, .mode = Mode::overwrite});
    Source child{.view = &recorder->view(0), .id = kChild}, parent{.view = &recorder->view(0), .id = kParent};
    constexpr std::uint64_t kKills = 40;
    std::atomic<pid_t> victim = 0;
    std::thread killer([&] {
        for (std::uint64_t i = 0; i < kKills; ++i) {
            pid_t pid = 0;
            while (!(pid = victim.exchange(0))) sched_yield();
            for (std::uint64_t n = 0; n < i * 100; ++n) (void)core::write_pair(recorder->view(0), kEvent, 0, n);
            kill(pid, SIGKILL);
        }
    });
    for (std::uint64_t i = 0; i < kKills; ++i) {
        const pid_t pid = vforked([&] {
            victim = getpid();
            for (;;) child.write();
            return 0;
        });
        parent.write();
        EXPECT_EQ(status_of(pid), -1) << "killed";
    }
    killer.join();
    EXPECT_TRUE(is_registered());
    EXPECT_EQ(parent.done, kKills);
    ASSERT_TRUE(snapshot(recorder->segment(), folder / "trace"));
    const Found found = read_found(folder / "trace");
    EXPECT_LE(found.lost, kKills + child.refused);
    // Those in the newest sub-buffers follow each other; where a child was killed, one may be missing or there twice.
    const auto numbers = found.spilt.at(kChild);
    for (std::size_t i = 1; i < numbers.size(); ++i) {
        EXPECT_GE(numbers[i], numbers[i - 1]);
        EXPECT_LE(numbers[i], numbers[i - 1] + 1);
    }
}

}  // namespace
}  // namespace cloister::recorder::test
