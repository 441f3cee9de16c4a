// One watch from arming to summary: chooses the evidence that the privileges allow, keeps it drained, and closes the
// books.
//
// Runs in one thread on the housekeeping CPUs. Nothing here sends the watched CPU anything between begin() and
// finish(): rings and counters are mapped, the rest is /proc.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "breach/breach.hpp"
#include "breach/report.hpp"
#include "system/cpu.hpp"

namespace cloister::breach {

// CLOCK_MONOTONIC now, in ns: the clock of every record.
[[nodiscard]] std::uint64_t monotonic_ns();

struct SessionOptions {
    std::string command;  // "run" or "watch"
    std::string target;   // for the header
    int cpu = -1;         // the watched CPU
    system::Topology topology;
    std::uint64_t gap_ns = 0;  // > 0: gaps longer than this are looked for by the spinner (watch)
    std::string self;          // how the user called this program, for the commands in advice
};

struct SessionSinks {
    std::function<void(const Breach&)> breach;  // each finished departure; may be empty
    std::function<void(const Notice&)> notice;
};

class Session {
public:
    // Loads and arms what the privileges allow. Less than all of it is not an error: the header says what is blind.
    [[nodiscard]] static Result<std::unique_ptr<Session>> arm(SessionOptions options, SessionSinks sinks);
    virtual ~Session() = default;

    // The process to follow, with all threads it has and everything it will start. Before the watch begins.
    // `drops_events`: its exec will take perf events of an ordinary user off it (system::Program), so that they would
    // count nothing.
    [[nodiscard]] virtual Result<void> follow(pid_t tgid, bool drops_events = false) = 0;
    // Starts the built-in spinner on the watched CPU and follows that (watch).
    [[nodiscard]] virtual Result<void> follow_spinner() = 0;

    // Begins the watch at the very exec of `tid`; false if that takes privileges that are not there: call begin() after
    // it.
    [[nodiscard]] virtual bool begin_on_exec(pid_t tid) = 0;
    virtual void begin() = 0;
    [[nodiscard]] virtual bool began() const = 0;

    // Drains and correlates; call every few milliseconds. False when the watch cannot go on (the spinner is gone, its
    // CPU went offline): `why_ended` says why.
    virtual bool poll() = 0;
    [[nodiscard]] virtual const std::string& why_ended() const = 0;

    [[nodiscard]] virtual const Header& header() const = 0;
    [[nodiscard]] virtual const Resolver& resolver() const = 0;

    // Ends the watch now and closes the books. `usage`: what the ended task used, if it was waited for.
    struct Usage {
        std::uint64_t voluntary = 0, involuntary = 0, minor_faults = 0, major_faults = 0;
        std::uint64_t user_ns = 0, system_ns = 0;
    };
    [[nodiscard]] virtual Summary finish(const std::optional<Usage>& usage) = 0;

    // The watched threads so far, with their counters; empty without privileges.
    [[nodiscard]] virtual std::vector<ThreadCounts> threads() const = 0;
};

}  // namespace cloister::breach
