// From a segment to a trace: snapshots, and the drain.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "ctf/layout.hpp"
#include "ctf/trace_writer.hpp"
#include "recorder/segment.hpp"
#include "recorder/spill.hpp"

namespace cloister::recorder {

// Which channels of a segment: their names; none for all of them. Errors: a name that no channel has.
using ChannelNames = std::vector<std::string>;
[[nodiscard]] Result<std::vector<std::size_t>> choose_channels(const Segment& segment, const ChannelNames& names);

// The beginning of a trace of this segment: its clock, its channels, whose it is.
[[nodiscard]] ctf::Preamble preamble_of(const Segment& segment, const std::vector<std::size_t>& channels);

// What is not an event of a lane: classes, as metadata, and modules, as a stream of their own. Each call adds those that
// have come since the last one.
class Declarations {
public:
    explicit Declarations(std::vector<std::size_t> channels) : channels_(std::move(channels)) {}
    // No module is stated before `not_before`, so that those of long ago do not make the trace begin there.
    [[nodiscard]] Result<void> add(ctf::TraceWriter& trace, const Segment& segment, std::uint64_t not_before);

private:
    std::vector<std::size_t> channels_;
    std::size_t known_ = 0;  // bytes of records that are in the trace already
    std::uint64_t module_packets_ = 0, last_module_ = 0;
};

// How its events are read: what the metadata of such a trace says, with the classes that are declared now.
[[nodiscard]] Result<std::shared_ptr<const ctf::TraceLayout>> layout_of(const Segment& segment);

struct Extracted {
    std::uint64_t packets = 0, bytes = 0;  // of events
    std::uint64_t overwritten = 0;         // sub-buffers that were overwritten while they were copied
    std::uint64_t broken = 0;  // lanes whose words cannot be (a hostile or dying peer); left out from there on
};

// Copies what is in all lanes now into a trace, spill lanes included: one unbroken run of sub-buffers for each that
// ends with what was committed when its turn came. Writers run on; nothing in the segment is changed. `progress` is
// told how many packets of how many have been written. Errors: those of the trace writer, no such channel.
using Told = std::function<void(std::size_t done, std::size_t all)>;
[[nodiscard]] Result<Extracted> snapshot(const Segment& segment, const std::string& directory,
                                         const ChannelNames& channels = {}, const Told& progress = {});

// Takes full sub-buffers away as they come and writes them to a trace. One at a time for each channel: a lock on the
// file sees to that.
class Drain {
public:
    // Errors: another drain is at work, no such channel, those of TraceWriter::create.
    [[nodiscard]] static Result<Drain> begin(Segment segment, const std::string& directory,
                                             const ChannelNames& channels = {});

    // Everything that is full now. Call it often enough: a lane holds N sub-buffers.
    [[nodiscard]] Result<Extracted> run();
    // The end: what is full and what is still open, and closes the trace. The program may go on, but what it writes
    // into the sub-buffers that were open is not in this trace.
    [[nodiscard]] Result<Extracted> finish();

    [[nodiscard]] const Segment& segment() const { return *segment_; }

private:
    explicit Drain(Segment segment, ctf::TraceWriter trace, std::vector<std::size_t> channels);
    [[nodiscard]] Result<void> run_spill(std::size_t channel, Extracted& extracted);
    [[nodiscard]] Result<void> finish_spill(std::size_t channel, Extracted& extracted);

    std::unique_ptr<Segment> segment_;
    ctf::TraceWriter trace_;
    std::vector<SpillStream> spills_;  // of each channel
    std::vector<std::size_t> channels_;
    Declarations declarations_;
};

}  // namespace cloister::recorder
