// cloister watch -c CPU [-d 10s] [--gap 1us | --pid PID]
#include <fmt/format.h>

#include <csignal>
#include <optional>

#include "cli/commands.hpp"
#include "cli/watching.hpp"
#include "system/process.hpp"

namespace cloister::cli {

namespace {

struct WatchOptions : WatchingOptions {
    std::string gap = "1us";
    int pid = 0;
};

int failed(const Error& error) {
    std::fputs(error.text().c_str(), stderr);
    return kError;
}

int watch(WatchOptions options) {
    const auto gap = breach::parse_duration(options.gap);
    if (!gap) return failed(gap.error());
    int default_cpu = -1;
    std::optional<system::Process> process;
    if (options.pid) {
        process.emplace(options.pid);
        if (process->ended())
            return failed({.what = fmt::format("cannot watch process {}", options.pid),
                           .needs = "the id of a process that runs",
                           .found = "no such process"});
        // Without -c, the CPU is the one that the task is pinned to.
        if (const auto affinity = system::get_affinity(options.pid); affinity && affinity->size() == 1)
            default_cpu = affinity->list().front();
    }
    auto signals = Signals::take();
    if (!signals) return failed(signals.error());
    auto prepared = Watching::prepare(options, default_cpu);
    if (!prepared) return failed(prepared.error());
    Watching& watching = *prepared;
    if (options.pid) {
        const auto affinity = system::get_affinity(options.pid);
        if (affinity && !affinity->has(watching.cpu()))
            return failed({.what = fmt::format("process {} does not run on cpu {}", options.pid, watching.cpu()),
                           .needs = fmt::format("a task that may run on cpu {}", watching.cpu()),
                           .found = "its affinity is " + affinity->text(),
                           .set = fmt::format("cloister watch -c {} --pid {}, or: taskset -acp {} {}",
                                              affinity->list().front(), options.pid, watching.cpu(), options.pid)});
    }

    const std::string target = options.pid ? fmt::format("pid {}", options.pid) : "built-in spinner";
    if (auto ok = watching.arm("watch", target, options.pid ? 0 : *gap); !ok) return failed(ok.error());
    breach::Session& session = watching.session();
    if (auto ok = options.pid ? session.follow(options.pid) : session.follow_spinner(); !ok) return failed(ok.error());
    watching.output().header(session.header());
    session.begin();

    while (watching.poll()) {
        const int signal = signals->wait(5);
        if (signal == SIGINT || signal == SIGTERM || signal == SIGHUP) break;
        if (process && process->ended()) {
            watching.output().notice({0, fmt::format("process {} has ended", options.pid)});
            break;
        }
    }
    const std::string why = session.why_ended();
    const auto violations = watching.finish(std::nullopt, {});
    if (auto ok = watching.output().flush(); !ok) return failed(ok.error());
    if (!why.empty()) return failed({.what = "the watch ended early", .found = why});
    if (watching.has_budget()) return violations.empty() ? kClean : kFindings;
    const auto& summary = watching.summary();
    return summary.balance.breaches || summary.balance.gaps || !summary.rows.empty() ? kFindings : kClean;
}

}  // namespace

Action add_watch(CLI::App& parser) {
    auto options = std::make_shared<WatchOptions>();
    parser.add_option("-c,--cpu", options->cpu, "The CPU to watch")->type_name("CPU")->check(CLI::NonNegativeNumber);
    auto* gap =
        parser.add_option("--gap", options->gap, "Report gaps longer than this (default 1us)")->type_name("TIME");
    parser.add_option("--pid", options->pid, "Watch this process instead of the built-in spinning task")
        ->type_name("PID")
        ->check(CLI::PositiveNumber)
        ->excludes(gap);
    add_options(parser, *options);
    parser.footer("Exit status: 0 no breach (or budget met), 1 breaches (or budget exceeded), 2 error.");
    return [options] { return watch(*options); };
}

}  // namespace cloister::cli
