#include "system/task_events.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>

#include <sys/ioctl.h>
#include <unistd.h>

#include <fmt/format.h>

#include "system/cpu.hpp"
#include "system/files.hpp"
#include "system/proc.hpp"

namespace cloister::system {
namespace {

Error errno_error(std::string what) {
    return {.what = std::move(what), .needs = {}, .found = std::strerror(errno), .set = {}};
}

bool gone(pid_t pid, pid_t tid) {
    const auto threads = threads_of(pid);
    return std::find(threads.begin(), threads.end(), tid) == threads.end();
}

}  // namespace

Result<TaskEvents> TaskEvents::open(pid_t pid, const std::vector<perf_event_attr>& attrs,
                                    const std::function<std::size_t(int cpu)>& pages) {
    const auto cpus = parse_cpu_list(read_word("/sys/devices/system/cpu/online"));
    if (!cpus) return fail(cpus.error());
    const auto threads = threads_of(pid);
    if (threads.empty()) {
        return fail({.what = fmt::format("cannot follow process {}", pid),
                     .needs = "a process that is alive",
                     .found = "there is none with this number",
                     .set = {}});
    }
    const std::size_t files = cpus->size() * threads.size() * attrs.size();
    TaskEvents out;
    std::vector<Owner> owners;
    for (const int cpu : cpus->list()) {
        bool first = true;
        for (const pid_t tid : threads) {
            for (std::size_t i = 0; i < attrs.size(); ++i) {
                auto attr = attrs[i];
                attr.inherit = 1;
                attr.disabled = 1;  // until it has a ring: what it counted before would seem to be lost
                attr.watermark = 1;
                attr.wakeup_watermark =
                    std::numeric_limits<std::uint32_t>::max();  // the kernel cuts it to the ring's size
                auto event = perf_open(attr, tid, cpu, files - out.events_.size());
                if (!event && tid != pid && gone(pid, tid)) break;
                if (!event) return fail(event.error());
                std::uint64_t id = 0;
                if (ioctl(event->get(), PERF_EVENT_IOC_ID, &id) != 0) {
                    return fail(errno_error("cannot read a perf event's id"));
                }
                out.index_[id] = i;
                if (first) owners.push_back({cpu, out.events_.size()});
                first = false;
                out.events_.push_back({i, cpu, std::move(*event)});
            }
        }
    }
    if (auto mapped = out.map_rings(owners, pages); !mapped) return fail(mapped.error());
    for (const auto& owner : owners) {
        const int ring = out.events_[owner.event].fd.get();
        for (const auto& event : out.events_) {
            if (event.cpu != owner.cpu || event.fd.get() == ring) continue;
            if (ioctl(event.fd.get(), PERF_EVENT_IOC_SET_OUTPUT, ring) != 0) {
                return fail(errno_error("cannot let two perf events share a ring"));
            }
        }
    }
    for (const auto& event : out.events_) {
        if (ioctl(event.fd.get(), PERF_EVENT_IOC_ENABLE, 0) != 0)
            return fail(errno_error("cannot enable a perf event"));
    }
    return out;
}

// All rings shrink together: one that took what is left would leave nothing for the next CPU's.
Result<void> TaskEvents::map_rings(const std::vector<Owner>& owners, const std::function<std::size_t(int cpu)>& pages) {
    for (unsigned halvings = 0;; ++halvings) {
        rings_.clear();
        bool smallest = true;
        std::optional<Error> error;
        for (const auto& owner : owners) {
            const auto size = std::max(pages(owner.cpu) >> halvings, std::size_t{1});
            smallest = smallest && size <= kLeastPages;
            auto ring = PerfRing::map(events_[owner.event].fd, std::max(size, kLeastPages));
            if (ring)
                rings_.push_back({owner.cpu, std::move(*ring)});
            else if (!error)
                error = ring.error();
        }
        if (!error) return {};
        if (smallest) return fail(std::move(*error));
    }
}

std::optional<std::size_t> TaskEvents::index_of(std::uint64_t id) const {
    const auto found = index_.find(id);
    return found == index_.end() ? std::nullopt : std::optional(found->second);
}

Result<std::vector<std::uint64_t>> TaskEvents::counts() const {
    std::vector<std::uint64_t> out;
    for (const auto& event : events_) {
        std::uint64_t value = 0;
        if (read(event.fd.get(), &value, sizeof value) != sizeof value)
            return fail(errno_error("cannot read a perf counter"));
        out.resize(std::max(out.size(), event.attr + 1));
        out[event.attr] += value;
    }
    return out;
}

std::uint64_t TaskEvents::lost() const {
    std::uint64_t sum = 0;
    for (const auto& ring : rings_) sum += ring.ring.lost();
    return sum;
}

}  // namespace cloister::system
