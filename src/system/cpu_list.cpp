#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include <fmt/format.h>

#include "system/cpu.hpp"
#include "system/files.hpp"

namespace cloister::system {

void CpuSet::add(int cpu) {
    if (cpu < 0) return;
    const auto index = static_cast<std::size_t>(cpu);
    if (index >= bits_.size()) bits_.resize(index + 1);
    bits_[index] = true;
}

void CpuSet::remove(int cpu) {
    if (!has(cpu)) return;
    bits_[static_cast<std::size_t>(cpu)] = false;
    trim();
}

bool CpuSet::has(int cpu) const {
    return cpu >= 0 && static_cast<std::size_t>(cpu) < bits_.size() && bits_[static_cast<std::size_t>(cpu)];
}

bool CpuSet::empty() const { return bits_.empty(); }

std::size_t CpuSet::size() const { return static_cast<std::size_t>(std::count(bits_.begin(), bits_.end(), true)); }

std::vector<int> CpuSet::list() const {
    std::vector<int> out;
    for (std::size_t cpu = 0; cpu < bits_.size(); ++cpu) {
        if (bits_[cpu]) out.push_back(static_cast<int>(cpu));
    }
    return out;
}

std::string CpuSet::text() const {
    std::string out;
    const auto cpus = list();
    for (std::size_t i = 0; i < cpus.size();) {
        std::size_t last = i;
        while (last + 1 < cpus.size() && cpus[last + 1] == cpus[last] + 1) ++last;
        if (!out.empty()) out += ',';
        out += last == i ? fmt::format("{}", cpus[i]) : fmt::format("{}-{}", cpus[i], cpus[last]);
        i = last + 1;
    }
    return out;
}

// Equal sets have equal bits: the last one is always set.
void CpuSet::trim() {
    while (!bits_.empty() && !bits_.back()) bits_.pop_back();
}

namespace {

constexpr int kHighestCpu = 65535;

struct ListParser {
    std::string_view text;
    std::size_t at = 0;

    [[nodiscard]] Error error(std::string_view expected) const {
        const auto rest = text.substr(std::min(at, text.size()));
        return {.what = fmt::format("the CPU list \"{}\" does not parse", text),
                .needs = "CPU numbers and ranges as in taskset: 2-5,7 or 0-6:2",
                .found = rest.empty()
                             ? fmt::format("its end at character {}, where {} is expected", at + 1, expected)
                             : fmt::format("\"{}\" at character {}, where {} is expected", rest, at + 1, expected),
                .set = {}};
    }
    bool skip(char c) {
        if (at >= text.size() || text[at] != c) return false;
        ++at;
        return true;
    }
    Result<int> number(std::string_view expected, int least) {
        int value = 0;
        const char* first = text.data() + at;
        const char* last = text.data() + text.size();
        // from_chars takes a minus sign, a CPU list does not.
        if (first == last || *first < '0' || *first > '9') return fail(error(expected));
        const auto [end, code] = std::from_chars(first, last, value);
        if (code != std::errc() || value < least || value > kHighestCpu) return fail(error(expected));
        at += static_cast<std::size_t>(end - first);
        return value;
    }
    Result<void> element(CpuSet& out) {
        const auto first = number("a CPU number", 0);
        if (!first) return fail(first.error());
        int last = *first, used = 1, group = 1;
        if (skip('-')) {
            const auto end = number(fmt::format("a CPU number of at least {}", *first), *first);
            if (!end) return fail(end.error());
            last = *end;
            if (skip(':')) {
                const auto stride = number("a stride of at least 1", 1);
                if (!stride) return fail(stride.error());
                group = *stride;
                if (skip('/')) {
                    used = group;
                    const auto size = number(fmt::format("a group size of at least {}", used), used);
                    if (!size) return fail(size.error());
                    group = *size;
                }
            }
        }
        for (int cpu = *first; cpu <= last; ++cpu) {
            if ((cpu - *first) % group < used) out.add(cpu);
        }
        return {};
    }
};

std::string describe(pid_t tid) { return tid == 0 ? "the calling thread" : fmt::format("thread {}", tid); }

}  // namespace

Result<CpuSet> parse_cpu_list(std::string_view text) {
    ListParser parser{trim(text)};
    CpuSet out;
    do {
        if (auto done = parser.element(out); !done) return fail(done.error());
    } while (parser.skip(','));
    if (parser.at != parser.text.size()) return fail(parser.error("a comma or the end"));
    return out;
}

Result<void> set_affinity(pid_t tid, const CpuSet& cpus) {
    constexpr std::size_t kBits = 8 * sizeof(unsigned long);
    const auto wanted = cpus.list();
    std::vector<unsigned long> mask(wanted.empty() ? 1 : static_cast<std::size_t>(wanted.back()) / kBits + 1);
    for (const int cpu : wanted)
        mask[static_cast<std::size_t>(cpu) / kBits] |= 1UL << (static_cast<std::size_t>(cpu) % kBits);
    const std::size_t bytes = mask.size() * sizeof(mask[0]);
    if (sched_setaffinity(tid, bytes, reinterpret_cast<const cpu_set_t*>(mask.data())) == 0) return {};
    const int code = errno;
    Error error{.what = fmt::format("cannot move {} to CPU {}", describe(tid), cpus.text()),
                .needs = {},
                .found = std::strerror(code),
                .set = {}};
    if (code == EINVAL) {
        const auto topology = read_topology();
        error.needs = "at least one of these CPUs online and in the cgroup's cpuset";
        error.found = fmt::format("online: {}; in the cpuset: {}", topology.online.text(), topology.cpuset.text());
    } else if (code == EPERM) {
        error.needs = "a thread of the same user, or CAP_SYS_NICE";
        error.set = "run it as root (sudo)";
    } else if (code == ESRCH) {
        error.found = "there is no such thread (any more)";
    }
    return fail(std::move(error));
}

Result<CpuSet> get_affinity(pid_t tid) {
    constexpr std::size_t kBits = 8 * sizeof(unsigned long);
    // The kernel refuses a mask that is smaller than its own with EINVAL.
    for (std::size_t words = 16; words <= (kHighestCpu + 1) / kBits; words *= 2) {
        std::vector<unsigned long> mask(words);
        if (sched_getaffinity(tid, words * sizeof(mask[0]), reinterpret_cast<cpu_set_t*>(mask.data())) == 0) {
            CpuSet out;
            for (std::size_t cpu = 0; cpu < words * kBits; ++cpu) {
                if (mask[cpu / kBits] >> (cpu % kBits) & 1) out.add(static_cast<int>(cpu));
            }
            return out;
        }
        if (errno != EINVAL) break;
    }
    return fail({.what = fmt::format("cannot read the CPUs of {}", describe(tid)),
                 .needs = {},
                 .found = std::strerror(errno),
                 .set = {}});
}

}  // namespace cloister::system
