// From a spill lane to a stream of a trace. Unlike lanes', its events are not in CTF: the stream is made here, with the
// lane behind the last CPU's as its instance and no CPU (ctf::kNoCpu).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/error.hpp"
#include "cloister/core/spill_reader.hpp"
#include "ctf/encoder.hpp"
#include "ctf/trace_writer.hpp"

namespace cloister::recorder {

struct Extracted;

// A sub-buffer as it was.
struct SpillCopy {
    core::SpillState state;
    std::uint32_t holes = 0;  // events that are missing in it: their writers have not committed them
    std::vector<core::u64> cells;
};

// None if there is nothing in it, or if it was overwritten meanwhile, which is counted.
[[nodiscard]] std::optional<SpillCopy> copy_spill(const core::u8* lane, const core::SpillShape& shape,
                                                  std::uint32_t index, Extracted& extracted);

// The newest unbroken run of sub-buffers, oldest first.
[[nodiscard]] std::vector<SpillCopy> copy_spill(const core::u8* lane, const core::SpillShape& shape,
                                                Extracted& extracted);

// Makes packets of copies: in the order in which they are given, time never goes down and every loss lies between the
// events that it separates.
class SpillStream {
public:
    // `since`: cycles; no event is older.
    SpillStream(std::uint32_t channel, std::uint64_t lane, std::uint64_t since)
        : channel_(channel), lane_(lane), last_(since) {}

    [[nodiscard]] Result<void> write(ctf::TraceWriter& trace, const SpillCopy& copy, Extracted& extracted);
    // What was lost after the last event, if anything was. `lost`: of the lane, read before its last copy was made.
    [[nodiscard]] Result<void> finish(ctf::TraceWriter& trace, std::uint64_t lost, Extracted& extracted);

private:
    [[nodiscard]] Result<void> flush(ctf::TraceWriter& trace, Extracted& extracted);

    std::uint32_t channel_;
    std::uint64_t lane_, last_;  // last_: time of the last event
    ctf::Encoder encoder_;
    std::uint32_t expected_ = 0;                     // number of the sub-buffer after the last; 0: none was there
    std::uint64_t sequence_ = 0;                     // of the next packet
    std::uint64_t lost_ = 0, holes_ = 0, told_ = 0;  // of the lane; in its sub-buffers; both, in the last packet
};

}  // namespace cloister::recorder
