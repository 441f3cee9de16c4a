// Threads without rseq beside threads with it, from the write to the trace; and what else happens to a process that
// records: forks, execs, threads that end, an allocator that thinks rseq is its own.
#include "recorder/spill.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <thread>

#include "../core/rseq.hpp"
#include "../scratch.hpp"
#include "found.hpp"

namespace cloister::recorder::test {
namespace {

using core::Mode;
using core::Wrote;
using core::test::is_registered;
using core::test::rseq_area;
using core::test::unregister;

constexpr core::Shape kOver{.slots = 8, .size = 16384, .mode = Mode::overwrite};
constexpr core::Shape kDisc{.slots = 8, .size = 16384, .mode = Mode::discard};

std::vector<std::uint64_t> from_to(std::uint64_t first, std::uint64_t last) {
    std::vector<std::uint64_t> out(last - first + 1);
    std::iota(out.begin(), out.end(), first);
    return out;
}

Wrote write(Recorder& recorder, std::uint64_t source, std::uint64_t n) {
    return core::write_pair(recorder.view(0), kEvent, source, n);
}

Drain drain_of(Recorder& recorder, const std::string& directory) {
    auto segment =
        Segment::open(fmt::format("/proc/self/fd/{}", recorder.segment().fd().get()), Segment::Access::drain);
    auto drain = Drain::begin(std::move(*segment), directory);
    return std::move(*drain);
}

// Runs in a thread of its own, that is not registered.
template <class Body>
void without_rseq(const Body& body) {
    std::thread([&] {
        ASSERT_TRUE(unregister());
        body();
    }).join();
}

template <class Body>
int in_child(const Body& body) {
    const pid_t pid = fork();
    if (pid == 0) _exit(body());
    int status = -1;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Spilling, ASnapshotHasTheNewestOfBothKinds) {
    const tests::Scratch folder;
    const auto recorder = make_recorder(kOver);
    for (std::uint64_t n = 1; n <= 20'000; ++n) ASSERT_EQ(write(*recorder, 1, n), Wrote::done);
    without_rseq([&] {
        for (std::uint64_t n = 1; n <= 20'000; ++n) ASSERT_EQ(write(*recorder, 2, n), Wrote::done);
    });
    const auto done = snapshot(recorder->segment(), folder / "trace");
    ASSERT_TRUE(done) << done.error().text();
    const Found found = read_found(folder / "trace");
    const auto spilt = found.spilt.at(2);
    EXPECT_EQ(spilt, from_to(20'001 - spilt.size(), 20'000));
    EXPECT_GT(spilt.size(), 6U * 16384 / core::kSpillCell);
    EXPECT_EQ(found.lanes.at(1).back(), 20'000U);
    EXPECT_FALSE(found.spilt.contains(1));
    EXPECT_FALSE(found.lanes.contains(2));
    EXPECT_EQ(found.lost, 0U);
}

TEST(Spilling, EventsOfAllSizesAndIds) {
    const tests::Scratch folder;
    const auto recorder = make_recorder(kOver);
    ctf::EventClass text{.name = "test:text", .id = 40, .stream_id = 0, .fields = {}};
    text.fields = {ctf::Field::of_string("text")};
    ASSERT_TRUE(recorder->declare(0, 40, ctf::event_text(text)));
    const std::uint32_t largest = recorder->largest(0);
    without_rseq([&] {
        for (const std::uint32_t size : {1U, 2U, 31U, 32U, 33U, 87U, 88U, 89U, 1000U, largest}) {
            std::string payload(size, static_cast<char>('a' + size % 26));
            payload.back() = 0;
            ASSERT_EQ(recorder->write(0, 40, payload.data(), size), Wrote::done);
        }
    });
    ASSERT_TRUE(snapshot(recorder->segment(), folder / "trace"));
    FILE* pipe = popen(fmt::format("babeltrace2 {} 2>&1", folder / "trace").c_str(), "r");
    std::vector<std::size_t> sizes;
    char* line = nullptr;
    for (std::size_t room = 0; getline(&line, &room, pipe) > 0;) {
        const std::string_view all = line;
        ASSERT_NE(all.find("cpu_id = 4294967295"), all.npos) << all;
        const auto begin = all.find("text = \"") + 8;
        const auto content = all.substr(begin, all.find('"', begin) - begin);
        EXPECT_EQ(content.find_first_not_of(content.empty() ? 'x' : content.front()), content.npos);
        sizes.push_back(content.size() + 1);
    }
    std::free(line);
    EXPECT_EQ(pclose(pipe), 0);
    EXPECT_THAT(sizes, testing::ElementsAre(1, 2, 31, 32, 33, 87, 88, 89, 1000, largest));
}

TEST(Spilling, ADrainHasAllAndSaysWhereWhatWasLost) {
    const tests::Scratch folder;
    const auto recorder = make_recorder(kDisc);
    auto drain = drain_of(*recorder, folder / "trace");
    std::vector<std::uint64_t> written;
    std::uint64_t dropped = 0;
    without_rseq([&] {
        for (std::uint64_t n = 1; n <= 60'000; ++n) {
            const Wrote wrote = write(*recorder, 2, n);
            if (wrote == Wrote::done) written.push_back(n);
            dropped += wrote == Wrote::dropped;
            // Now and then it does not keep up.
            if (n % 200 == 0 && n / 10'000 != 2) {
                ASSERT_TRUE(drain.run());
            }
        }
    });
    const auto done = drain.finish();
    ASSERT_TRUE(done) << done.error().text();
    EXPECT_GT(dropped, 0U);
    EXPECT_EQ(written.size() + dropped, 60'000U);
    const Found found = read_found(folder / "trace");
    EXPECT_EQ(found.spilt.at(2), written);
    EXPECT_EQ(found.lost, dropped);
    // What was lost lies where it is missing, not before and not behind it.
    const auto trace = ctf::Trace::open(folder / "trace");
    ASSERT_TRUE(trace);
    ASSERT_EQ(trace->streams().size(), 1U);
    ctf::Cursor cursor(trace->streams()[0]);
    std::vector<ctf::Value> values;
    std::uint64_t last = 0, missing = 0;
    for (ctf::Cursor::Step step{}; (step = cursor.next()) != ctf::Cursor::Step::end;) {
        if (step == ctf::Cursor::Step::loss) {
            missing += cursor.loss().events;
            continue;
        }
        ASSERT_TRUE(cursor.fields(values));
        EXPECT_EQ(values.back().bits, last + missing + 1);
        last = values.back().bits;
        missing = 0;
    }
}

TEST(Spilling, ADrainOfAnOverwriteChannelKeepsUp) {
    const tests::Scratch folder;
    const auto recorder = make_recorder(kOver);
    auto drain = drain_of(*recorder, folder / "trace");
    without_rseq([&] {
        for (std::uint64_t n = 1; n <= 20'000; ++n) {
            ASSERT_EQ(write(*recorder, 2, n), Wrote::done);
            if (n % 500 == 0) {
                ASSERT_TRUE(drain.run());
            }
        }
    });
    ASSERT_TRUE(drain.finish());
    EXPECT_EQ(read_found(folder / "trace").spilt.at(2), from_to(1, 20'000));
}

// A writer that reserved and never came back: a hole, which is one event lost, at its place.
TEST(Spilling, AHoleIsShownAsOneLostEvent) {
    const tests::Scratch folder;
    const auto recorder = make_recorder(kDisc);
    auto drain = drain_of(*recorder, folder / "drained");
    core::u8* lane = recorder->segment().spill(0);
    without_rseq([&] {
        for (std::uint64_t n = 1; n <= 1000; ++n) {
            ASSERT_EQ(write(*recorder, 2, n), Wrote::done);
            if (n != 100) continue;
            auto* word =
                reinterpret_cast<core::u64*>(lane + core::SpillShape::state(core::active_of(lane).descriptor()));
            *word = core::SpillState{*word}.reserved(1).word;
        }
    });
    ASSERT_TRUE(snapshot(recorder->segment(), folder / "copied"));
    ASSERT_TRUE(drain.run());
    ASSERT_TRUE(drain.finish());
    for (const char* name : {"copied", "drained"}) {
        const Found found = read_found(folder / name);
        EXPECT_EQ(found.spilt.at(2), from_to(1, 1000)) << name;
        EXPECT_EQ(found.lost, 1U) << name;
    }
}

TEST(Spilling, SnapshotsWhileThreadsOfBothKindsWrite) {
    const tests::Scratch folder;
    const auto recorder = make_recorder({.slots = 4, .size = 4096, .mode = Mode::overwrite});
    std::atomic<bool> stop = false;
    std::vector<std::thread> writers;
    for (std::uint64_t t = 0; t < 4; ++t)
        writers.emplace_back([&, t] {
            EXPECT_TRUE(t < 2 || unregister());
            for (std::uint64_t n = 1; !stop; ++n) {
                const Wrote wrote = write(*recorder, t, n);
                EXPECT_TRUE(wrote == Wrote::done || (t >= 2 && wrote == Wrote::dropped));
            }
        });
    std::size_t spilt = 0;
    for (int i = 0; i < 12; ++i) {
        const auto name = fmt::format("trace{}", i);
        ASSERT_TRUE(snapshot(recorder->segment(), folder / name));
        const Found found = read_found(folder / name);
        for (const auto& [source, numbers] : found.spilt) {
            EXPECT_GE(source, 2U);
            EXPECT_TRUE(std::ranges::is_sorted(numbers)) << "one thread's events stay in order";
            EXPECT_EQ(std::ranges::adjacent_find(numbers), numbers.end());
            spilt += numbers.size();
        }
        for (const auto& [source, numbers] : found.lanes) EXPECT_LT(source, 2U);
    }
    stop = true;
    for (auto& writer : writers) writer.join();
    EXPECT_GT(spilt, 0U);
}

TEST(Spilling, ScribblesAreReadWithoutHarm) {
    const tests::Scratch folder;
    for (const core::Shape& shape : {kOver, kDisc}) {
        const auto recorder = make_recorder(shape);
        without_rseq([&] {
            for (std::uint64_t n = 1; n <= 1000; ++n) (void)write(*recorder, 2, n);
        });
        core::u8* lane = recorder->segment().spill(0);
        const core::SpillShape spill = recorder->segment().spill_shape(0);
        const std::vector<core::u8> before(lane, lane + spill.bytes());
        std::uint64_t seed = 1;
        for (int round = 0; round < 25; ++round) {
            for (int i = 0; i < 6; ++i) {
                seed = seed * 6364136223846793005U + 1442695040888963407U;
                const std::uint64_t word = seed >> (round % 4 * 16);
                std::memcpy(lane + (seed >> 33) % (core::SpillShape::state(shape.slots) / 8) * 8, &word, 8);
                std::memcpy(lane + spill.buffer(0) + (seed >> 20) % (spill.size / 8) * 8, &word, 8);
            }
            std::filesystem::remove_all(folder / "copied");
            EXPECT_TRUE(snapshot(recorder->segment(), folder / "copied"));
            std::filesystem::remove_all(folder / "drained");
            Drain drain = drain_of(*recorder, folder / "drained");
            EXPECT_TRUE(drain.run());
            EXPECT_TRUE(drain.finish());
            std::copy(before.begin(), before.end(), lane);
        }
    }
}

TEST(Processes, AChildOfForkIsRefusedUntilItHasARecorderOfItsOwn) {
    const tests::Scratch folder;
    const auto recorder = make_recorder(kOver);
    ASSERT_EQ(write(*recorder, 1, 1), Wrote::done);
    EXPECT_EQ(in_child([&] {
                  if (write(*recorder, 1, 2) != Wrote::no_lane) return 1;
                  bool spilt_refused = false;
                  without_rseq([&] { spilt_refused = write(*recorder, 2, 2) == Wrote::no_lane; });
                  if (!spilt_refused) return 2;
                  const auto own = make_recorder(kOver);
                  if (write(*own, 1, 3) != Wrote::done || write(*recorder, 1, 4) != Wrote::no_lane) return 3;
                  without_rseq([&] { EXPECT_EQ(write(*own, 2, 3), Wrote::done); });
                  if (!snapshot(own->segment(), folder / "child")) return 4;
                  return testing::Test::HasFailure() ? 5 : 0;
              }),
              0);
    const Found found = read_found(folder / "child");
    EXPECT_EQ(found.lanes.at(1), from_to(3, 3));
    EXPECT_EQ(found.spilt.at(2), from_to(3, 3));
    ASSERT_TRUE(snapshot(recorder->segment(), folder / "parent"));
    EXPECT_EQ(read_found(folder / "parent").of(1), from_to(1, 1));
}

TEST(Processes, WhatWasRecordedBeforeAnExecIsInTheFile) {
    const tests::Scratch folder;
    EXPECT_EQ(in_child([&] {
                  const auto recorder = make_recorder(kOver, folder / "segment");
                  for (std::uint64_t n = 1; n <= 100; ++n) (void)write(*recorder, 1, n);
                  without_rseq([&] {
                      for (std::uint64_t n = 1; n <= 100; ++n) (void)write(*recorder, 2, n);
                      execl("/bin/true", "true", nullptr);
                  });
                  return 1;
              }),
              0);
    const auto segment = Segment::open(folder / "segment", Segment::Access::read);
    ASSERT_TRUE(segment) << segment.error().text();
    ASSERT_TRUE(snapshot(*segment, folder / "trace"));
    const Found found = read_found(folder / "trace");
    EXPECT_EQ(found.of(1), from_to(1, 100));
    EXPECT_EQ(found.spilt.at(2), from_to(1, 100));
}

TEST(Processes, ThreadsThatEndLeaveNothingBehind) {
    const tests::Scratch folder;
    const auto recorder = make_recorder({.slots = 8, .size = 1 << 18, .mode = Mode::discard});
    constexpr std::uint64_t kThreads = 200, kEach = 30;
    for (std::uint64_t t = 0; t < kThreads; t += 4) {
        std::array<std::thread, 4> four;
        for (std::uint64_t i = 0; i < four.size(); ++i)
            four[i] = std::thread([&, source = t + i] {
                EXPECT_TRUE(source % 2 == 0 || unregister());
                for (std::uint64_t n = 1; n <= kEach; ++n) EXPECT_EQ(write(*recorder, source, n), Wrote::done);
                pthread_exit(nullptr);
            });
        for (auto& thread : four) thread.join();
    }
    ASSERT_TRUE(snapshot(recorder->segment(), folder / "trace"));
    const Found found = read_found(folder / "trace");
    for (std::uint64_t t = 0; t < kThreads; ++t) {
        EXPECT_EQ(found.of(t), from_to(1, kEach));
        EXPECT_EQ(found.spilt.contains(t), t % 2 == 1);
    }
    EXPECT_EQ(found.lost, 0U);
}

// What an allocator with slabs for each CPU does: it has sequences of its own in the same rseq area, and keeps a
// pointer in cpu_id_start, which the kernel overwrites when the thread moves. True if its sequence ran to the end.
[[gnu::noinline]] bool allocate(std::uint64_t& slab) {
    asm goto(CLOISTER_RSEQ_BEGIN
             "movl $0xdeadbeef, %%fs:(%[rseq])\n"  // cpu_id_start
             "movq (%[slab]), %%rax\n"
             "addq $1, %%rax\n"
             "movq %%rax, (%[slab])\n" CLOISTER_RSEQ_END
             :
             : [rseq] "r"(cloister_rseq_offset), [slab] "r"(&slab)
             : "rax", "memory", "cc"
             : again);
    return true;
again:
    return false;
}

TEST(Processes, AnAllocatorThatTakesRseqForItsOwn) {
    const tests::Scratch folder;
    const auto recorder = make_recorder({.slots = 8, .size = 1 << 20, .mode = Mode::discard});
    constexpr std::uint64_t kEach = 50'000;
    std::atomic<std::uint64_t> allocated = 0;
    std::vector<std::thread> threads;
    for (std::uint64_t t = 0; t < 4; ++t)
        threads.emplace_back([&, t] {
            const int cpus = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
            std::uint64_t slab = 0;
            for (std::uint64_t n = 1; n <= kEach; ++n) {
                while (!allocate(slab)) continue;
                EXPECT_EQ(write(*recorder, t, n), Wrote::done);
                rseq_area()->cpu_id_start = 0x80000000U + static_cast<std::uint32_t>(n);
                if (n % 500 == 0) {  // to another CPU
                    cpu_set_t one;
                    CPU_ZERO(&one);
                    CPU_SET((n / 500 + t) % static_cast<std::uint64_t>(cpus), &one);
                    sched_setaffinity(0, sizeof one, &one);
                }
            }
            allocated += slab;
        });
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(allocated, 4 * kEach);
    ASSERT_TRUE(snapshot(recorder->segment(), folder / "trace"));
    const Found found = read_found(folder / "trace");
    for (std::uint64_t t = 0; t < 4; ++t) EXPECT_EQ(found.of(t), from_to(1, kEach));
    EXPECT_TRUE(found.spilt.empty()) << "cpu_id_start is nobody's business";
    EXPECT_EQ(found.lost, 0U);
}

}  // namespace
}  // namespace cloister::recorder::test
