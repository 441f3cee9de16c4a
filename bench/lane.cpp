// lane_bench [ROUNDS]: what an event costs, variants in turn within each round, as one JSON object.
//
// bare: rdtsc and the stores of the same bytes into a plain buffer. pair: the 16-byte payload from registers. staged: a
// string of 12 characters and two integers, staged on the stack. The loops are alike, and pinned to one CPU.
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "cloister/core/lane_reader.hpp"
#include "cloister/core/lane_writer.hpp"
#include "common.hpp"
#include "recorder/recorder.hpp"

using namespace cloister;
using bench::now_ns;
using bench::pin;

namespace {

constexpr int kEvents = 1'000'000;

double per_event(const std::function<void()>& run) {
    const double begin = now_ns();
    run();
    return (now_ns() - begin) / kEvents;
}

void bare(std::byte* buffer, std::size_t size) {
    std::byte* at = buffer;
    for (std::uint64_t n = 0; n < kEvents; ++n) {
        const std::uint64_t time = __builtin_ia32_rdtsc();
        const auto header = static_cast<std::uint32_t>(time << 5 | 5);
        const std::uint64_t other = ~n;
        std::memcpy(at, &header, 4);
        std::memcpy(at + 4, &n, 8);
        std::memcpy(at + 12, &other, 8);
        at += 20;
        if (at > buffer + size - 64) at = buffer;
        asm volatile("" ::: "memory");
    }
}

void clock_only() {
    for (int n = 0; n < kEvents; ++n) asm volatile("" ::"r"(__builtin_ia32_rdtsc()));
}

void pair(const core::View& view) {
    for (std::uint64_t n = 0; n < kEvents; ++n) (void)core::write_pair(view, 5, n, ~n);
}

void staged(const core::View& view, const char* name) {
    for (std::uint64_t n = 0; n < kEvents; ++n) {
        alignas(8) std::array<char, 32> payload;
        const std::uint64_t other = ~n;
        std::memcpy(payload.data(), &n, 8);
        std::memcpy(payload.data() + 8, &other, 8);
        const std::size_t length = strnlen(name, 12);
        std::memcpy(payload.data() + 16, name, length);
        payload[16 + length] = 0;
        asm volatile("" ::"r"(payload.data()) : "memory");
        (void)core::write_staged(view, 6, payload.data(), static_cast<core::u32>(17 + length));
    }
}

}  // namespace

int main(int argc, char** argv) {
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 15;
    auto made = recorder::Recorder::create(
        {.path = {}, .channels = {{"bench", {.slots = 8, .size = 131072, .mode = core::Mode::overwrite}}}});
    if (!made) return 1;
    recorder::Recorder& recorder = **made;
    const core::View& view = recorder.view(0);
    const auto cpus = bench::allowed_cpus();
    const int last = cpus.back(), other = cpus.front();
    std::vector<std::byte> buffer(1 << 20);
    const char* volatile name = "XETRA:123456";

    std::atomic<bool> reading = false, stop = false;
    std::thread reader([&] {
        pin(other);
        std::vector<core::u8> copy(131072);
        const auto& channel = recorder.segment().channels()[0];
        while (!stop) {
            if (reading)
                for (core::u32 i = 0; i < channel.shape.slots; ++i) {
                    const core::u8* lane = recorder.segment().lane(0, static_cast<std::uint32_t>(last));
                    core::SubBuffer at;
                    if (!core::look(lane, channel.shape, i, at)) continue;
                    std::memcpy(copy.data(), at.data, at.content);
                    (void)core::still(lane, channel.shape, at);
                }
            timespec pause{0, reading ? 200'000 : 5'000'000};
            nanosleep(&pause, nullptr);
        }
    });
    pin(last);
    std::vector<std::pair<const char*, std::function<double()>>> variants = {
        {"clock", [&] { return per_event(clock_only); }},
        {"bare", [&] { return per_event([&] { bare(buffer.data(), buffer.size()); }); }},
        {"pair", [&] { return per_event([&] { pair(view); }); }},
        {"staged", [&] { return per_event([&] { staged(view, name); }); }},
        {"pair_while_read",
         [&] {
             reading = true;
             const double cost = per_event([&] { pair(view); });
             reading = false;
             return cost;
         }},
        {"pair_on_two_cpus",
         [&] {
             if (cpus.size() < 2) return 0.0;
             std::thread beside([&] {
                 pin(other);
                 pair(view);
             });
             const double cost = per_event([&] { pair(view); });
             beside.join();
             return cost;
         }},
    };
    for (auto& [what, measure] : variants) (void)measure();  // warm
    std::printf("{");
    std::vector<std::vector<double>> costs(variants.size());
    for (int round = 0; round < rounds; ++round)
        for (std::size_t i = 0; i < variants.size(); ++i) {
            const std::size_t turn = (i + static_cast<std::size_t>(round)) % variants.size();
            costs[turn].push_back(variants[turn].second());
        }
    stop = true;
    reader.join();
    for (std::size_t i = 0; i < variants.size(); ++i) {
        std::fputs(i ? ", " : "", stdout);
        bench::print_json(variants[i].first, costs[i]);
    }
    std::printf("}\n");
}
