// Looks into the memory that examples/recorder/engine.cpp records into, while that runs: how many orders are there now,
// from when to when, and at which prices. No event is copied, and the engine does not notice.
//
//     engine DIRECTORY 60 &
//     analyser PID              or the path of a segment's file, also of a program that is dead
#include <algorithm>
#include <cloister/segment.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

namespace {

namespace core = cloister::core;
using cloister::record::EventHeader;
using cloister::record::SegmentView;

struct Orders {
    std::uint64_t count = 0, first = std::numeric_limits<std::uint64_t>::max(), last = 0;  // TSC
    double lowest = std::numeric_limits<double>::max(), highest = 0;

    void add(const Orders& other) {
        count += other.count;
        first = std::min(first, other.first);
        last = std::max(last, other.last);
        lowest = std::min(lowest, other.lowest);
        highest = std::max(highest, other.highest);
    }
};

// engine:order {uint64 id, double price, string venue}, engine:slow {uint64 id, uint64 ns}: CLOISTER_EVENT in engine.cpp.
struct Ids {
    std::uint32_t order = UINT32_MAX, slow = UINT32_MAX;
};

// The events of one sub-buffer, where they lie. False: it holds what these classes do not have.
bool read(const core::SubBuffer& at, const Ids& ids, Orders& out) {
    std::uint64_t time = at.begin;
    std::size_t place = core::kPacketHeader;
    while (place < at.content) {
        EventHeader event;
        const std::size_t left = at.content - place;
        if (!cloister::record::read_header(at.data + place, left, time, event)) return false;
        const core::u8* const payload = at.data + place + event.bytes;
        const std::size_t room = left - event.bytes;
        std::size_t size = 16;
        if (room < size || (event.id != ids.order && event.id != ids.slow)) return false;
        if (event.id == ids.order) {
            double price = 0;
            std::memcpy(&price, payload + 8, sizeof price);
            const void* const end = std::memchr(payload + 16, 0, room - 16);
            if (!end) return false;
            size = static_cast<std::size_t>(static_cast<const core::u8*>(end) + 1 - payload);
            out.add({1, event.time, event.time, price, price});
        }
        time = event.time;
        place = (place + event.bytes + size + 3) / 4 * 4;
    }
    return true;
}

int failed(const std::string& error) {
    std::fputs(error.c_str(), stderr);
    return 2;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) return failed("usage: analyser PID|FILE\n");
    SegmentView segment;
    const int pid = std::atoi(argv[1]);
    if (const auto opened = pid > 0 ? segment.open_process(pid) : segment.open(argv[1]); !opened)
        return failed(opened.error);
    std::vector<SegmentView::Class> classes;
    if (const auto known = segment.read_classes(classes); !known) return failed(known.error);
    Ids ids;
    for (const auto& one : classes) {
        if (one.name == "engine:order") ids.order = one.id;
        if (one.name == "engine:slow") ids.slow = one.id;
    }
    if (ids.order == UINT32_MAX) return failed("this is not the memory of the example's engine\n");

    Orders all;
    std::size_t overwritten = 0;
    for (std::uint32_t cpu = 0; cpu < segment.cpus(); ++cpu) {
        for (std::uint32_t i = 0; i < segment.shape(0).slots; ++i) {
            const core::u8* const lane = segment.lane(0, cpu);
            core::SubBuffer at;
            if (!core::look(lane, segment.shape(0), i, at)) continue;
            Orders found;
            const bool understood = read(at, ids, found);
            // What was read counts only if nobody has written over it meanwhile.
            if (!core::still(lane, segment.shape(0), at))
                ++overwritten;
            else if (!understood)
                return failed("events that the engine does not write\n");
            else
                all.add(found);
        }
    }
    if (all.count == 0) return failed("no orders yet\n");
    std::printf("%llu orders within %.3f ms, at prices from %.2f to %.2f; %zu sub-buffers were overwritten meanwhile\n",
                static_cast<unsigned long long>(all.count),
                static_cast<double>(all.last - all.first) / segment.frequency() * 1e3, all.lowest, all.highest,
                overwritten);
}
