// libFuzzer: any bytes in a segment, written there before it is opened and while it is read. What comes of it is read as
// a trace, too.
//
// The input is a list of patches to a small whole segment. So whatever the fuzzer changes, the rest of the segment still
// leads the reader on; and when the format changes, the corpus is still about it.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "ctf/metadata_text.hpp"
#include "ctf/trace.hpp"
#include "recorder/extract.hpp"
#include "recorder/recorder.hpp"
#include "scratch.hpp"

using namespace cloister;
using recorder::Segment;

namespace {

[[noreturn]] void give_up(const std::string& what) {
    std::fputs(what.c_str(), stderr);
    std::abort();
}

struct Area {
    std::size_t begin, bytes;
};

// A segment of two channels, both of which have been written to beyond a lap, and what in it steers its readers.
struct Original {
    std::vector<std::byte> bytes;
    std::vector<Area> areas;
};

Original make_original() {
    using recorder::Recorder;
    auto made = Recorder::create({.path = {},
                                  .channels = {{"over", {.slots = 2, .size = 4096, .mode = core::Mode::overwrite}},
                                               {"disc", {.slots = 2, .size = 4096, .mode = core::Mode::discard}}}});
    if (!made) give_up(made.error().text());
    Recorder& recorder = **made;
    Original out;
    for (std::uint32_t channel = 0; channel < 2; ++channel) {
        ctf::EventClass event{.name = "fuzz:pair", .id = 1, .stream_id = channel, .fields = {}};
        event.fields = {ctf::Field::of_integer("a", {64, false, 10}), ctf::Field::of_integer("b", {64, false, 10})};
        if (auto ok = recorder.declare(channel, 1, ctf::event_text(event)); !ok) give_up(ok.error().text());
        for (std::uint64_t n = 0; n < 700; ++n) (void)core::write_pair(recorder.view(channel), 1, n, ~n);
    }
    const Segment& segment = recorder.segment();
    out.areas = {{0, sizeof(recorder::SegmentHeader)}, {recorder::kClasses, segment.classes_end()}};
    for (const auto& channel : segment.channels())
        for (std::uint32_t cpu = 0; cpu < segment.cpus(); ++cpu) {
            const std::size_t lane = channel.lanes + channel.stride * cpu;
            if (core::Active{*reinterpret_cast<const core::u64*>(segment.base() + lane)}.number() == 0) continue;
            out.areas.push_back({lane, channel.shape.drained() + core::kLine});
            out.areas.push_back({lane + channel.shape.buffer(0), channel.shape.descriptors() * channel.shape.size});
        }
    const auto* begin = reinterpret_cast<const std::byte*>(segment.base());
    out.bytes.assign(begin, begin + segment.header().bytes);
    return out;
}

// As a reader does: everything in it, and nothing of it is trusted.
void read_trace(const std::string& directory) {
    const auto trace = ctf::Trace::open(directory);
    if (!trace) return;
    for (const auto& stream : trace->streams()) {
        ctf::Cursor cursor(stream);
        std::vector<ctf::Value> values;
        for (auto step = cursor.next(); step == ctf::Cursor::Step::event || step == ctf::Cursor::Step::loss;
             step = cursor.next())
            if (step == ctf::Cursor::Step::event) (void)cursor.fields(values);
    }
}

// As it lies in the input, without padding.
struct [[gnu::packed]] Patch {
    std::uint8_t area;    // 0 to 127: which, of those that there are; 128 more: not before it has been opened
    std::uint8_t bytes;   // of the value, less one, modulo 8
    std::uint16_t place;  // in the area, modulo its size
    std::uint64_t value;
};

void apply(int fd, const Original& original, std::span<const Patch> patches, bool opened) {
    for (const Patch patch : patches) {
        if (opened != (patch.area >= 128)) continue;
        const Area& area = original.areas[patch.area % 128 % original.areas.size()];
        const std::size_t at = area.begin + patch.place % area.bytes;
        const std::size_t bytes = std::min<std::size_t>(patch.bytes % 8 + 1, original.bytes.size() - at);
        if (pwrite(fd, &patch.value, bytes, static_cast<off_t>(at)) < 0) give_up("pwrite");
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const Original original = make_original();
    static const tests::Scratch folder = tests::Scratch::in_memory();
    static const int fd = memfd_create("fuzz", MFD_CLOEXEC);
    static const std::string path = "/proc/self/fd/" + std::to_string(fd);

    std::vector<Patch> patches(size / sizeof(Patch));
    if (!patches.empty()) std::memcpy(patches.data(), data, patches.size() * sizeof(Patch));
    const auto reset = [&] {
        if (pwrite(fd, original.bytes.data(), original.bytes.size(), 0) != static_cast<ssize_t>(original.bytes.size()))
            give_up("pwrite");
        apply(fd, original, patches, false);
    };
    const std::string copied = folder / "snapshot", drained = folder / "drain";

    reset();
    if (const auto segment = Segment::open(path, Segment::Access::read)) {
        apply(fd, original, patches, true);
        (void)recorder::preamble_of(*segment, {});
        (void)recorder::snapshot(*segment, copied);
        read_trace(copied);
        std::filesystem::remove_all(copied);
    }
    reset();
    if (auto segment = Segment::open(path, Segment::Access::drain)) {
        if (auto drain = recorder::Drain::begin(std::move(*segment), drained)) {
            (void)drain->run();
            apply(fd, original, patches, true);
            (void)drain->run();
            (void)drain->finish();
        }
        read_trace(drained);
        std::filesystem::remove_all(drained);
    }
    return 0;
}
