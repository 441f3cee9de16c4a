// pages_bench [ROUNDS]: what an event costs in a loop that thrashes the TLB, in a segment of 4 KiB pages and in one of
// 2 MiB pages, in turn within each round, as one JSON object of ns of CPU time an iteration. `huge` is left out where there are no
// huge pages, and stderr says so.
#include <sys/mman.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common.hpp"
#include "recorder/recorder.hpp"

using namespace cloister;

namespace {

constexpr std::uint64_t kIterations = 200'000;
constexpr std::size_t kThrashed = 512U << 20, kPage = 4096;
constexpr int kTouched = 8;  // pages of it between two events

// Other pages every time, each in a cache line of its own.
struct Thrasher {
    const volatile std::uint8_t* memory;
    std::uint64_t dice = 1, sum = 0;

    void touch() {
        for (int i = 0; i < kTouched; ++i) {
            dice = dice * 6364136223846793005U + 1442695040888963407U;
            sum += memory[(dice >> 33) % (kThrashed / kPage) * kPage + (dice >> 20) % 64 * 64];
        }
    }
};

std::unique_ptr<recorder::Recorder> make(bool huge) {
    std::vector<std::string> notices;
    // A lane is larger than what the TLB reaches over with small pages.
    auto made = recorder::Recorder::create(
        {.path = {},
         .channels = {{"pages", {.slots = 8, .size = 1 << 20, .mode = core::Mode::overwrite}}},
         .huge_pages = huge},
        &notices);
    if (!made) {
        std::fputs(made.error().text().c_str(), stderr);
        return nullptr;
    }
    for (const auto& notice : notices) std::fprintf(stderr, "%s\n", notice.c_str());
    return notices.empty() ? std::move(*made) : nullptr;
}

double per_iteration(Thrasher& thrasher, const core::View* view) {
    const double begin = bench::cpu_ns();
    for (std::uint64_t n = 0; n < kIterations; ++n) {
        thrasher.touch();
        if (view && core::write_pair(*view, 5, n, ~n) != core::Wrote::done) std::exit(1);
    }
    return (bench::cpu_ns() - begin) / kIterations;
}

}  // namespace

int main(int argc, char** argv) {
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 15;
    const int cpu = bench::allowed_cpus().back();
    bench::pin(cpu);
    void* memory = mmap(nullptr, kThrashed, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || madvise(memory, kThrashed, MADV_NOHUGEPAGE) != 0 ||
        madvise(memory, kThrashed, MADV_POPULATE_WRITE) != 0)
        return 1;
    Thrasher thrasher{static_cast<const std::uint8_t*>(memory)};
    const auto small = make(false), huge = make(true);
    if (!small) return 1;
    std::vector<std::pair<const char*, const core::View*>> variants = {{"without", nullptr},
                                                                       {"small", &small->view(0)}};
    if (huge) variants.emplace_back("huge", &huge->view(0));
    for (const auto& [name, view] : variants) (void)per_iteration(thrasher, view);  // warm: every page is there
    std::vector<std::vector<double>> costs(variants.size());
    for (int round = 0; round < rounds; ++round)
        for (std::size_t i = 0; i < variants.size(); ++i) {
            const std::size_t turn = (i + static_cast<std::size_t>(round)) % variants.size();
            costs[turn].push_back(per_iteration(thrasher, variants[turn].second));
        }
    for (std::size_t i = 0; i < variants.size(); ++i) {
        std::fputs(i ? ", " : "{", stdout);
        bench::print_json(variants[i].first, costs[i]);
    }
    std::puts("}");
    return thrasher.sum == 1;
}
