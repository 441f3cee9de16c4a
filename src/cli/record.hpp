// The two ways of `cloister record`: into a trace goes what a program records that runs, or one that is started for it.
#pragma once

#include <string>
#include <vector>

#include "cli/segment.hpp"
#include "recorder/extract.hpp"

namespace cloister::cli {

struct RecordOptions : SegmentOptions {
    std::string duration;
    std::vector<std::string> events;  // -e: what is enabled meanwhile
    bool list = false, overwrite = false;
    unsigned sub_buffers = 32, sub_buffer_bytes = 128U << 10;
    std::vector<std::string> command;

    // All of -e, as CLOISTER_TRACE has it.
    [[nodiscard]] std::string entries() const;
    // The process whose segment it is, as this one sees it.
    [[nodiscard]] pid_t owner(const recorder::Segment& segment) const;
};

// Adds what one turn of a drain has come to.
void add_to(recorder::Extracted& sum, const recorder::Extracted& part);
// What was left out, if anything, as lines for a person.
[[nodiscard]] std::string shortcomings(const recorder::Extracted& all);

// Until the command has ended; its exit status.
[[nodiscard]] int record_command(const RecordOptions& options);

}  // namespace cloister::cli
