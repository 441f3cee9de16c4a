// Which segment a command is about: --pid PID or FILE, which of its channels, and where its trace goes.
#pragma once

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/error.hpp"
#include "recorder/segment.hpp"

namespace cloister::cli {

struct SegmentOptions {
    int pid = 0;
    std::string file, directory;
    std::vector<std::string> channels;  // none: all
};

// --pid, FILE and --channel; and -o.
void add_source(CLI::App& parser, SegmentOptions& options);
CLI::Option* add_output(CLI::App& parser, SegmentOptions& options);
// Errors: both or neither were given, and those of recorder::Segment. A file that is cut from here on ends the command.
[[nodiscard]] Result<recorder::Segment> open_segment(const SegmentOptions& options, recorder::Segment::Access access);

}  // namespace cloister::cli
