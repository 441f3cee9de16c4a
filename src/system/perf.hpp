// perf events: opening with an error that teaches, rings that are only ever polled, counters that are checked to count.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <linux/perf_event.h>
#include <sys/types.h>

#include "base/error.hpp"

namespace cloister::system {

class Fd {  // owns a file descriptor
public:
    Fd() = default;
    explicit Fd(int fd) : fd_(fd) {}
    Fd(Fd&& other) noexcept : fd_(other.release()) {}
    Fd& operator=(Fd&& other) noexcept;
    Fd(const Fd&) = delete;
    Fd& operator=(const Fd&) = delete;
    ~Fd();
    [[nodiscard]] int get() const { return fd_; }
    [[nodiscard]] explicit operator bool() const { return fd_ >= 0; }
    int release();

private:
    int fd_ = -1;
};

// perf_event_open(2) with attr.size set and close-on-exec; errors name the limit that was hit (EMFILE: RLIMIT_NOFILE,
// EACCES: perf_event_paranoid, EPERM from the mmap: perf_event_mlock_kb ...). `files`: how many events the caller is
// about to open in all, for the error's words.
[[nodiscard]] Result<Fd> perf_open(perf_event_attr attr, pid_t pid, int cpu, std::size_t files = 1);

class PerfRing {  // a mapped ring of one event, drained by polling
public:
    // `pages` of data, a power of two; one more page is locked for the ring's head.
    [[nodiscard]] static Result<PerfRing> map(const Fd& event, std::size_t pages);
    PerfRing(PerfRing&&) noexcept;
    PerfRing& operator=(PerfRing&&) noexcept;
    ~PerfRing();
    // Calls back for each whole record (copied where it wraps, so valid for the call only), PERF_RECORD_LOST included;
    // frees them together at the end; returns how many. One thread at a time.
    std::size_t drain(const std::function<void(const perf_event_header&)>& record);
    [[nodiscard]] std::uint64_t lost() const { return lost_; }  // from PERF_RECORD_LOST

private:
    PerfRing() = default;
    void* base_ = nullptr;
    std::size_t size_ = 0;
    std::uint64_t lost_ = 0;
    std::vector<std::byte> scratch_;
};

// Whether software events really count for this process, found by provoking them (a page touched, a short sleep):
// without privilege context-switches open and stay 0.
struct Counting {
    bool page_faults = false, context_switches = false;
    std::string page_faults_why, context_switches_why;  // why not: what was found and the command that lifts it
};
[[nodiscard]] Counting probe_counting();

}  // namespace cloister::system
