// cloister snapshot (--pid PID | FILE) -o DIR
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>

#include "cli/commands.hpp"
#include "recorder/extract.hpp"

namespace cloister::cli {

namespace {

struct SnapshotOptions {
    int pid = 0;
    std::string file, directory;
};

int failed(const Error& error) {
    std::fputs(error.text().c_str(), stderr);
    return kError;
}

int snapshot(const SnapshotOptions& options) {
    if ((options.pid != 0) == !options.file.empty())
        return failed({.what = "there is not one segment to take a snapshot of",
                       .needs = "either --pid PID, of a program that records, or the FILE of a segment",
                       .found = options.pid ? "both" : "neither"});
    explain_bus_errors();
    const auto segment = options.pid ? recorder::Segment::of_process(options.pid, recorder::Segment::Access::read)
                                     : recorder::Segment::open(options.file, recorder::Segment::Access::read);
    if (!segment) return failed(segment.error());
    const auto done = recorder::snapshot(*segment, options.directory);
    if (!done) return failed(done.error());

    fmt::print("{}: {} packets, {} bytes of events\n", options.directory, done->packets, done->bytes);
    if (done->overwritten)
        fmt::print("{} sub-buffers were overwritten by their writers while they were copied, and are not in it\n",
                   done->overwritten);
    if (const auto refused = segment->header().refused)
        fmt::print("{} events found no lane: their threads had no restartable sequences, or there was no memory\n",
                   refused);
    if (done->packets == 0) fmt::print("nothing has been recorded in this segment yet\n");
    std::fprintf(stderr, "cloister: look at it with: cloister view %s\n", options.directory.c_str());
    return 0;
}

}  // namespace

Action add_snapshot(CLI::App& parser) {
    auto options = std::make_shared<SnapshotOptions>();
    parser.add_option("FILE", options->file, "The segment, also of a program that has ended")->type_name("");
    parser.add_option("--pid", options->pid, "The segment of this process")
        ->type_name("PID")
        ->check(CLI::PositiveNumber);
    parser.add_option("-o,--output", options->directory, "Where the trace goes: a new or empty directory")
        ->type_name("DIR")
        ->required();
    parser.footer("The program that records runs on, and is not disturbed. Exit status: 0; 2 error.");
    return [options] { return snapshot(*options); };
}

}  // namespace cloister::cli
