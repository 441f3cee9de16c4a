#include "breach/mappings.hpp"

#include <algorithm>
#include <ctime>

#include <sys/mman.h>

#include "system/perf_record.hpp"

namespace cloister::breach {
namespace {

constexpr std::size_t kRingPages = 16;

std::uint64_t now_ns() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

// Where perf has a name of its own ("//anon", "//enomem"), /proc/PID/maps has none.
std::string path_of(std::string_view name) { return name.starts_with("//") ? std::string() : std::string(name); }

}  // namespace

Result<Mappings> Mappings::follow(pid_t pid, unwind::AddressSpaces& spaces) {
    perf_event_attr attr{};
    attr.type = PERF_TYPE_SOFTWARE;
    attr.config = PERF_COUNT_SW_DUMMY;
    attr.exclude_kernel = attr.exclude_hv = 1;
    attr.mmap = attr.mmap2 = attr.comm = attr.comm_exec = attr.task = 1;
    attr.sample_type = PERF_SAMPLE_TIME;
    attr.sample_id_all = 1;
    attr.use_clockid = 1;
    attr.clockid = CLOCK_MONOTONIC;
    auto events = system::TaskEvents::open(pid, {attr}, [](int) { return kRingPages; });
    if (!events) return fail(events.error());
    // After the events, so that nothing is mapped between the two; what comes twice does no harm.
    spaces.snapshot(static_cast<std::uint32_t>(pid));
    return Mappings(std::move(*events), spaces);
}

void Mappings::drain() {
    // A ring that is read early lacks what the others, read later, already show. Only what happened before all of them
    // were read is complete enough to be put in order; the rest waits for the next time.
    const auto complete = now_ns();
    for (auto& ring : events_.rings()) {
        ring.ring.drain([this](const perf_event_header& record) { take(record); });
    }
    std::stable_sort(changes_.begin(), changes_.end(),
                     [](const Change& a, const Change& b) { return a.time < b.time; });
    const auto end =
        std::find_if(changes_.begin(), changes_.end(), [&](const Change& change) { return change.time > complete; });
    for (auto change = changes_.begin(); change != end; ++change) apply(*change);
    changes_.erase(changes_.begin(), end);
}

void Mappings::take(const perf_event_header& record) {
    std::uint64_t time = 0;
    if (record.size < sizeof record + sizeof time) return;
    std::memcpy(&time, reinterpret_cast<const char*>(&record) + record.size - sizeof time, sizeof time);
    system::RecordReader fields(record, sizeof time);
    Change change{Change::Kind::map, time, fields.take<std::uint32_t>(), 0, {}};
    if (record.type == PERF_RECORD_MMAP2) {
        fields.take<std::uint32_t>();  // tid
        change.map.start = fields.take<std::uint64_t>();
        change.map.end = change.map.start + fields.take<std::uint64_t>();
        change.map.offset = fields.take<std::uint64_t>();
        fields.skip(24);  // device, inode and its generation, or a build id
        const auto protection = fields.take<std::uint32_t>();
        fields.take<std::uint32_t>();  // flags
        if (!fields.ok() || (protection & PROT_EXEC) == 0) return;
        change.map.path = path_of(fields.text());
    } else if (record.type == PERF_RECORD_COMM) {
        if ((record.misc & PERF_RECORD_MISC_COMM_EXEC) == 0) return;
        change.kind = Change::Kind::exec;
    } else if (record.type == PERF_RECORD_FORK) {
        change.kind = Change::Kind::fork;
        change.child = change.tgid;
        change.tgid = fields.take<std::uint32_t>();
        if (change.child == change.tgid) return;  // a thread
    } else {
        return;
    }
    if (fields.ok()) changes_.push_back(std::move(change));
}

void Mappings::apply(Change& change) {
    switch (change.kind) {
        case Change::Kind::map:
            spaces_->map(change.tgid, std::move(change.map));
            break;
        case Change::Kind::fork:
            spaces_->fork(change.tgid, change.child, change.time);
            break;
        case Change::Kind::exec:
            spaces_->exec(change.tgid, change.time);
            break;
    }
}

}  // namespace cloister::breach
