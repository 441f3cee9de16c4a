// A lane for each CPU in ordinary memory, and events that carry what checks them.
#pragma once

#include <sys/mman.h>
#include <sys/rseq.h>

#include <array>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "cloister/core/lane_reader.hpp"
#include "cloister/core/lane_writer.hpp"

namespace cloister::core::test {

constexpr u32 kPair = 5;   // id of an event of {thread, counter}
constexpr u32 kWide = 40;  // the same with an id that needs the long header

class Lanes {
public:
    explicit Lanes(const Shape& shape_, u32 cpus = 4) : shape(shape_), cpus_(cpus) {
        cloister_rseq_offset = __rseq_offset;
        // Between pages that nobody may touch.
        bytes_ = shape.bytes() * cpus;
        void* memory = mmap(nullptr, bytes_ + 2 * kPage, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        EXPECT_NE(memory, MAP_FAILED);
        base_ = static_cast<u8*>(memory) + kPage;
        EXPECT_EQ(mprotect(base_, bytes_, PROT_READ | PROT_WRITE), 0);
        EXPECT_EQ(madvise(base_, bytes_, MADV_POPULATE_WRITE), 0);
        view = view_of(shape, reinterpret_cast<u64>(base_), shape.bytes(), cpus);
    }
    Lanes(const Lanes&) = delete;
    Lanes& operator=(const Lanes&) = delete;
    ~Lanes() { munmap(base_ - kPage, bytes_ + 2 * kPage); }

    [[nodiscard]] u8* lane(u32 cpu) const { return base_ + shape.bytes() * cpu; }
    [[nodiscard]] u32 cpus() const { return cpus_; }
    [[nodiscard]] Descriptor* descriptor(u32 cpu, u32 d) const {
        return reinterpret_cast<Descriptor*>(lane(cpu) + shape.descriptor(d));
    }

    Shape shape;
    View view;

private:
    u32 cpus_;
    u8* base_ = nullptr;
    std::size_t bytes_ = 0;
};

struct Event {
    u32 id;
    u64 time, thread, counter;
};

// Decodes events of {thread, counter}, followed by `counter % 5` times 8 bytes that repeat the low byte of the counter
// where `staged`. Every inconsistency is a failure of the test.
inline std::vector<Event> decode(const SubBuffer& at, const u8* data, bool staged = false) {
    std::vector<Event> out;
    u64 time = at.begin;
    for (u32 pos = kPacketHeader; pos < at.content;) {
        const auto word = [&](u32 offset, auto& to) { std::memcpy(&to, data + pos + offset, sizeof to); };
        Event event{};
        u32 header = 0;
        word(0, header);
        event.id = header & 31;
        u32 size = kShortHeader;
        if (event.id == 31) {
            size = kLongHeader;
            word(4, event.id);
            word(8, event.time);
        } else {
            const u64 low = header >> 5, mask = (1U << kTimeBits) - 1;
            event.time = (time & ~mask) | low;
            if (event.time < time) event.time += mask + 1;
        }
        EXPECT_GE(event.time, time) << "of sub-buffer " << at.number << " at " << pos;
        if (at.end) {
            EXPECT_LE(event.time, at.end) << "of sub-buffer " << at.number << " at " << pos;
        }
        time = event.time;
        word(size, event.thread);
        word(size + 8, event.counter);
        size += 16;
        for (u64 n = staged ? event.counter % 5 : 0; n > 0; --n, size += 8) {
            for (u32 b = 0; b < 8; ++b) EXPECT_EQ(data[pos + size + b], static_cast<u8>(event.counter));
        }
        out.push_back(event);
        pos += size;
        if (testing::Test::HasFailure()) return out;
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
