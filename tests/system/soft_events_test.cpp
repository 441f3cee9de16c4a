#include "breach/soft_events.hpp"

#include <cstring>
#include <map>
#include <set>

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "as_nobody.hpp"
#include "system/cpu.hpp"
#include "system/proc.hpp"

// The one instruction that touches a page, and a word on the stack by which its copy is known.
extern "C" char cloister_touch_instruction[];

namespace cloister::breach {
namespace {

using testing::HasSubstr;

constexpr std::size_t kPage = 4096;
constexpr std::uint64_t kMark = 0x636c6f6973746572;

[[gnu::noinline]] void touch(volatile char* page) {
    volatile std::uint64_t mark[4] = {kMark, kMark + 1, kMark + 2, kMark + 3};
    // The pointer to the mark keeps it where it is until the page has been touched.
    asm volatile("cloister_touch_instruction: movb $1, (%0)" : : "r"(page), "r"(mark) : "memory");
}

// A process that waits, then touches `pages` fresh pages, the last `forked` of them in a child of its own.
class Toucher {
public:
    Toucher(std::size_t pages, std::size_t forked) : size_(pages * kPage) {
        void* memory = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED || pipe(go_) != 0) std::abort();
        madvise(memory, size_, MADV_NOHUGEPAGE);
        base_ = static_cast<volatile char*>(memory);
        pid_ = fork();
        if (pid_ == 0) {
            char byte = 0;
            if (read(go_[0], &byte, 1) != 1) _exit(1);
            for (std::size_t i = 0; i < pages - forked; ++i) touch(base_ + i * kPage);
            const pid_t child = forked > 0 ? fork() : -1;
            if (child == 0) {
                for (std::size_t i = pages - forked; i < pages; ++i) touch(base_ + i * kPage);
                _exit(0);
            }
            if (child > 0) waitpid(child, nullptr, 0);
            _exit(0);
        }
    }
    // Keeps it on one CPU, as a watched program is.
    void pin() {
        const auto cpus = system::get_affinity(pid_).value().list();
        system::CpuSet last;
        last.add(cpus.back());
        ASSERT_TRUE(system::set_affinity(pid_, last));
    }
    ~Toucher() {
        munmap(const_cast<char*>(base_), size_);
        close(go_[0]);
        close(go_[1]);
    }
    Toucher(const Toucher&) = delete;
    Toucher& operator=(const Toucher&) = delete;
    void run() {
        ASSERT_EQ(write(go_[1], "g", 1), 1);
        int status = -1;
        ASSERT_EQ(waitpid(pid_, &status, 0), pid_);
        ASSERT_EQ(status, 0);
    }
    [[nodiscard]] pid_t pid() const { return pid_; }
    [[nodiscard]] bool has(std::uint64_t address) const {
        const auto base = reinterpret_cast<std::uint64_t>(base_);
        return address >= base && address < base + size_;
    }

private:
    std::size_t size_;
    volatile char* base_ = nullptr;
    int go_[2];
    pid_t pid_ = -1;
};

struct Seen {
    std::vector<cl_record> records;
    std::map<std::uint32_t, std::shared_ptr<const cl_stack>> stacks;
};

void drain(SoftEvents& events, Seen& seen) {
    events.drain(
        [&](const cl_record& record) {
            EXPECT_TRUE(seen.stacks.contains(record.stack)) << "the stack comes first";
            seen.records.push_back(record);
        },
        [&](std::shared_ptr<const cl_stack> stack) {
            EXPECT_TRUE(seen.stacks.emplace(stack->id, stack).second) << "its id is unique";
        });
}

std::uint64_t now_ns() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

TEST(SoftEvents, EveryTouchedPageIsOneFault) {
    constexpr std::size_t kPages = 60, kForked = 20;
    Toucher program(kPages, kForked);
    program.pin();
    const auto begin = now_ns();
    auto events = SoftEvents::follow(program.pid()).value();
    program.run();
    const auto end = now_ns();
    Seen seen;
    drain(events, seen);

    std::set<std::uint64_t> touched, sites;
    std::set<std::uint32_t> processes;
    std::size_t by_child = 0;
    for (const auto& record : seen.records) {
        EXPECT_EQ(record.kind, CL_FAULT);
        EXPECT_GE(record.start, begin);
        EXPECT_LE(record.end, end);
        EXPECT_EQ(record.c, 4U);
        if (!program.has(record.a)) continue;
        EXPECT_TRUE(touched.insert(record.a).second) << "one fault a page";
        EXPECT_EQ(record.d, CL_FAULT_POINT) << "minor";
        EXPECT_EQ(record.b, reinterpret_cast<std::uint64_t>(cloister_touch_instruction));
        EXPECT_EQ(record.tid, record.tgid);
        processes.insert(record.tgid);
        by_child += record.tgid != static_cast<std::uint32_t>(program.pid());
        sites.insert(record.site);

        const auto& stack = *seen.stacks.at(record.stack);
        EXPECT_EQ(stack.tid, record.tid);
        EXPECT_EQ(stack.site, record.site);
        EXPECT_EQ(stack.ip, record.b);
        ASSERT_GE(stack.user_n, 1U);
        EXPECT_EQ(stack.user[0], record.b);
        EXPECT_GT(stack.sp, 0U);
        const std::uint64_t mark[4] = {kMark, kMark + 1, kMark + 2, kMark + 3};
        EXPECT_NE(memmem(stack.copy, stack.copy_n, mark, sizeof mark), nullptr) << "the copy is of the stack";
    }
    EXPECT_EQ(touched.size(), kPages);
    EXPECT_EQ(by_child, kForked);
    EXPECT_EQ(processes.size(), 2U);
    EXPECT_LE(sites.size(), 2U) << "one for each process, whatever the address";
    const auto totals = events.totals().value();
    EXPECT_EQ(totals.minor + totals.major, seen.records.size());
    EXPECT_EQ(events.lost(), 0U);
}

TEST(SoftEvents, AStormIsCountedExactly) {
    constexpr std::size_t kPages = 20000;
    Toucher program(kPages, 0);
    auto events = SoftEvents::follow(program.pid()).value();
    program.run();
    Seen seen;
    drain(events, seen);
    const auto kept = seen.records.size();
    EXPECT_LT(kept, kPages);
    EXPECT_GT(kept, 0U);
    const auto totals = events.totals().value();
    EXPECT_GE(totals.minor, kPages);
    EXPECT_LT(totals.minor, kPages + 1000) << "the program does little else";
    EXPECT_EQ(events.lost(), totals.minor + totals.major - kept);
}

TEST(SoftEvents, OfNobodyIsAnError) {
    const auto none = SoftEvents::follow(0x3fffffff);
    ASSERT_FALSE(none);
    EXPECT_FALSE(none.error().needs.empty());
}

TEST(SoftEvents, NamesWhatItNeverSees) {
    for (const auto& blind : SoftEvents::blind()) {
        EXPECT_FALSE(blind.what.empty());
        EXPECT_FALSE(blind.why.empty());
    }
    EXPECT_EQ(SoftEvents::blind().size(), 2U);
}

// Where even this is forbidden.
TEST(SoftEventsForbidden, TheErrorTeaches) {
    const auto privileges = system::read_privileges();
    const auto events = SoftEvents::follow(getpid());
    if (privileges.perf_event_paranoid <= 2 || privileges.cap_perfmon || privileges.cap_sys_admin) {
        EXPECT_TRUE(events);
        return;
    }
    ASSERT_FALSE(events);
    EXPECT_THAT(events.error().set, HasSubstr("sysctl kernel.perf_event_paranoid=2"));
}

TEST(SoftEventsAsNobody, TheSame) {
    if (geteuid() != 0) GTEST_SKIP() << "only root can become somebody else; the others have run without privilege";
    const bool allowed = system::read_privileges().perf_event_paranoid <= 2;
    const auto result = tests::run_as_nobody(allowed ? "SoftEvents.*:SoftEventsForbidden.*" : "SoftEventsForbidden.*");
    EXPECT_EQ(result.status, 0) << result.output;
    EXPECT_THAT(result.output, HasSubstr(allowed ? "[  PASSED  ] 5 tests." : "[  PASSED  ] 1 test."));
}

}  // namespace
}  // namespace cloister::breach
