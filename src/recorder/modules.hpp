// Where the program and its libraries lie in memory, for call stacks: an address says nothing without.
//
// Each executable segment of a module is an event of the class cloister:module, {start, bytes, offset in the file, path,
// build id}; it holds until another one is noted that covers the same addresses. They lie in the segment beside the event
// classes, as those of a lane would be overwritten, and become a stream of their own in a trace.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ctf/encoder.hpp"
#include "ctf/schema.hpp"
#include "recorder/segment.hpp"

namespace cloister::recorder {

struct Module {
    std::uint64_t start = 0, bytes = 0, offset = 0;  // of an executable segment; offset: in the file
    std::string path;                                // absolute; "[vdso]"; "" for a file that has no name
    std::vector<std::uint8_t> build_id;              // empty: it has none
    bool operator==(const Module&) const = default;
};

// Those of this process, now. Not async-signal-safe.
[[nodiscard]] std::vector<Module> loaded_modules();

// Which of the modules are in the segment already.
class ModuleLog {
public:
    // Appends those that have come since the last call. A module that was noted at a place and has been replaced there
    // by another in between is noted again. Errors: those of Segment::append_module; what had room is noted.
    [[nodiscard]] Result<void> note(Segment& segment);

private:
    std::uint64_t loaded_ = 0;   // how many the program had loaded by then, ever
    std::vector<Module> noted_;  // none covers another
};

// The stream of the modules in a trace: kModulesStream, behind all channels.
inline constexpr std::uint32_t kModulesStreamId = kMostChannels;
[[nodiscard]] ctf::EventClass module_class();
// An event of a record's text (Segment::Class), not before `not_before`; false: it is none.
[[nodiscard]] bool encode_module(std::string_view record, std::uint64_t not_before, ctf::Encoder& encoder);

}  // namespace cloister::recorder
