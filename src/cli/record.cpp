// cloister record (--pid PID | FILE) -o DIR [-d TIME]
#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "breach/session.hpp"
#include "cli/commands.hpp"
#include "cli/watching.hpp"
#include "recorder/extract.hpp"
#include "system/process.hpp"

namespace cloister::cli {

namespace {

struct RecordOptions {
    int pid = 0;
    std::string file, directory, duration;
};

int failed(const Error& error) {
    std::fputs(error.text().c_str(), stderr);
    return kError;
}

int record(const RecordOptions& options) {
    if ((options.pid != 0) == !options.file.empty())
        return failed({.what = "there is not one segment to record from",
                       .needs = "either --pid PID, of a program that records, or the FILE of a segment",
                       .found = options.pid ? "both" : "neither"});
    explain_bus_errors();
    std::optional<std::uint64_t> duration_ns;
    if (!options.duration.empty()) {
        const auto duration = breach::parse_duration(options.duration);
        if (!duration) return failed(duration.error());
        duration_ns = *duration;
    }
    auto signals = Signals::take();
    if (!signals) return failed(signals.error());
    auto segment = options.pid ? recorder::Segment::of_process(options.pid, recorder::Segment::Access::drain)
                               : recorder::Segment::open(options.file, recorder::Segment::Access::drain);
    if (!segment) return failed(segment.error());
    const auto owner = static_cast<int>(segment->header().pid);
    const system::Process program(owner);
    auto drain = recorder::Drain::begin(std::move(*segment), options.directory);
    if (!drain) return failed(drain.error());
    std::fprintf(stderr, "cloister: recording from process %d into %s; Ctrl-C ends it\n", owner,
                 options.directory.c_str());

    recorder::Extracted all;
    const auto take = [&](Result<recorder::Extracted> part) -> std::optional<Error> {
        if (!part) return part.error();
        all.packets += part->packets;
        all.bytes += part->bytes;
        all.broken += part->broken;
        return std::nullopt;
    };
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
        const int signal = signals->wait(5);
        if (signal == SIGINT || signal == SIGTERM || signal == SIGHUP) {
            why = "interrupted";
            break;
        }
    }
    if (const auto error = take(drain->finish())) return failed(*error);
    fmt::print("{}: {} packets, {} bytes of events; {}\n", options.directory, all.packets, all.bytes, why);
    if (all.broken) fmt::print("some lanes hold what no writer leaves there, and were read no further\n");
    std::fprintf(stderr, "cloister: look at it with: cloister view %s\n", options.directory.c_str());
    return 0;
}

}  // namespace

Action add_record(CLI::App& parser) {
    auto options = std::make_shared<RecordOptions>();
    parser.add_option("FILE", options->file, "The segment of a program that records")->type_name("");
    parser.add_option("--pid", options->pid, "The segment of this process")
        ->type_name("PID")
        ->check(CLI::PositiveNumber);
    parser.add_option("-o,--output", options->directory, "Where the trace goes: a new or empty directory")
        ->type_name("DIR")
        ->required();
    parser.add_option("-d,--duration", options->duration, "Record for this long: 10s, 500ms, 2m")->type_name("TIME");
    parser.footer(
        "Takes events away as they come, until the program ends, the time is over, or Ctrl-C. Of a recording that "
        "discards, "
        "nothing is lost as long as this keeps up. Exit status: 0; 2 error.");
    return [options] { return record(*options); };
}

}  // namespace cloister::cli
