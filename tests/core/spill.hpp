// A spill lane in ordinary memory, without lanes before it: every thread writes to it.
#pragma once

#include "cloister/core/spill_reader.hpp"
#include "lane.hpp"

namespace cloister::core::test {

class Spill {
public:
    // Between pages that nobody may touch, and shared with children of a fork.
    explicit Spill(const Shape& shape_) : mode(shape_.mode), shape{shape_.slots, shape_.size} {
        void* memory = mmap(nullptr, shape.bytes() + 2 * kPage, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        lane = static_cast<u8*>(memory) + kPage;
        if (memory == MAP_FAILED || mprotect(lane, shape.bytes(), PROT_READ | PROT_WRITE) != 0) std::abort();
        view = view_of(shape_, reinterpret_cast<u64>(lane), shape_.bytes(), 0, true);
    }
    Spill(const Spill&) = delete;
    Spill& operator=(const Spill&) = delete;
    ~Spill() { munmap(lane - kPage, shape.bytes() + 2 * kPage); }

    void clear() const { std::memset(lane, 0, shape.bytes()); }
    [[nodiscard]] u64 active() const { return active_of(lane).number(); }
    [[nodiscard]] SpillState state(u32 i) const { return spill_state_of(lane, shape, i); }
    [[nodiscard]] u64& word(u64 offset) const { return *reinterpret_cast<u64*>(lane + offset); }

    Mode mode;
    SpillShape shape;
    u8* lane = nullptr;
    View view;
};

// What a sub-buffer held when it was copied: events of {source, counter} and (source >> 8) times 4 bytes that repeat
// the counter's low byte.
struct SpillContent {
    u32 number = 0, holes = 0;
    bool closed = false;
    std::vector<Event> events;
    std::string wrong;  // the first thing that cannot be
};

// `index` of it; number 0 if there is nothing, or it was overwritten meanwhile.
inline SpillContent copy_of(const Spill& spill, u32 index) {
    SpillContent out;
    std::vector<u64> copy(spill.shape.size / 8);
    SpillState state;
    do {
        state = spill.state(index);
        if (state.number() == 0) return out;
        copy_spill(spill.lane, spill.shape, index, state, copy.data());
        if (!spill_still(spill.lane, index, state)) return out;
    } while (state.closed() && !(spill.state(index) == state));
    out.number = state.number();
    out.holes = spill_holes(copy.data(), state);
    out.closed = state.closed();
    u64 time = 0, lost = 0;
    SpillEvent event;
    for (u32 cell = 0; next_spill_event(copy.data(), state, cell, event); cell = event.cell + event.cells) {
        const auto wrong = [&](const char* what) {
            out.wrong = fmt::format("sub-buffer {}, cell {} of {}: {}", out.number, event.cell, state.used(), what);
            return out;
        };
        std::array<u8, kMaxEvent> payload{};
        spill_payload(copy.data(), event, payload.data());
        Event decoded{.id = event.id, .time = event.time};
        std::memcpy(&decoded.thread, payload.data(), 8);
        std::memcpy(&decoded.counter, payload.data() + 8, 8);
        if (event.id != kPair && event.id != kWide) return wrong("no event of ours");
        if (event.time < time) return wrong("time goes back");
        if (event.lost < lost) return wrong("losses go back");
        if (event.bytes != 16 + (decoded.thread >> 8) * 4) return wrong("another length");
        for (u32 i = 16; i < event.bytes; ++i)
            if (payload[i] != static_cast<u8>(decoded.counter)) return wrong("torn");
        time = event.time;
        lost = event.lost;
        out.events.push_back(decoded);
    }
    return out;
}

// All that is in it now, oldest first; `wrong` of the first says if time goes back from one to the next.
inline std::vector<SpillContent> contents(const Spill& spill) {
    std::map<u32, SpillContent> found;
    for (u32 i = 0; i < spill.shape.slots; ++i)
        if (SpillContent content = copy_of(spill, i); content.number != 0)
            if (!spill.state(i).taken()) found[content.number] = std::move(content);
    std::vector<SpillContent> out;
    u64 time = 0;
    for (auto& [number, content] : found) {
        if (!content.events.empty() && content.wrong.empty()) {
            if (content.events.front().time < time) content.wrong = fmt::format("{}: time goes back", number);
            time = content.events.back().time;
        }
        out.push_back(std::move(content));
    }
    return out;
}

}  // namespace cloister::core::test
