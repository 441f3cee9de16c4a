// The same perf events on every thread of a process and on every CPU, inherited by all that it starts from then on,
// with one ring for each CPU.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "system/perf.hpp"

namespace cloister::system {

class TaskEvents {
public:
    struct Ring {
        int cpu;
        PerfRing ring;
    };

    // One event of each of `attrs` for each thread that `pid` has now and each CPU that is online now, all of a CPU
    // writing to its one ring (an inherited event that is not bound to a CPU cannot have one). `pages(cpu)`: data pages
    // wanted for it, a power of two; all are halved, down to kLeastPages, where the limit on locked memory demands it.
    // Rings never wake anybody but by an irq_work each time a whole ring has been filled. A thread that starts another
    // while this opens may have it missed, so attach before the program starts where that matters. Errors: those of
    // perf_open and PerfRing::map.
    [[nodiscard]] static Result<TaskEvents> open(pid_t pid, const std::vector<perf_event_attr>& attrs,
                                                 const std::function<std::size_t(int cpu)>& pages);

    [[nodiscard]] std::vector<Ring>& rings() { return rings_; }
    // Which of `attrs` the event with this PERF_SAMPLE_ID(ENTIFIER) is. They must differ in type or config: two alike
    // that fire together get the id of the first in both samples (seen on 6.18).
    [[nodiscard]] std::optional<std::size_t> index_of(std::uint64_t id) const;
    // What each of `attrs` has counted so far in all threads, gone ones included: exact, whatever the rings lost.
    // Interrupts the CPUs that followed threads run on, so for the end of a watch only.
    [[nodiscard]] Result<std::vector<std::uint64_t>> counts() const;
    // Records that found no room, as far as the rings have told: one that is full at the end tells nothing.
    [[nodiscard]] std::uint64_t lost() const;

    static constexpr std::size_t kLeastPages = 2;

private:
    struct Event {
        std::size_t attr;
        int cpu;
        Fd fd;
    };
    struct Owner {  // of a CPU's ring
        int cpu;
        std::size_t event;
    };
    Result<void> map_rings(const std::vector<Owner>& owners, const std::function<std::size_t(int cpu)>& pages);

    std::vector<Event> events_;
    std::vector<Ring> rings_;
    std::map<std::uint64_t, std::size_t> index_;
};

}  // namespace cloister::system
