// cloister record (--pid PID | FILE) -o DIR [-d TIME]
#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "breach/session.hpp"
#include "cli/commands.hpp"
#include "cli/segment.hpp"
#include "cli/watching.hpp"
#include "recorder/extract.hpp"
#include "system/process.hpp"

namespace cloister::cli {

namespace {

struct RecordOptions : SegmentOptions {
    std::string duration;
};

int failed(const Error& error) {
    std::fputs(error.text().c_str(), stderr);
    return kError;
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
    add_options(parser, *options);
    parser.add_option("-d,--duration", options->duration, "Record for this long: 10s, 500ms, 2m")->type_name("TIME");
    parser.footer(
        "Takes events away as they come, until the program ends, the time is over, or Ctrl-C. Of a recording that "
        "discards, "
        "nothing is lost as long as this keeps up. Exit status: 0; 2 error.");
    return [options] { return record(*options); };
}

}  // namespace cloister::cli
