#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "cli/commands.hpp"

using namespace cloister;

void cli::explain_bus_errors() {
    struct sigaction action {};
    action.sa_handler = [](int) {
        constexpr std::string_view kText =
            "cloister: a file was cut while it was read\n"
            "  needs  the segment or trace to keep its size while it is mapped\n"
            "  found  pages of it that are no longer there: somebody truncated it\n"
            "  set    whoever truncates it must not; what was written until now is in the output directory\n";
        const auto written = write(STDERR_FILENO, kText.data(), kText.size());
        _exit(written < 0 ? cli::kFailed : cli::kError);
    };
    sigaction(SIGBUS, &action, nullptr);
}

int main(int argc, char** argv) {
    std::signal(SIGPIPE, SIG_IGN);  // a reader that went away is an error like any other; commands do not inherit this
    CLI::App parser("Keep one CPU for one task, and see every breach.", "cloister");
    parser.set_version_flag("--version", "cloister " CLOISTER_VERSION);
    parser.require_subcommand(1);
    parser.get_formatter()->column_width(34);

    // What follows "--" is the command's, whatever it looks like; the parser is not shown it.
    char** const end = argv + argc;
    char** const dashes = std::find_if(argv, end, [](const char* word) { return std::string_view(word) == "--"; });
    const std::vector<std::string> tail(dashes, end);

    std::map<const CLI::App*, cli::Action> actions;
    const auto add = [&](const char* name, const char* what, auto declare) {
        CLI::App* command = parser.add_subcommand(name, what);
        actions[command] = declare(*command);
    };
    add("run", "Run a command on a CPU of its own and report everything that interrupts it",
        [&tail](CLI::App& command) { return cli::add_run(command, tail); });
    add("watch", "Watch a CPU as it is with a built-in spinning task, or a task that runs there", cli::add_watch);
    add("check", "Audit how well a CPU is kept, and mend what can be mended", cli::add_check);
    add("explain", "What a cause of breaches or a setting is, and what to do about it", cli::add_explain);
    add("record", "Write what a program records into a trace, as it comes",
        [&tail](CLI::App& command) { return cli::add_record(command, tail); });
    add("snapshot", "Copy what a program has recorded into a trace, while it runs or after its end", cli::add_snapshot);
    add("view", "Show the events of a trace (CTF 1.8), of cloister or another tracer", cli::add_view);

    try {
        parser.parse(static_cast<int>(dashes - argv), argv);
    } catch (const CLI::ParseError& error) {
        const int status = parser.exit(error);
        if (status == 0) return 0;  // --help, --version
        return argc > 1 && std::string_view(argv[1]) == "run" ? cli::kFailed : cli::kError;
    }
    const int status = actions.at(parser.get_subcommands().front())();
    // A report that did not reach its reader is not a report.
    if (std::fflush(stdout) != 0) {
        std::perror("cloister: cannot write the report to standard output");
        return parser.got_subcommand("run") ? cli::kFailed : cli::kError;
    }
    return status;
}
