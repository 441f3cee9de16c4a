// cloister snapshot (--pid PID | FILE) -o DIR
#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "cli/commands.hpp"
#include "cli/progress.hpp"
#include "cli/segment.hpp"
#include "recorder/extract.hpp"

namespace cloister::cli {

namespace {

int failed(const Error& error) {
    std::fputs(error.text().c_str(), stderr);
    return kError;
}

int snapshot(const SegmentOptions& options) {
    const auto segment = open_segment(options, recorder::Segment::Access::read);
    if (!segment) return failed(segment.error());
    Progress progress;
    const auto show = [&](std::size_t written, std::size_t all) {
        if (progress.due()) progress.show(fmt::format("writing packet {} of {}", written, all));
    };
    const auto done = recorder::snapshot(*segment, options.directory, options.channels, show);
    progress.clear();
    if (!done) return failed(done.error());

    fmt::print("{}: {} packets, {} bytes of events\n", options.directory, done->packets, done->bytes);
    if (done->overwritten)
        fmt::print("{} sub-buffers were overwritten by their writers while they were copied, and are not in it\n",
                   done->overwritten);
    if (const auto refused = segment->header().refused)
        fmt::print("{} events were refused: of a child of fork, too large, or there was no memory\n", refused);
    if (done->packets == 0) fmt::print("nothing has been recorded in this segment yet\n");
    std::fprintf(stderr, "cloister: look at it with: cloister view %s\n", options.directory.c_str());
    return 0;
}

}  // namespace

Action add_snapshot(CLI::App& parser) {
    auto options = std::make_shared<SegmentOptions>();
    add_source(parser, *options);
    add_output(parser, *options)->required();
    parser.footer("The program that records runs on, and is not disturbed. Exit status: 0; 2 error.");
    return [options] { return snapshot(*options); };
}

}  // namespace cloister::cli
