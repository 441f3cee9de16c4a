// snapshot_bench [ROUNDS]: a snapshot of a segment of 64 MiB while it is written to at full speed. One JSON object: how
// long a snapshot took and what it used of a CPU (ms); the longest that a writer took for one event (us) in a second
// with snapshots one after the other and in one without, in turn; and what a switch of sub-buffers costs (us).
//
// The writers are on all CPUs but the first, where the snapshots are taken: on a CPU that they shared, what a writer
// waits for would be the scheduler. Ends with status 1 if a snapshot is not one unbroken run of each lane.
#include <algorithm>
#include <atomic>
#include <filesystem>
#include <string>
#include <thread>

#include "../tests/scratch.hpp"
#include "cloister/core/lane_reader.hpp"
#include "common.hpp"
#include "ctf/metadata_text.hpp"
#include "ctf/trace.hpp"
#include "recorder/extract.hpp"
#include "recorder/recorder.hpp"

using namespace cloister;

namespace {

constexpr std::uint64_t kSegment = 64U << 20, kSubBuffer = 1U << 20;
constexpr std::uint64_t kBeat = 10'000;  // events between two looks at what is to be measured
constexpr double kRoundNs = 1e9;

[[noreturn]] void give_up(const std::string& what) {
    std::fprintf(stderr, "%s\n", what.c_str());
    std::exit(1);
}

// The longest that a writer waited for its event, in cycles.
struct alignas(64) Longest {
    std::atomic<std::uint64_t> any = 0, switching = 0;
    std::atomic<std::uint64_t> round = 0;  // which one `any` is of
};

std::atomic<bool> stop = false;
std::atomic<std::uint64_t> round_now = 0;

void write_on(const core::View& view, const core::u8* lane, Longest& longest) {
    std::uint64_t round = 0, any = 0, sub_buffer = 0, typical = UINT64_MAX;
    for (std::uint64_t n = 1; !stop.load(std::memory_order_relaxed); ++n) {
        const std::uint64_t before = __builtin_ia32_rdtsc();
        if (core::write_pair(view, 5, n, ~n) != core::Wrote::done) give_up("an event was refused");
        const std::uint64_t took = __builtin_ia32_rdtsc() - before;
        any = std::max(any, took);
        // The least of all switches: what one costs when nothing else comes in between.
        if (const auto number = core::active_of(lane).number(); number != sub_buffer) {
            sub_buffer = number;
            typical = std::min(typical, took);
            longest.switching.store(typical, std::memory_order_relaxed);
        }
        if (n % kBeat != 0) continue;
        longest.any.store(any, std::memory_order_relaxed);
        if (const auto now = round_now.load(std::memory_order_relaxed); now != round) {
            round = now;
            any = 0;
            longest.any.store(0, std::memory_order_relaxed);
            longest.round.store(round, std::memory_order_release);
        }
    }
}

// Each lane is one run of packets, and its events one run of numbers.
void check(const std::string& directory) {
    const auto trace = ctf::Trace::open(directory);
    if (!trace) give_up(trace.error().text());
    for (const auto& stream : trace->streams()) {
        ctf::Cursor cursor(stream);
        std::vector<ctf::Value> values;
        std::uint64_t last = 0;
        auto step = cursor.next();
        for (; step == ctf::Cursor::Step::event || step == ctf::Cursor::Step::loss; step = cursor.next()) {
            if (step == ctf::Cursor::Step::loss && last == 0) continue;  // overwritten before the run
            if (step == ctf::Cursor::Step::loss || !cursor.fields(values)) give_up("a hole in a snapshot");
            const std::uint64_t n = values[values.size() - 2].bits;
            if (last != 0 && n != last + 1) give_up("an event is missing in a snapshot");
            last = n;
        }
        if (step != ctf::Cursor::Step::end || last == 0) give_up("a snapshot cannot be read to its end");
    }
}

}  // namespace

int main(int argc, char** argv) {
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 5;
    const auto cpus = bench::allowed_cpus();
    const auto folder = tests::Scratch::in_memory();
    // The largest power of two of sub-buffers with which all lanes together take no more.
    core::u32 slots = 2;
    while ((2 * slots + 1) * kSubBuffer * static_cast<std::uint64_t>(cpus.back() + 1) <= kSegment + kSegment / 8)
        slots *= 2;
    auto made = recorder::Recorder::create(
        {.path = {}, .channels = {{"bench", {.slots = slots, .size = kSubBuffer, .mode = core::Mode::overwrite}}}});
    if (!made) give_up(made.error().text());
    recorder::Recorder& recorder = **made;
    ctf::EventClass event{.name = "bench:pair", .id = 5, .stream_id = 0, .fields = {}};
    event.fields = {ctf::Field::of_integer("n", {64, false, 10}), ctf::Field::of_integer("inverse", {64, false, 10})};
    if (auto ok = recorder.declare(0, event.id, ctf::event_text(event)); !ok) give_up(ok.error().text());

    bench::pin(cpus.front());
    if (cpus.size() < 2) give_up("needs a CPU for a writer beside the one for the snapshots");
    // The first CPU's lane is full, too.
    for (std::uint64_t n = 1; n <= (slots + 1) * kSubBuffer / 20; ++n)
        if (core::write_pair(recorder.view(0), 5, n, ~n) != core::Wrote::done) give_up("an event was refused");
    std::vector<Longest> longest(cpus.size() - 1);
    std::vector<std::thread> writers;
    for (std::size_t i = 1; i < cpus.size(); ++i) {
        if (!recorder.prepare(static_cast<std::uint32_t>(cpus[i]))) give_up("the lanes cannot be locked in memory");
        writers.emplace_back([&, i] {
            bench::pin(cpus[i]);
            write_on(recorder.view(0), recorder.segment().lane(0, static_cast<std::uint32_t>(cpus[i])), longest[i - 1]);
        });
    }
    const auto preamble = recorder::preamble_of(recorder.segment(), {});
    const double us = 1e6 / static_cast<double>(preamble.clock.frequency);
    std::vector<double> took, used, with, without, bytes;
    for (int round = 0; round < 2 * rounds; ++round) {
        ++round_now;
        const double end = bench::now_ns() + kRoundNs;
        for (const auto& one : longest)
            while (one.round != round_now) std::this_thread::yield();
        const bool snapshots = round % 2 == 0;
        for (int n = 0; bench::now_ns() < end; ++n) {
            timespec pause{0, 1'000'000};
            nanosleep(&pause, nullptr);
            if (!snapshots) continue;
            const double begin = bench::now_ns(), begin_cpu = bench::cpu_ns();
            const auto done = recorder::snapshot(recorder.segment(), folder / "trace");
            took.push_back((bench::now_ns() - begin) / 1e6);
            used.push_back((bench::cpu_ns() - begin_cpu) / 1e6);
            if (!done) give_up(done.error().text());
            bytes.push_back(static_cast<double>(done->bytes) / (1 << 20));
            if (n == 0) check(folder / "trace");
            std::filesystem::remove_all(folder / "trace");
        }
        std::uint64_t any = 0;
        for (const auto& one : longest) any = std::max(any, one.any.load());
        (snapshots ? with : without).push_back(static_cast<double>(any) * us);
    }
    stop = true;
    for (auto& writer : writers) writer.join();
    std::uint64_t switching = 0;
    for (const auto& one : longest) switching = std::max(switching, one.switching.load());
    std::printf("{\"segment_mib\": %.1f, \"switch_us\": %.3f, ",
                static_cast<double>(recorder.segment().header().bytes) / (1 << 20),
                static_cast<double>(switching) * us);
    bench::print_json("mib", bytes);
    std::fputs(", ", stdout);
    bench::print_json("took_ms", took);
    std::fputs(", ", stdout);
    bench::print_json("used_ms", used);
    std::fputs(", ", stdout);
    bench::print_json("longest_with_us", with);
    std::fputs(", ", stdout);
    bench::print_json("longest_without_us", without);
    std::puts("}");
}
