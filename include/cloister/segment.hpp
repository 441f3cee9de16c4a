// For analysers: the memory that another process records into, read in place, without a copy.
//
//     cloister::record::SegmentView segment;
//     if (const auto opened = segment.open_process(pid); !opened) ...       // or open(path), also of a dead program
//     for (std::uint32_t cpu = 0; cpu < segment.cpus(); ++cpu) {
//         const auto* lane = segment.lane(0, cpu);
//         for (std::uint32_t i = 0; i < segment.shape(0).slots; ++i) {
//             cloister::core::SubBuffer at;                                      // core/lane_reader.hpp
//             if (!cloister::core::look(lane, segment.shape(0), i, at)) continue;
//             // read the events in [at.data + core::kPacketHeader, at.data + at.content) where they lie
//             if (!cloister::core::still(lane, segment.shape(0), at)) ...   // overwritten meanwhile: not to be used
//         }
//     }
//
// Everything in the header of the segment is checked when it is opened, and not looked at again: its owner may write
// what it likes afterwards. A segment without a path cannot shrink; one with a path can be cut by who owns the file,
// and reading it then raises SIGBUS. Nothing is written, and no writer waits: pace yourself, since a reader that spins
// on a lane's words slows its writer down. Events of threads without restartable sequences lie in the spill lane, which
// core/spill_reader.hpp reads. Layout: docs/format.md. Link with cloister::record. Not async-signal-safe.
#pragma once

#include <cloister/core/lane_reader.hpp>
#include <cloister/record.hpp>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace cloister::record {

class SegmentView {
public:
    SegmentView();
    ~SegmentView();
    SegmentView(const SegmentView&) = delete;
    SegmentView& operator=(const SegmentView&) = delete;

    // The error says what of it is wrong, and at which offset. One that is open already is closed first.
    Outcome open(const std::string& path);
    Outcome open_process(int pid);  // of the same user, or as root; its memfd

    // Of what is open. channel < channels(), cpu < cpus().
    [[nodiscard]] std::size_t channels() const;
    [[nodiscard]] const std::string& name(std::size_t channel) const;
    [[nodiscard]] const core::Shape& shape(std::size_t channel) const;
    [[nodiscard]] std::uint32_t cpus() const;
    [[nodiscard]] const core::u8* lane(std::size_t channel, std::uint32_t cpu) const;

    // An event class that has been declared so far: an event carries its id. `text` is its declaration in TSDL.
    struct Class {
        std::size_t channel = 0;
        std::uint32_t id = 0;
        std::string name, text;
    };
    // Adds those that have come since the last call. A class is there before its first event.
    Outcome read_classes(std::vector<Class>& classes);

    // Cycles of the TSC in a second, as far as the segment's two readings of the clocks say.
    [[nodiscard]] double frequency() const;

private:
    struct Opened;
    std::unique_ptr<Opened> opened_;
};

// An event's header, taken apart.
struct EventHeader {
    std::uint32_t id = 0;
    std::uint32_t bytes = 0;  // of the header: the payload begins behind it, as <cloister/trace.h> has it
    std::uint64_t time = 0;   // TSC
};
// `at`: where an event begins, `left` bytes before the end of the content. `before`: the time of the event before it in
// the sub-buffer, or when that began. False: no whole header. The next event begins at the first multiple of 4 behind
// the payload, counted from the sub-buffer's begin. Async-signal-safe.
[[nodiscard]] inline bool read_header(const core::u8* at, std::size_t left, std::uint64_t before, EventHeader& out) {
    std::uint32_t word = 0;
    if (left < core::kShortHeader) return false;
    std::memcpy(&word, at, sizeof word);
    out.id = word & core::kCompactIds;
    if (out.id != core::kCompactIds) {
        constexpr std::uint64_t kMask = (std::uint64_t{1} << core::kTimeBits) - 1;
        out.bytes = core::kShortHeader;
        out.time = before + (((word >> (32 - core::kTimeBits)) - before) & kMask);
        return true;
    }
    if (left < core::kLongHeader) return false;
    out.bytes = core::kLongHeader;
    std::memcpy(&out.id, at + 4, sizeof out.id);
    std::memcpy(&out.time, at + 8, sizeof out.time);
    return true;
}

}  // namespace cloister::record
