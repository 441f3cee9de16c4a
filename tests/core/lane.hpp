// A lane for each CPU in ordinary memory, and events that carry what checks them.
#pragma once

#include <sys/mman.h>
#include <sys/rseq.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "cloister/core/lane_reader.hpp"
#include "cloister/core/lane_writer.hpp"

namespace cloister::core::test {

constexpr u32 kPair = 5;   // id of an event of {thread, counter}
constexpr u32 kWide = 40;  // the same with an id that needs the long header

class Lanes {
public:
    // Between pages that nobody may touch.
    explicit Lanes(const Shape& shape_, u32 cpus = 4) : shape(shape_), cpus_(cpus), bytes_(shape_.bytes() * cpus) {
        cloister_rseq_offset = __rseq_offset;
        void* memory = mmap(nullptr, bytes_ + 2 * kPage, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        base_ = static_cast<u8*>(memory) + kPage;
        if (memory == MAP_FAILED || mprotect(base_, bytes_, PROT_READ | PROT_WRITE) != 0 ||
            madvise(base_, bytes_, MADV_POPULATE_WRITE) != 0)
            std::abort();
        view = view_of(shape, reinterpret_cast<u64>(base_), shape.bytes(), cpus);
    }
    Lanes(const Lanes&) = delete;
    Lanes& operator=(const Lanes&) = delete;
    ~Lanes() { munmap(base_ - kPage, bytes_ + 2 * kPage); }

    [[nodiscard]] u8* lane(u32 cpu) const { return base_ + shape.bytes() * cpu; }
    [[nodiscard]] u32 cpus() const { return cpus_; }
    [[nodiscard]] u64* word(u32 cpu, u64 offset) const { return reinterpret_cast<u64*>(lane(cpu) + offset); }
    [[nodiscard]] Descriptor* active_descriptor(u32 cpu) const {
        return reinterpret_cast<Descriptor*>(lane(cpu) + shape.descriptor(active_of(lane(cpu)).descriptor()));
    }
    void clear(u32 cpu) const { std::memset(lane(cpu), 0, shape.buffer(0)); }

    Shape shape;
    View view;

private:
    u32 cpus_;
    u8* base_ = nullptr;
    std::size_t bytes_ = 0;
};

// What decode() checks: {thread, counter}, with `dwords` (at most 12) times 4 bytes behind them that repeat the
// counter's low byte.
struct Payload {
    std::array<u64, 8> words;
    u32 bytes;
};
inline Payload payload_of(u64 thread, u64 counter, u32 dwords) {
    Payload out{.words = {}, .bytes = 16 + 4 * dwords};
    out.words.fill(0x0101010101010101ULL * static_cast<u8>(counter));
    out.words[0] = thread | u64{dwords} << 8;
    out.words[1] = counter;
    return out;
}

struct Event {
    u32 id = 0;
    u64 time = 0, thread = 0, counter = 0;
};
struct Decoded {
    std::vector<Event> events;
    std::string wrong;  // the first thing that cannot be
};

// Events of {thread, counter}, followed by (thread >> 8) times 4 bytes that repeat the counter's low byte.
inline Decoded decode(const SubBuffer& at) {
    Decoded out;
    u64 time = at.begin;
    for (u32 pos = kPacketHeader; pos < at.content;) {
        const auto wrong = [&](const char* what) {
            out.wrong = fmt::format("sub-buffer {} at {} of {}: {}", at.number, pos, at.content, what);
            return out;
        };
        const auto word = [&](u32 offset, auto& to) { std::memcpy(&to, at.data + pos + offset, sizeof to); };
        Event event;
        u32 header = 0, size = kShortHeader;
        word(0, header);
        event.id = header & 31;
        if (event.id == 31) {
            size = kLongHeader;
            word(4, event.id);
            word(8, event.time);
        } else {
            const u64 low = header >> 5, mask = (1U << kTimeBits) - 1;
            event.time = (time & ~mask) | low;
            if (event.time < time) event.time += mask + 1;
        }
        if (event.id != kPair && event.id != kWide) return wrong("no event of ours");
        if (event.time < time) return wrong("time goes back");
        if (at.end && event.time > at.end) return wrong("time is after the end");
        // The short form's reconstruction must not have wrapped without cause: 2^27 cycles are some tens of
        // milliseconds.
        if (!at.end && event.time > __builtin_ia32_rdtsc()) return wrong("time is in the future");
        time = event.time;
        word(size, event.thread);
        word(size + 8, event.counter);
        size += 16;
        for (u64 n = (event.thread >> 8) * 4; n > 0 && pos + size < at.content; --n, ++size)
            if (at.data[pos + size] != static_cast<u8>(event.counter)) return wrong("torn");
        out.events.push_back(event);
        pos += size;
        if (pos > at.content) return wrong("an event beyond the end");
        pos = padded(pos);
    }
    return out;
}

// All that is in a lane now, oldest first.
inline std::vector<SubBuffer> sub_buffers(const u8* lane, const Shape& shape) {
    std::map<u64, SubBuffer> found;
    for (u32 i = 0; i < shape.slots; ++i)
        if (SubBuffer at; look(lane, shape, i, at)) found[at.number] = at;
    std::vector<SubBuffer> out;
    for (const auto& [number, at] : found) out.push_back(at);
    return out;
}

}  // namespace cloister::core::test
