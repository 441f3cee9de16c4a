#include <cerrno>
#include <ctime>
#include <optional>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fmt/format.h>

#include "system/perf.hpp"

namespace cloister::system {
namespace {

constexpr std::size_t kPages = 4;

struct Provoked {
    std::uint64_t counted = 0, happened = 0;
};

std::uint64_t count_of(const Fd& event) {
    std::uint64_t value = 0;
    return read(event.get(), &value, sizeof value) == sizeof value ? value : 0;
}

// First with the kernel's own part, then, where that is forbidden, without.
Result<Fd> open_counter(std::uint64_t config) {
    perf_event_attr attr{};
    attr.type = PERF_TYPE_SOFTWARE;
    attr.config = config;
    attr.exclude_hv = 1;
    if (auto event = perf_open(attr, 0, -1)) return event;
    attr.exclude_kernel = 1;
    return perf_open(attr, 0, -1);
}

Provoked provoke_faults(const Fd& event) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    void* memory = mmap(nullptr, kPages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return {};
    madvise(memory, kPages * page, MADV_NOHUGEPAGE);  // fails where the kernel has no huge pages, which is as well
    const auto before = count_of(event);
    for (std::size_t i = 0; i < kPages; ++i) static_cast<volatile char*>(memory)[i * page] = 1;
    const auto counted = count_of(event) - before;
    munmap(memory, kPages * page);
    return {counted, kPages};
}

Provoked provoke_switch(const Fd& event) {
    rusage before{}, after{};
    const auto counted = count_of(event);
    getrusage(RUSAGE_THREAD, &before);
    timespec time{0, 1'000'000};
    while (nanosleep(&time, &time) != 0 && errno == EINTR) {
    }
    getrusage(RUSAGE_THREAD, &after);
    return {count_of(event) - counted, static_cast<std::uint64_t>(after.ru_nvcsw - before.ru_nvcsw)};
}

// Why an event does not count; empty if it does.
std::string why_not(std::uint64_t config, Provoked (*provoke)(const Fd&)) {
    const auto event = open_counter(config);
    if (!event) return fmt::format("{}: {}; {}", event.error().what, event.error().found, event.error().set);
    const auto seen = provoke(*event);
    if (seen.happened > 0 && seen.counted >= seen.happened) return {};
    return fmt::format(
        "the event opens but counts {} of {} that were provoked: without privilege the kernel leaves out what "
        "happens inside itself; lift it with: sudo sysctl kernel.perf_event_paranoid=1",
        seen.counted, seen.happened);
}

}  // namespace

Counting probe_counting() {
    Counting out;
    out.page_faults_why = why_not(PERF_COUNT_SW_PAGE_FAULTS, provoke_faults);
    out.context_switches_why = why_not(PERF_COUNT_SW_CONTEXT_SWITCHES, provoke_switch);
    out.page_faults = out.page_faults_why.empty();
    out.context_switches = out.context_switches_why.empty();
    return out;
}

}  // namespace cloister::system
