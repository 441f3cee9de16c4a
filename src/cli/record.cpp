// cloister record (--pid PID | FILE | -- CMD) [-o DIR] [-e GLOB]... [-d TIME]
#include "cli/record.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <ctime>
#include <memory>
#include <optional>

#include "breach/session.hpp"
#include "cli/child.hpp"
#include "cli/commands.hpp"
#include "cli/progress.hpp"
#include "cli/watching.hpp"
#include "recorder/control.hpp"
#include "system/files.hpp"
#include "system/process.hpp"

namespace cloister::cli {

std::string RecordOptions::entries() const { return fmt::format("{}", fmt::join(events, ";")); }

void add_to(recorder::Extracted& sum, const recorder::Extracted& part) {
    sum.packets += part.packets;
    sum.bytes += part.bytes;
    sum.overwritten += part.overwritten;
    sum.broken += part.broken;
}

std::string shortcomings(const recorder::Extracted& all) {
    return all.broken ? "cloister: some lanes hold what no writer leaves there, and were read no further\n" : "";
}

namespace {

int failed(const Error& error) {
    std::fputs(error.text().c_str(), stderr);
    return kError;
}

// What of the program's tracepoints there is.
int list(const RecordOptions& options) {
    auto segment = open_segment(options, recorder::Segment::Access::drain);
    if (!segment) return failed(segment.error());
    auto control = recorder::ControlSession::begin(*segment, options.owner(*segment));
    if (!control) return failed(control.error());
    const auto lines = control->list();
    if (!lines) return failed(lines.error());
    if (lines->empty())
        std::fputs("cloister: the program has no tracepoints: no module of it that is loaded has any\n", stderr);
    else
        fmt::print("ON  LEVEL EVENT\n");
    for (const auto line : system::split_lines(*lines))
        if (const auto words = system::split_words(line); words.size() == 3)
            fmt::print("{:<3} {:>5} {}\n", words[0], words[1], words[2]);
    return 0;
}

Result<std::optional<recorder::ControlSession>> enable(const RecordOptions& options, const recorder::Segment& segment) {
    if (options.events.empty()) return std::optional<recorder::ControlSession>();
    auto control = recorder::ControlSession::begin(segment, options.owner(segment));
    if (!control) return fail(control.error());
    const auto count = control->enable(options.entries());
    if (!count) return fail(count.error());
    if (*count == 0) {
        std::string names;
        if (const auto lines = control->list())
            for (const auto line : system::split_lines(*lines))
                if (const auto words = system::split_words(line); words.size() == 3)
                    names += (names.empty() ? "" : ", ") + std::string(words[2]);
        return fail({.what = fmt::format("no tracepoint of the program fits -e '{}'", options.entries()),
                     .needs = "one of: " + (names.empty() ? "none, it has no tracepoints" : names),
                     .found = "none of them",
                     .set = "cloister record --pid PID --list shows them with their levels"});
    }
    return std::optional(std::move(*control));
}

int record(const RecordOptions& options) {
    std::optional<std::uint64_t> duration_ns;
    if (!options.duration.empty()) {
        const auto duration = breach::parse_duration(options.duration);
        if (!duration) return failed(duration.error());
        duration_ns = *duration;
    }
    auto signals = Signals::take();
    if (!signals) return failed(signals.error());
    auto segment = open_segment(options, recorder::Segment::Access::drain);
    if (!segment) return failed(segment.error());
    const pid_t owner = options.owner(*segment);
    const system::Process program(owner);
    // What it lets through before the drain begins waits in the lanes.
    auto control = enable(options, *segment);
    if (!control) return failed(control.error());
    auto drain = recorder::Drain::begin(std::move(*segment), options.directory, options.channels);
    if (!drain) return failed(drain.error());
    std::fprintf(stderr, "cloister: recording from process %d into %s; Ctrl-C ends it\n", owner,
                 options.directory.c_str());

    recorder::Extracted all;
    const auto take = [&](Result<recorder::Extracted> part) -> std::optional<Error> {
        if (!part) return part.error();
        add_to(all, *part);
        return std::nullopt;
    };
    Progress progress;
    const std::uint64_t begin = breach::monotonic_ns();
    std::string why = "the time is over";
    while (!duration_ns || breach::monotonic_ns() - begin < *duration_ns) {
        // Looked for before the drain, so that what it wrote last is taken.
        const bool over = program.ended();
        if (const auto error = take(drain->run())) return failed(*error);
        if (over) {
            why = "the program has ended";
            break;
        }
        if (progress.due())
            progress.show(fmt::format("{:.0f} s: {} packets, {} of events",
                                      static_cast<double>(breach::monotonic_ns() - begin) / 1e9, all.packets,
                                      amount(all.bytes)));
        const int signal = signals->wait(5);
        if (signal == SIGINT || signal == SIGTERM || signal == SIGHUP) {
            why = "interrupted";
            break;
        }
    }
    progress.clear();
    std::optional<Error> left_on;
    if (*control && !program.ended())
        if (auto ok = (*control)->end(); !ok) left_on = ok.error();
    if (const auto error = take(drain->finish())) return failed(*error);
    fmt::print("{}: {} packets, {} bytes of events; {}\n", options.directory, all.packets, all.bytes, why);
    std::fputs(shortcomings(all).c_str(), stdout);
    if (all.bytes == 0)
        std::fputs("cloister: nothing was recorded: none of its tracepoints is on (-e '*'), or it came by none\n",
                   stderr);
    else
        std::fprintf(stderr, "cloister: look at it with: cloister view %s\n", options.directory.c_str());
    return left_on ? failed(*left_on) : 0;
}

std::string default_directory() {
    return fmt::format("cloister-trace-{:%Y%m%d-%H%M%S}", fmt::localtime(std::time(nullptr)));
}

}  // namespace

pid_t RecordOptions::owner(const recorder::Segment& segment) const {
    return pid ? pid : static_cast<pid_t>(segment.header().pid);
}

Action add_record(CLI::App& parser, std::vector<std::string> tail) {
    auto options = std::make_shared<RecordOptions>();
    add_command(parser);
    add_source(parser, *options);
    add_output(parser, *options);
    parser
        .add_option("-e,--enable", options->events,
                    "Enable these tracepoints meanwhile: GLOB[@LEVEL][ if FILTER], as in 'book:*@6 if price > 100'; "
                    "several times. Of a command, all are enabled if none is named")
        ->type_name("GLOB");
    parser.add_option("-d,--duration", options->duration, "Record for this long: 10s, 500ms, 2m (not of a command)")
        ->type_name("TIME");
    parser.add_flag("--list", options->list, "Show the tracepoints of the program and whether they are on, and end");
    parser.add_flag("--overwrite", options->overwrite,
                    "Where this does not keep up with a command, lose its oldest events instead of the newest");
    parser.add_option("--sub-buffers", options->sub_buffers, "Of a command, for each CPU: a power of two")
        ->type_name("N")
        ->capture_default_str();
    parser.add_option("--sub-buffer-bytes", options->sub_buffer_bytes, "The size of each: a power of two")
        ->type_name("BYTES")
        ->capture_default_str();
    parser.footer(
        "Takes events away as they come, until the program ends, the time is over, or Ctrl-C; of a command, until it "
        "has ended, of each of its processes into a trace of its own in DIR (default: cloister-trace-DATE-TIME). Of a "
        "recording that discards, nothing is lost as long as this keeps up. Exit status: 0; 2 error; with a command "
        "the command's own; 125 cloister failed, 126 cannot execute, 127 not found.");
    return [options, &parser, tail = std::move(tail)] {
        options->command = command_of(parser, tail);
        if (options->list) return list(*options);
        if (options->directory.empty()) options->directory = default_directory();
        if (tail.empty()) return record(*options);
        if (options->pid || !options->file.empty() || !options->duration.empty() || options->command.empty()) {
            std::fputs(Error{.what = "there is not one thing to record",
                             .needs = "--pid PID, or FILE, or -- CMD ARGS... (which is recorded until its end)",
                             .found = options->command.empty() ? "nothing behind --" : "more than one of these, or -d"}
                           .text()
                           .c_str(),
                       stderr);
            return kFailed;
        }
        return record_command(*options);
    };
}

}  // namespace cloister::cli
