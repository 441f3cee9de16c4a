#include "cli/segment.hpp"

#include "cli/commands.hpp"

namespace cloister::cli {

void add_source(CLI::App& parser, SegmentOptions& options) {
    parser.add_option("FILE", options.file, "The segment's file, also of a program that has ended")->type_name("");
    parser.add_option("--pid", options.pid, "The segment of this process")
        ->type_name("PID")
        ->check(CLI::PositiveNumber);
    parser.add_option("--channel", options.channels, "Only this channel of it; may be given again for others")
        ->type_name("NAME")
        ->allow_extra_args(false);
}

CLI::Option* add_output(CLI::App& parser, SegmentOptions& options) {
    return parser.add_option("-o,--output", options.directory, "Where the trace goes: a new or empty directory")
        ->type_name("DIR");
}

Result<recorder::Segment> open_segment(const SegmentOptions& options, recorder::Segment::Access access) {
    if ((options.pid != 0) == !options.file.empty())
        return fail({.what = "there is not one segment to read",
                     .needs = "either --pid PID, of a program that records, or the FILE of a segment",
                     .found = options.pid ? "both" : "neither"});
    explain_bus_errors();
    return options.pid ? recorder::Segment::of_process(options.pid, access)
                       : recorder::Segment::open(options.file, access);
}

}  // namespace cloister::cli
