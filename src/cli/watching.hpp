// What `run` and `watch` have in common: options, the CPU, signals, and the loop that keeps the evidence drained.
#pragma once

#include <csignal>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include <CLI/CLI.hpp>

#include "base/error.hpp"
#include "breach/budget.hpp"
#include "breach/session.hpp"
#include "cli/output.hpp"
#include "system/cpu.hpp"
#include "system/perf.hpp"

namespace cloister::cli {

struct WatchingOptions {
    int cpu = -1;
    std::string duration, budget;
    Output::Options output;
};
void add_options(CLI::App& parser, WatchingOptions& options);

// Signals as file descriptor events; blocked for good in this process (commands that it starts get the mask back).
class Signals {
public:
    [[nodiscard]] static Result<Signals> take();  // SIGINT, SIGTERM, SIGHUP, SIGCHLD
    // Waits until a signal is there or `ms` have passed. 0: none.
    [[nodiscard]] int wait(int ms);

private:
    system::Fd fd_;
};

// One watch, from its options to its report.
class Watching {
public:
    // Parses, chooses the CPU and takes this process off it. Nothing is armed yet.
    [[nodiscard]] static Result<Watching> prepare(const WatchingOptions& options, int default_cpu = -1);

    // Arms; prints the header.
    [[nodiscard]] Result<void> arm(const std::string& command, const std::string& target, std::uint64_t gap_ns);

    [[nodiscard]] int cpu() const { return cpu_; }
    [[nodiscard]] const system::Topology& topology() const { return topology_; }
    [[nodiscard]] breach::Session& session() { return *session_; }
    [[nodiscard]] Output& output() { return *output_; }
    [[nodiscard]] std::optional<std::uint64_t> duration_ns() const { return duration_ns_; }

    // Drains; false when the watch is over by itself (-d has passed, or it cannot go on).
    [[nodiscard]] bool poll();
    // Ends the watch, prints the report; the budget's violations.
    [[nodiscard]] std::vector<breach::Budget::Violation> finish(const std::optional<breach::Session::Usage>& usage,
                                                                const std::vector<breach::Notice>& more);
    void disarm() { session_.reset(); }  // takes everything down that was armed
    [[nodiscard]] const breach::Summary& summary() const { return summary_; }
    [[nodiscard]] bool has_budget() const { return budget_.has_value(); }

private:
    int cpu_ = -1;
    system::Topology topology_;
    std::optional<std::uint64_t> duration_ns_;
    std::optional<breach::Budget> budget_;
    std::unique_ptr<Output> output_;
    std::unique_ptr<breach::Session> session_;
    breach::Summary summary_;
};

}  // namespace cloister::cli
