// cloister run [options] -- CMD ARGS...
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <set>

#include "cli/child.hpp"
#include "cli/commands.hpp"
#include "cli/watching.hpp"
#include "system/launch.hpp"

namespace cloister::cli {

namespace {

struct RunOptions : WatchingOptions {
    std::string after;
    std::vector<std::string> command;
};

std::string joined(const std::vector<std::string>& words) {
    std::string line;
    for (const auto& word : words) line += (line.empty() ? "" : " ") + word;
    return line;
}

int failed(const Error& error) {
    std::fputs(error.text().c_str(), stderr);
    return error.status;
}

std::uint64_t ns_of(const timeval& t) {
    return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(t.tv_usec) * 1'000;
}

breach::Session::Usage usage_of(const Child& child) {
    const rusage& used = child.usage();
    return {.voluntary = static_cast<std::uint64_t>(used.ru_nvcsw),
            .involuntary = static_cast<std::uint64_t>(used.ru_nivcsw),
            .minor_faults = static_cast<std::uint64_t>(used.ru_minflt),
            .major_faults = static_cast<std::uint64_t>(used.ru_majflt),
            .user_ns = ns_of(used.ru_utime),
            .system_ns = ns_of(used.ru_stime)};
}

// Processes that the command started and that outlive it.
std::vector<breach::Notice> left_behind(const std::vector<breach::ThreadCounts>& threads, pid_t command) {
    std::set<std::uint32_t> pids;
    std::string names;
    for (const auto& thread : threads) {
        if (thread.tgid == static_cast<std::uint32_t>(command) || !thread.live) continue;
        if (kill(static_cast<pid_t>(thread.tgid), 0) != 0 && errno != EPERM) continue;
        if (pids.insert(thread.tgid).second && pids.size() <= 4)
            names += fmt::format("{}{}/{}", names.empty() ? "" : ", ", thread.comm, thread.tgid);
    }
    if (pids.empty()) return {};
    return {{breach::monotonic_ns(),
             fmt::format("the command has ended; {} of its processes still run ({}{}), no longer watched: "
                         "-d TIME watches them on, or: cloister watch --pid {}",
                         pids.size(), names, pids.size() > 4 ? ", ..." : "", *pids.begin())}};
}

int run(const RunOptions& options) {
    if (options.command.empty())
        return failed(
            {.what = "nothing to run", .needs = "a command: cloister run [options] -- CMD ARGS...", .found = "none"});
    std::uint64_t after_ns = 0;
    if (!options.after.empty()) {
        const auto after = breach::parse_duration(options.after);
        if (!after) return failed(after.error());
        after_ns = *after;
    }
    auto signals = Signals::take();
    if (!signals) return failed(signals.error());
    auto prepared = Watching::prepare(options);
    if (!prepared) return failed(prepared.error());
    Watching& watching = *prepared;

    system::CpuSet pinned;
    pinned.add(watching.cpu());
    auto launch = system::Launch::prepare(options.command, pinned);
    if (!launch) return failed(launch.error());

    if (auto ok = watching.arm("run", joined(options.command), 0); !ok) return failed(ok.error());
    breach::Session& session = watching.session();
    if (auto ok = session.follow(launch->pid(), launch->program().drops_events()); !ok) return failed(ok.error());
    watching.output().header(session.header());
    const bool begins_itself = after_ns == 0 && session.begin_on_exec(launch->pid());
    if (auto ok = launch->go(); !ok) return failed(ok.error());
    if (launch->program().drops_events())
        watching.output().notice(
            {0, launch->program().path +
                    " changes its privileges when it starts, so the kernel takes "
                    "perf events of it away: its code is not named, and without privileges its faults "
                    "are only counted; run cloister as root to see the rest"});
    const std::uint64_t started = breach::monotonic_ns();
    if (!begins_itself && after_ns == 0) session.begin();

    Child child(launch->pid());
    bool going = true, interrupted = false;
    while (going) {
        const int signal = signals->wait(5);
        if (signal == SIGTERM || signal == SIGHUP) kill(child.pid(), signal);  // as timeout(1) does
        interrupted = signal == SIGINT || signal == SIGTERM || signal == SIGHUP;
        if (after_ns && !session.began() && breach::monotonic_ns() - started >= after_ns) session.begin();
        // The command's end is looked for before the drain, so that the drain is the last.
        const bool over = child.ended();
        going = watching.poll() && !interrupted && !(over && (!watching.duration_ns() || !session.began()));
        if (over && going) {  // -d watches on what the command has left running
            const auto threads = session.threads();
            going = std::any_of(threads.begin(), threads.end(), [](const auto& thread) { return thread.live; });
        }
    }
    if (!session.began() && after_ns)
        watching.output().notice(
            {0, "the command ended before --after " + options.after + " had passed: nothing was watched"});

    std::vector<breach::Notice> more;
    if (child.ended()) more = left_behind(session.threads(), child.pid());
    const auto usage = child.ended() ? std::optional(usage_of(child)) : std::nullopt;
    const auto violations = watching.finish(usage, more);
    if (auto ok = watching.output().flush(); !ok) return failed(ok.error());
    const std::string why_ended = session.why_ended();
    watching.disarm();

    if (!child.ended()) {
        std::fprintf(stderr, "cloister: the watch is over, the command (pid %d) still runs; waiting for it\n",
                     child.pid());
        while (!child.ended()) {
            const int signal = signals->wait(-1);
            if (signal == SIGTERM || signal == SIGHUP) kill(child.pid(), signal);
        }
    }
    const int status = child.status();
    const std::string ending = ending_of(status);
    if (!violations.empty()) {
        std::fprintf(stderr, "cloister: budget exceeded; the command itself: %s\n", ending.c_str());
        return kBudgetExceeded;
    }
    if (!why_ended.empty())
        return failed({.what = "the watch ended early; the command itself: " + ending,
                       .needs = fmt::format("cpu {} for the whole watch", watching.cpu()),
                       .found = why_ended});
    return end_like(status);
}

}  // namespace

Action add_run(CLI::App& parser, std::vector<std::string> tail) {
    auto options = std::make_shared<RunOptions>();
    add_command(parser);
    parser.prefix_command();
    parser.add_option("-c,--cpu", options->cpu, "The CPU for the command (default: an isolated one, else the last)")
        ->type_name("CPU")
        ->check(CLI::NonNegativeNumber);
    parser.add_option("--after", options->after, "Begin to watch this long after the command has started")
        ->type_name("TIME");
    add_options(parser, *options);
    parser.footer(
        "Exit status: the command's own; 124 budget exceeded, 125 cloister failed, 126 cannot execute, "
        "127 not found.");
    return [options, &parser, tail = std::move(tail)] {
        // Without "--", the command begins at the first word that is no option.
        const auto words = parser.remaining();
        if (!words.empty() && words.front().starts_with('-'))
            return failed({.what = "unknown option " + words.front(),
                           .needs = "one that cloister run --help lists; those of the command come after its name",
                           .found = words.front()});
        options->command = command_of(parser, tail);
        return run(*options);
    };
}

}  // namespace cloister::cli
