// The built-in task of `cloister watch`: spins on the watched CPU and notes every gap between two readings of the TSC.
//
// It is a process of its own with next to nothing mapped (its code, the memory shared with the collector, and the page
// of its thread area that the kernel writes to), all of it locked. So nothing that the collector does with its own
// memory can send it a TLB flush or a fault, and after go() it makes no syscall until it is told to stop.
//
// It also sees, without any privilege, whether the kernel was entered in a gap: see TscGap::kernel and spinner.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <sys/types.h>

#include "base/error.hpp"
#include "breach/gap_ring.hpp"

namespace cloister::breach {

class Spinner {
public:
    struct Stats {
        std::uint64_t begin_tsc = 0;  // first reading after go(); 0: not yet
        std::uint64_t until_tsc = 0;  // it was spinning then, with every gap before it in the ring
        std::uint64_t end_tsc = 0;    // last reading before a stop; 0: still spinning, or killed
        // As of until_tsc:
        std::uint64_t loops = 0;
        std::uint64_t max_step_cycles = 0;  // the largest step that was not a gap
        std::uint64_t entries = 0;          // times that the kernel was entered, gap or not; needs sees_entries
        bool sees_entries = false;          // TscGap::kernel is yes or no, never unknown
        bool locked = false;                // its memory is (else RLIMIT_MEMLOCK was too low for it)
    };

    // Starts the process, pinned to `cpu`, and waits until it is ready. It then spins without looking at the clock
    // until go(). `gap_ns` is the threshold, from 200 ns to 1 s. The process dies with the calling thread. Errors:
    // threshold out of range; no rdtscp; CPU offline or outside the cpuset; CPU not obtained within 2 s.
    [[nodiscard]] static Result<Spinner> start(int cpu, std::uint64_t gap_ns);

    Spinner(Spinner&&) noexcept;
    ~Spinner();  // stops it

    [[nodiscard]] pid_t pid() const { return pid_; }
    [[nodiscard]] std::uint64_t threshold_cycles() const;

    void go();

    // Appends the gaps since the last call, in order; returns how many. A gap where moved() is true may be shorter than
    // the threshold: there the task was taken to another CPU.
    std::size_t drain(std::vector<TscGap>& gaps);
    // No gap that began before this is still to come from drain(): the reading that the last drain() was complete up
    // to. 0 before the first gap or the first fraction of a millisecond.
    [[nodiscard]] std::uint64_t drained_until() const { return drained_until_; }

    // Gaps that found no room, and their cycles.
    [[nodiscard]] std::uint64_t overflow() const;
    [[nodiscard]] std::uint64_t overflow_cycles() const;
    [[nodiscard]] Stats stats() const;

    // False once the process is gone, for whatever reason; then ending() tells.
    [[nodiscard]] bool alive();
    // Tells it to stop, kills it if it has not ended after 200 ms, and reaps it. drain() still works afterwards.
    void stop();
    // "" while it runs and after a clean stop, else "killed by signal 9 (Killed)".
    [[nodiscard]] const std::string& ending() const { return ending_; }

private:
    struct Shared;
    struct Unmap {
        void operator()(Shared*) const;
    };
    explicit Spinner(std::unique_ptr<Shared, Unmap> shared) : shared_(std::move(shared)) {}
    [[nodiscard]] Result<void> launch(int cpu);
    void reaped(pid_t ended, int status);
    friend struct SpinnerProcess;

    std::unique_ptr<Shared, Unmap> shared_;
    pid_t pid_ = -1;
    bool running_ = false;
    std::uint64_t drained_until_ = 0;
    std::string ending_;
};

}  // namespace cloister::breach
