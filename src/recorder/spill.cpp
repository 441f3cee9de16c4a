#include "recorder/spill.hpp"

#include <algorithm>
#include <array>
#include <span>

#include "recorder/extract.hpp"

namespace cloister::recorder {

std::optional<SpillCopy> copy_spill(const core::u8* lane, const core::SpillShape& shape, std::uint32_t index,
                                    Extracted& extracted) {
    // Each round that ends with another word than it began with has seen a writer commit, or reserve, which in a closed
    // sub-buffer none does any more. Of one that is open, what is written while it is copied need not be there.
    constexpr std::uint32_t kRoundsOfOpen = 16, kRoundsOfClosed = core::kMostSpillWriters + 1;
    SpillCopy out;
    out.holes = core::kMostSpillWriters;
    for (std::uint32_t round = 0; round < (out.state.closed() ? kRoundsOfClosed : kRoundsOfOpen); ++round) {
        out.state = core::spill_state_of(lane, shape, index);
        if (out.state.number() == 0) return std::nullopt;
        out.cells.resize(std::size_t{out.state.used()} * (core::kSpillCell / 8));
        core::copy_spill(lane, shape, index, out.state, out.cells.data());
        if (!core::spill_still(lane, index, out.state)) {
            ++extracted.overwritten;
            return std::nullopt;
        }
        const core::SpillState after = core::spill_state_of(lane, shape, index);
        // Those that were in flight all the while.
        out.holes = std::min({out.holes, after.writers(), core::spill_holes(out.cells.data(), out.state)});
        if (after == out.state) break;
    }
    return out;
}

std::vector<SpillCopy> copy_spill(const core::u8* lane, const core::SpillShape& shape, Extracted& extracted) {
    struct Found {
        std::uint32_t number, index;
    };
    std::vector<Found> found;
    for (std::uint32_t i = 0; i < shape.slots; ++i) {
        const core::SpillState state = core::spill_state_of(lane, shape, i);
        if (state.number() != 0 && !state.taken()) found.push_back({state.number(), i});
    }
    const auto newest = static_cast<std::uint32_t>(core::active_of(lane).number());
    std::ranges::sort(found, {}, [&](const Found& one) { return core::spill_distance(one.number, newest); });
    std::vector<SpillCopy> run;
    for (const auto& [number, index] : found) {
        auto copy = copy_spill(lane, shape, index, extracted);
        // One that is missing in between: overwritten just now, or kept from being so by a writer that sleeps in it.
        if (!copy || (!run.empty() && copy->state.number() != core::next_spill_number(run.back().state.number())))
            run.clear();
        if (copy) run.push_back(std::move(*copy));
    }
    return run;
}

Result<void> SpillStream::flush(ctf::TraceWriter& trace, Extracted& extracted) {
    const bool empty = encoder_.events().empty();
    told_ = lost_ + holes_;
    const ctf::PacketInfo info{.stream_id = channel_,
                               .stream_instance = lane_,
                               .timestamp_begin = empty ? last_ : encoder_.first(),
                               .timestamp_end = last_,
                               .sequence_number = sequence_++,
                               .events_discarded = told_,
                               .cpu = ctf::kNoCpu};
    if (auto ok = trace.write(info, encoder_.events()); !ok) return ok;
    ++extracted.packets;
    extracted.bytes += encoder_.events().size();
    encoder_.clear();
    return {};
}

Result<void> SpillStream::write(ctf::TraceWriter& trace, const SpillCopy& copy, Extracted& extracted) {
    const std::uint32_t number = copy.state.number();
    if (expected_ != 0) sequence_ += static_cast<std::uint32_t>(std::max(0, core::spill_distance(number, expected_)));
    expected_ = core::next_spill_number(number);
    std::array<core::u8, core::kMaxEvent> payload;
    core::SpillEvent event;
    for (std::uint32_t cell = 0; core::next_spill_event(copy.cells.data(), copy.state, cell, event);
         cell = event.cell + event.cells) {
        if (event.lost > lost_) {
            if (!encoder_.events().empty())
                if (auto ok = flush(trace, extracted); !ok) return ok;
            lost_ = event.lost;
        }
        // Where the clock has gone back with the machine (a virtual one that was moved), it stands still for a while.
        last_ = std::max(last_, event.time);
        encoder_.event(event.id, last_);
        core::spill_payload(copy.cells.data(), event, payload.data());
        encoder_.put_array(std::span<const core::u8>(payload.data(), event.bytes));
    }
    holes_ += copy.holes;
    return encoder_.events().empty() ? Result<void>{} : flush(trace, extracted);
}

Result<void> SpillStream::finish(ctf::TraceWriter& trace, std::uint64_t lost, Extracted& extracted) {
    lost_ = std::max(lost_, lost);
    return lost_ + holes_ > told_ ? flush(trace, extracted) : Result<void>{};
}

}  // namespace cloister::recorder
