#include "system/perf.hpp"

#include <cstring>
#include <set>

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "as_nobody.hpp"
#include "system/cpu.hpp"
#include "system/perf_record.hpp"
#include "system/proc.hpp"
#include "system/task_events.hpp"

namespace cloister::system {
namespace {

using testing::HasSubstr;

constexpr std::size_t kPage = 4096;

class FreshPages {
public:
    explicit FreshPages(std::size_t pages) : size_(pages * kPage) {
        void* memory = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) std::abort();
        madvise(memory, size_, MADV_NOHUGEPAGE);
        base_ = static_cast<volatile char*>(memory);
    }
    ~FreshPages() { munmap(const_cast<char*>(base_), size_); }
    FreshPages(const FreshPages&) = delete;
    FreshPages& operator=(const FreshPages&) = delete;
    void touch(std::size_t from, std::size_t to) {
        for (std::size_t i = from; i < to; ++i) base_[i * kPage] = 1;
    }
    [[nodiscard]] std::uint64_t address(std::size_t page) const {
        return reinterpret_cast<std::uint64_t>(base_ + page * kPage);
    }
    [[nodiscard]] bool has(std::uint64_t address) const {
        return address >= reinterpret_cast<std::uint64_t>(base_) &&
               address < reinterpret_cast<std::uint64_t>(base_) + size_;
    }

private:
    std::size_t size_;
    volatile char* base_;
};

// Records of 24 bytes, of which a page holds no whole number.
perf_event_attr faults() {
    perf_event_attr attr{};
    attr.type = PERF_TYPE_SOFTWARE;
    attr.config = PERF_COUNT_SW_PAGE_FAULTS;
    attr.sample_period = 1;
    attr.sample_type = PERF_SAMPLE_IP | PERF_SAMPLE_ADDR;
    attr.exclude_kernel = 1;
    attr.watermark = 1;
    attr.wakeup_watermark = 1U << 30;
    return attr;
}

std::vector<std::uint64_t> drain_addresses(PerfRing& ring, const FreshPages& pages) {
    std::vector<std::uint64_t> out;
    ring.drain([&](const perf_event_header& header) {
        if (header.type != PERF_RECORD_SAMPLE) return;
        RecordReader fields(header);
        fields.take<std::uint64_t>();
        const auto address = fields.take<std::uint64_t>();
        EXPECT_TRUE(fields.ok());
        if (pages.has(address)) out.push_back(address);
    });
    return out;
}

TEST(PerfRing, EveryRecordOnceAndInOrderAcrossTheEnd) {
    constexpr std::size_t kRounds = 60, kEach = 20;
    const auto event = perf_open(faults(), 0, -1).value();
    auto ring = PerfRing::map(event, 1).value();
    FreshPages pages(kRounds * kEach);
    std::size_t next = 0;
    for (std::size_t round = 0; round < kRounds; ++round) {
        pages.touch(round * kEach, (round + 1) * kEach);
        for (const auto address : drain_addresses(ring, pages)) EXPECT_EQ(address, pages.address(next++));
    }
    EXPECT_EQ(next, kRounds * kEach);
    EXPECT_EQ(ring.lost(), 0U);
    EXPECT_TRUE(drain_addresses(ring, pages).empty()) << "what was drained is freed";
}

TEST(PerfRing, WhatDidNotFitIsCounted) {
    constexpr std::size_t kTouched = 1000;
    const auto event = perf_open(faults(), 0, -1).value();
    auto ring = PerfRing::map(event, 1).value();
    FreshPages pages(kTouched + 1);
    pages.touch(0, kTouched);
    const auto kept = drain_addresses(ring, pages).size();
    EXPECT_LE(kept, kPage / 24);
    EXPECT_EQ(ring.lost(), 0U) << "it is told with the next record that fits";
    pages.touch(kTouched, kTouched + 1);
    EXPECT_EQ(drain_addresses(ring, pages).size(), 1U);
    std::uint64_t counted = 0;
    ASSERT_EQ(read(event.get(), &counted, sizeof counted), static_cast<ssize_t>(sizeof counted));
    EXPECT_GE(ring.lost(), kTouched - kept);
    EXPECT_LE(ring.lost(), counted - kept - 1);
}

TEST(PerfRing, MovesWithItsMemory) {
    const auto event = perf_open(faults(), 0, -1).value();
    auto first = PerfRing::map(event, 1).value();
    auto second = PerfRing::map(perf_open(faults(), 0, -1).value(), 1).value();
    FreshPages pages(3);
    auto moved = std::move(first);
    second = std::move(moved);
    pages.touch(0, 3);
    EXPECT_EQ(drain_addresses(second, pages).size(), 3U);
}

TEST(PerfOpen, ErrorsTeach) {
    perf_event_attr unknown{};
    unknown.type = 9999;
    unknown.exclude_kernel = 1;
    const auto none = perf_open(unknown, 0, -1);
    ASSERT_FALSE(none);
    EXPECT_THAT(none.error().needs, HasSubstr("that have this event"));
    const auto gone = perf_open(faults(), 0x3fffffff, -1);
    ASSERT_FALSE(gone);
    EXPECT_THAT(gone.error().found, HasSubstr("no such thread"));
    const auto odd = PerfRing::map(perf_open(faults(), 0, -1).value(), 3);
    ASSERT_FALSE(odd);
    EXPECT_EQ(odd.error().needs, "a power of two");
}

TEST(PerfOpen, TheLimitOfFilesIsNamed) {
    rlimit before{};
    getrlimit(RLIMIT_NOFILE, &before);
    const int next = dup(0);
    close(next);
    const rlimit none{static_cast<rlim_t>(next), before.rlim_max};
    setrlimit(RLIMIT_NOFILE, &none);
    const auto full = perf_open(faults(), 0, -1, 12);
    setrlimit(RLIMIT_NOFILE, &before);
    ASSERT_FALSE(full);
    EXPECT_EQ(full.error().needs, "12 more open files");
    EXPECT_THAT(full.error().found, HasSubstr(fmt::format("RLIMIT_NOFILE = {}", next)));
    EXPECT_THAT(full.error().set, HasSubstr("ulimit -n"));
    EXPECT_THAT(full.error().set, HasSubstr("/etc/security/limits.d"));
}

bool may_see_the_kernel() {
    const auto privileges = read_privileges();
    return privileges.cap_perfmon || privileges.cap_sys_admin || privileges.perf_event_paranoid < 2;
}

TEST(PerfOpen, WhatParanoidForbids) {
    auto attr = faults();
    attr.exclude_kernel = 0;
    const auto event = perf_open(attr, 0, -1);
    ASSERT_EQ(event.has_value(), may_see_the_kernel());
    if (event) return;
    EXPECT_THAT(event.error().needs, HasSubstr("kernel.perf_event_paranoid at 1 or less"));
    EXPECT_EQ(event.error().found,
              fmt::format("kernel.perf_event_paranoid = {}", read_privileges().perf_event_paranoid));
    EXPECT_THAT(event.error().set, HasSubstr("sysctl kernel.perf_event_paranoid=1"));
    EXPECT_THAT(event.error().set, HasSubstr("/etc/sysctl.d"));
    const auto machine = perf_open(faults(), -1, 0);
    ASSERT_FALSE(machine);
    EXPECT_THAT(machine.error().needs, HasSubstr("at 0 or less"));
}

TEST(PerfRing, TheLimitOfLockedMemoryIsNamedAndGivenWayTo) {
    constexpr std::size_t kTooMany = 1 << 14;
    rlimit before{};
    getrlimit(RLIMIT_MEMLOCK, &before);
    const rlimit none{0, before.rlim_max};
    setrlimit(RLIMIT_MEMLOCK, &none);
    const auto event = perf_open(faults(), 0, -1).value();
    const auto ring = PerfRing::map(event, kTooMany);
    auto events = TaskEvents::open(getpid(), {faults()}, [](int) { return kTooMany; });
    setrlimit(RLIMIT_MEMLOCK, &before);
    ASSERT_TRUE(events) << "smaller rings are better than none";
    EXPECT_EQ(events->rings().size(), read_topology().online.size()) << "one for every CPU";
    const auto privileges = read_privileges();
    if (privileges.root || privileges.perf_event_paranoid < 0) {
        EXPECT_TRUE(ring) << "root may lock what it likes";
        return;
    }
    ASSERT_FALSE(ring);
    EXPECT_THAT(ring.error().needs, HasSubstr(fmt::format("{} KiB", (kTooMany + 1) * kPage / 1024)));
    EXPECT_THAT(ring.error().found, HasSubstr(fmt::format("perf_event_mlock_kb = {}", privileges.perf_event_mlock_kb)));
    EXPECT_THAT(ring.error().set, HasSubstr("sysctl"));
}

TEST(Counting, WhatOpensIsMadeToCount) {
    const auto counting = probe_counting();
    const bool kernel = may_see_the_kernel();
    EXPECT_TRUE(counting.page_faults) << counting.page_faults_why;
    EXPECT_EQ(counting.context_switches, kernel) << counting.context_switches_why;
    EXPECT_EQ(counting.context_switches_why.empty(), kernel);
    if (!kernel) {
        EXPECT_THAT(counting.context_switches_why, HasSubstr("opens but counts 0 of"));
    }
}

TEST(TaskEvents, CountsThreadsThatAreThereAndThoseToCome) {
    constexpr std::size_t kEach = 300;
    int release[2], ready[2];
    ASSERT_EQ(pipe(release), 0);
    ASSERT_EQ(pipe(ready), 0);
    FreshPages pages(3 * kEach);
    const pid_t pid = fork();
    if (pid == 0) {
        const auto wait = [&] {
            char byte = 0;
            if (read(release[0], &byte, 1) != 1) _exit(1);
        };
        pthread_t thread;
        static FreshPages* const shared = &pages;
        static int* const from = release;
        const auto body = [](void*) -> void* {
            char byte = 0;
            if (read(from[0], &byte, 1) == 1) shared->touch(0, kEach);
            return nullptr;
        };
        pthread_create(&thread, nullptr, body, nullptr);
        if (write(ready[1], "r", 1) != 1) _exit(1);
        wait();
        pages.touch(kEach, 2 * kEach);
        // A fork beside it would write-protect a page between its fault and its store: a second fault.
        pthread_join(thread, nullptr);
        const pid_t grandchild = fork();
        if (grandchild == 0) {
            pages.touch(2 * kEach, 3 * kEach);
            _exit(0);
        }
        waitpid(grandchild, nullptr, 0);
        _exit(0);
    }
    char byte = 0;
    ASSERT_EQ(read(ready[0], &byte, 1), 1);
    ASSERT_EQ(threads_of(pid).size(), 2U);
    auto attr = faults();
    attr.sample_type |= PERF_SAMPLE_IDENTIFIER;
    auto minor = attr;
    minor.config = PERF_COUNT_SW_PAGE_FAULTS_MIN;
    auto events = TaskEvents::open(pid, {attr, minor}, [](int) { return std::size_t{64}; }).value();
    ASSERT_EQ(write(release[1], "gg", 2), 2);
    int status = -1;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0);
    std::vector<std::set<std::uint64_t>> seen(2);
    for (auto& ring : events.rings()) {
        ring.ring.drain([&](const perf_event_header& header) {
            if (header.type != PERF_RECORD_SAMPLE) return;
            RecordReader fields(header);
            const auto index = events.index_of(fields.take<std::uint64_t>());
            fields.take<std::uint64_t>();
            const auto address = fields.take<std::uint64_t>();
            ASSERT_TRUE(index.has_value());
            if (!pages.has(address)) return;
            EXPECT_TRUE(seen[*index].insert(address).second) << "twice";
        });
    }
    EXPECT_EQ(seen[0].size(), 3 * kEach);
    EXPECT_EQ(seen[1], seen[0]) << "both events write to the same rings and are told apart";
    const auto counts = events.counts().value();
    ASSERT_EQ(counts.size(), 2U);
    EXPECT_GE(counts[0], 3 * kEach);
    EXPECT_GE(counts[1], 3 * kEach);
    EXPECT_EQ(events.lost(), 0U);
    for (const int fd : {release[0], release[1], ready[0], ready[1]}) close(fd);
}

TEST(TaskEvents, OfNobodyIsAnError) {
    const auto none = TaskEvents::open(0x3fffffff, {faults()}, [](int) { return std::size_t{1}; });
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().needs, "a process that is alive");
}

TEST(AsNobody, TheSameTests) {
    if (geteuid() != 0) GTEST_SKIP() << "only root can become somebody else; the others have run without privilege";
    if (read_privileges().perf_event_paranoid > 2) {
        const auto result = tests::run_as_nobody("PerfOpen.WhatParanoidForbids");
        EXPECT_EQ(result.status, 0) << result.output;
        return;
    }
    const auto result = tests::run_as_nobody("-AsNobody.*");
    EXPECT_EQ(result.status, 0) << result.output;
    EXPECT_THAT(result.output, HasSubstr("[  PASSED  ] 10 tests."));
}

}  // namespace
}  // namespace cloister::system
