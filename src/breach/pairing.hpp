// Who sent it: joins what was queued on one CPU with what ran on another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "breach/breach.hpp"

namespace cloister::breach {

// Sends by (object, CPU). An object cannot be sent again before it ran, so of the sends before a run only the latest
// can be its own; older ones belong to runs that were not recorded. A send after the run's start belongs to a later
// run: the object may be in use again while its function still runs, and runs become known at their end.
class Sends {
public:
    // A send older than `max_age_ns` before the run is not believed.
    explicit Sends(std::uint64_t max_age_ns) : max_age_ns_(max_age_ns) {}

    void sent(std::uint64_t object, int cpu, std::uint64_t t_ns, Party who);
    // The sender of what began to run at `start_ns`, which is used up with this.
    [[nodiscard]] std::optional<Party> ran(std::uint64_t object, int cpu, std::uint64_t start_ns);

private:
    struct Key {
        std::uint64_t object;
        int cpu;
        bool operator==(const Key&) const = default;
    };
    struct Hash {
        std::size_t operator()(const Key& key) const {
            return std::hash<std::uint64_t>()(key.object * 1021 + static_cast<std::uint64_t>(key.cpu));
        }
    };
    struct Send {
        std::uint64_t t_ns;
        Party who;
    };
    static constexpr std::size_t kMaxKeys = 16384, kMaxPerKey = 64;

    std::uint64_t max_age_ns_;
    std::unordered_map<Key, std::vector<Send>, Hash> sends_;
};

// Functions called by IPI of which the kernel shows the call but never the run (remote wake-ups): the reason for a
// function-call interrupt that showed no function at all.
class UnseenCalls {
public:
    struct Call {
        std::uint64_t t_ns, csd, function;
        Party who;
    };
    void sent(int cpu, Call call);
    void ran(int cpu, std::uint64_t csd);
    // The oldest call that is left and was made at most `kMaxAgeNs` before the interrupt began.
    [[nodiscard]] std::optional<Call> take(int cpu, std::uint64_t start_ns);

private:
    static constexpr std::uint64_t kMaxAgeNs = 10'000'000;
    static constexpr std::size_t kMaxPerCpu = 64;
    std::unordered_map<int, std::vector<Call>> by_cpu_;
};

// Signals on their way to a thread or to any thread of a process.
class Signals {
public:
    struct Sent {
        std::uint64_t t_ns;
        std::uint32_t tid;  // meant for this thread; 0: for the whole process
        Party who;
    };
    void sent(std::uint32_t tgid, int signal, Sent sent);
    // Who sent the signal that was delivered to this thread at `t_ns`.
    [[nodiscard]] std::optional<Party> delivered(std::uint32_t tgid, std::uint32_t tid, int signal, std::uint64_t t_ns);
    void forget(std::uint32_t tgid);

private:
    static constexpr std::size_t kMaxProcesses = 16384, kMaxPending = 64;
    struct Pending {
        int signal;
        Sent sent;
    };
    std::unordered_map<std::uint32_t, std::vector<Pending>> by_process_;
};

}  // namespace cloister::breach
