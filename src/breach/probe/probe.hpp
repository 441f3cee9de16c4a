// Loads the kernel-side probe, adds threads to it, drains its rings and reads its counters.
//
// Needs CAP_BPF and CAP_PERFMON (or root) and a kernel with BTF (CONFIG_DEBUG_INFO_BTF, 5.15 and newer). Everything it
// attaches is held by file descriptors: when the process ends, however it ends, the kernel takes all of it down.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "breach/breach.hpp"
#include "breach/probe/record.h"

namespace cloister::breach {

struct ProbeOptions {
    std::size_t ring_bytes = std::size_t{4} << 20;  // per CPU; a power of two and a multiple of the page size
    std::uint64_t records_per_s = 20000,
                  records_burst = 20000;                   // per thread, of its own doing; the rest is only counted
    std::uint64_t stacks_per_s = 200, stacks_burst = 512;  // per CPU
};

// Where the records of a drain go. Stacks come before the records that name them.
struct RecordSink {
    virtual ~RecordSink() = default;
    virtual void record(const cl_record& record) = 0;
    virtual void stack(StackPtr stack) = 0;
};

class Probe {
public:
    // Loads and attaches everything that this kernel has; watches nobody yet. Sends the CPUs some IPIs (text patching).
    // `cpu`: the watched CPU, which counters tell apart from all others.
    [[nodiscard]] static Result<Probe> load(int cpu, const ProbeOptions& options);
    Probe(Probe&&) noexcept;
    Probe& operator=(Probe&&) noexcept;
    ~Probe();

    // What this kernel's tracepoints cannot show: cause and the tracepoint that is missing.
    [[nodiscard]] const std::vector<std::pair<Cause, std::string>>& missing() const;

    // Adds a thread; threads and processes that it makes are added by themselves. Before the watch begins.
    [[nodiscard]] Result<void> add_thread(std::uint32_t tid, std::uint32_t tgid, const std::string& comm);
    void begin_on_exec(std::uint32_t tid);  // the watch begins when that thread has exec'ed
    void begin(std::uint64_t now_ns);       // CLOCK_MONOTONIC
    void end(std::uint64_t now_ns);
    [[nodiscard]] std::uint64_t began() const;  // 0: not yet

    // Hands over what is in the rings now, at most about `most` records of each CPU. Returns how many; never blocks.
    std::size_t drain(RecordSink& sink, std::size_t most = 1 << 16);

    // After the end: what is still open, as records that end there (CL_END_UNSEEN).
    void open(RecordSink& sink) const;

    // ---- Exact counters, readable at any time without disturbing the watched CPU ----
    [[nodiscard]] std::vector<ThreadCounts> threads() const;
    struct SyscallCount {
        unsigned nr;  // | CL_I386
        cl_cell cell;
    };
    // Summed over threads; `away`: on other CPUs than the watched one.
    [[nodiscard]] std::vector<SyscallCount> syscalls(bool away) const;
    [[nodiscard]] std::vector<std::pair<std::uint64_t, cl_site>> sites() const;
    // Time in which watched threads ran their own code on `cpu`, up to `now_ns`.
    [[nodiscard]] std::uint64_t kept_ns(int cpu, std::uint64_t now_ns) const;
    struct Drops {
        std::uint64_t total = 0;
        std::map<std::string, std::uint64_t> by_kind;
        std::uint64_t threads_unwatched = 0, sites_unknown = 0;
    };
    [[nodiscard]] Drops drops() const;

private:
    struct Impl;
    explicit Probe(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

}  // namespace cloister::breach
