#include "recorder/extract.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstddef>
#include <cstring>

#include "cloister/core/lane_reader.hpp"
#include "ctf/metadata.hpp"
#include "ctf/metadata_text.hpp"
#include "recorder/modules.hpp"
#include "system/files.hpp"

namespace cloister::recorder {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;   // in ns
constexpr double kSlowest = 1e6, kFastest = 1e10;  // Hz: any TSC lies between; kSecond * kFastest fits 64 bits

ctf::PacketInfo info_of(std::size_t channel, std::uint32_t cpu, const core::SubBuffer& at, std::uint64_t end) {
    return {.stream_id = static_cast<std::uint32_t>(channel),
            .stream_instance = cpu,
            .timestamp_begin = at.begin,
            .timestamp_end = std::max(at.begin, end),
            .sequence_number = at.number - 1,
            .events_discarded = at.lost_end,
            .cpu = cpu};
}

// An end for a sub-buffer that is still open: no event in it is later. The commit word has the high part of the last
// one.
std::uint64_t end_of_open(const core::u8* lane, const Segment::Channel& channel, const core::SubBuffer& at) {
    const core::Commit commit{core::lane_words::load(lane + channel.shape.descriptor(at.descriptor))};
    return (std::uint64_t{commit.high()} + 1) << core::kTimeBits;
}

// A sub-buffer, of which `bytes` is a copy or the place itself, as a packet.
Result<void> write_packet(ctf::TraceWriter& trace, const ctf::PacketInfo& info, std::span<const core::u8> bytes,
                          Extracted& extracted) {
    const auto events = std::as_bytes(bytes.subspan(core::kPacketHeader));
    if (auto ok = trace.write(info, events); !ok) return ok;
    ++extracted.packets;
    extracted.bytes += events.size();
    return {};
}

SpillStream spill_stream(const Segment& segment, std::size_t channel) {
    return {static_cast<std::uint32_t>(channel), segment.cpus(), segment.header().first.tsc};
}

struct Copy {
    core::SubBuffer at;
    std::uint64_t end = 0;
    std::vector<core::u8> bytes;
};

// The newest unbroken run. The oldest go first: they are the next to be overwritten.
std::vector<Copy> copy_lane(const core::u8* lane, const Segment::Channel& channel, Extracted& extracted) {
    std::vector<Copy> run;
    for (core::u32 i = 0; i < channel.shape.slots; ++i)
        if (core::SubBuffer at; core::look(lane, channel.shape, i, at)) run.push_back({at, at.end, {}});
    // One that a drain has in its hands, or died with, is in no slot.
    core::SubBuffer spare;
    const core::u32 d = core::spare_of(lane, channel.shape);
    const bool in_hand = channel.shape.mode == core::Mode::overwrite && d < channel.shape.descriptors() &&
                         core::look_at_spare(lane, channel.shape, d, spare) &&
                         spare.number > core::drained_of(lane, channel.shape);
    if (in_hand) run.push_back({spare, spare.end, {}});
    std::ranges::sort(run, {}, [](const Copy& copy) { return copy.at.number; });
    // One that was open when it was looked at, and had been closed when a later one was: it has a content and an end
    // now. Without this, the events between were missing, and an end that is only a bound lay after the next one's
    // begin.
    for (std::size_t i = 0; i + 1 < run.size(); ++i) {
        core::SubBuffer closed;
        if (!run[i].at.open || !core::look(lane, channel.shape, run[i].at.index, closed)) continue;
        // Another number: overwritten since, which `still` finds.
        if (closed.number == run[i].at.number && !closed.open) run[i] = {closed, closed.end, {}};
    }
    std::size_t first = 0;
    for (std::size_t i = 0; i < run.size(); ++i) {
        Copy& copy = run[i];
        if (copy.at.open) copy.end = end_of_open(lane, channel, copy.at);
        copy.bytes.assign(copy.at.data, copy.at.data + copy.at.content);
        const bool held = in_hand && copy.at.number == spare.number;
        const bool good =
            held ? core::drained_of(lane, channel.shape) < spare.number : core::still(lane, channel.shape, copy.at);
        extracted.overwritten += !good;
        if (!good)
            first = i + 1;
        else if (i > first && copy.at.number != run[i - 1].at.number + 1)
            first = i;  // one between was just being switched
    }
    run.erase(run.begin(), run.begin() + static_cast<std::ptrdiff_t>(first));
    return run;
}

}  // namespace

Result<std::vector<std::size_t>> choose_channels(const Segment& segment, const ChannelNames& names) {
    std::vector<std::string> there;
    for (const auto& channel : segment.channels()) there.push_back(channel.name);
    std::set<std::size_t> out;
    for (const auto& name : names) {
        const auto found = std::ranges::find(there, name);
        if (found == there.end())
            return fail({.what = fmt::format("there is no channel '{}'", name),
                         .needs = fmt::format("one of: {}", fmt::join(there, ", ")),
                         .found = name});
        out.insert(static_cast<std::size_t>(found - there.begin()));
    }
    for (std::size_t i = 0; names.empty() && i < there.size(); ++i) out.insert(i);
    return std::vector(out.begin(), out.end());
}

Result<void> Declarations::add(ctf::TraceWriter& trace, const Segment& segment, std::uint64_t not_before) {
    if (segment.classes_end() == known_) return {};
    const auto records = segment.classes(known_);
    if (!records) return tl::unexpected(records.error());
    ctf::Encoder modules;
    for (const auto& record : *records) {
        if (record.channel == kModuleRecord)
            (void)encode_module(record.text, std::max(not_before, last_module_), modules);
        else if (std::ranges::count(channels_, record.channel) != 0)
            if (auto ok = trace.add(record.channel, record.id, record.text); !ok) return ok;
        known_ = record.end;
    }
    if (modules.events().empty()) return {};
    if (module_packets_ == 0)
        if (auto ok = trace.add(module_class()); !ok) return ok;
    last_module_ = modules.last();
    return trace.write({.stream_id = kModulesStreamId,
                        .timestamp_begin = modules.first(),
                        .timestamp_end = last_module_,
                        .sequence_number = module_packets_++},
                       modules.events());
}

ctf::Preamble preamble_of(const Segment& segment, const std::vector<std::size_t>& channels) {
    const SegmentHeader& header = segment.header();
    ctf::Preamble out;
    std::copy_n(header.uuid, out.uuid.size(), out.uuid.begin());
    const ClockReading first = header.first;
    ClockReading last = header.last;
    // A program that runs may have read its clocks long ago: the longer the time between, the better the frequency.
    // After another boot the TSC has begun anew.
    const ClockReading now = read_clocks();
    if (std::ranges::equal(boot_id(), header.boot_id) && now.tsc > first.tsc && now.raw_ns > first.raw_ns) last = now;
    const double seconds = static_cast<double>(last.raw_ns - first.raw_ns) / 1e9;
    const double hz = seconds > 0 ? static_cast<double>(last.tsc - first.tsc) / seconds : 0;
    // Readings that no TSC has made (a segment that was scribbled on) must not lead beyond what the sums below hold.
    const std::uint64_t frequency =
        hz >= kSlowest && hz <= kFastest ? static_cast<std::uint64_t>(std::llround(hz)) : kSecond;
    out.clock.frequency = frequency;
    out.clock.absolute = true;
    // When the TSC was 0: `first`, as whole seconds since 1970 and cycles, less its TSC.
    const std::uint64_t cycles = first.realtime_ns % kSecond * frequency / kSecond, back = first.tsc % frequency;
    out.clock.offset_s = static_cast<std::int64_t>(first.realtime_ns / kSecond) -
                         static_cast<std::int64_t>(first.tsc / frequency) - (cycles < back);
    out.clock.offset = cycles < back ? cycles + frequency - back : cycles - back;
    utsname machine{};
    if (uname(&machine) == 0) out.hostname = machine.nodename;
    out.environment = {{"comm", std::string(header.comm, strnlen(header.comm, sizeof header.comm))},
                       {"vpid", std::to_string(header.pid)}};
    for (const std::size_t i : channels)
        out.channels.push_back({segment.channels()[i].name, static_cast<std::uint32_t>(i)});
    out.channels.push_back({std::string(kModulesStream), kModulesStreamId});
    return out;
}

Result<std::shared_ptr<const ctf::TraceLayout>> layout_of(const Segment& segment) {
    const auto records = segment.classes(0);
    if (!records) return fail(records.error());
    const auto channels = choose_channels(segment, {});
    if (!channels) return fail(channels.error());
    std::string text = ctf::preamble_text(preamble_of(segment, *channels));
    for (const auto& record : *records)
        if (record.channel != kModuleRecord) text += record.text;
    auto metadata = ctf::parse_metadata(text, "the segment's event classes");
    if (!metadata) return fail(metadata.error());
    return ctf::TraceLayout::compile(std::move(*metadata), "the segment's event classes");
}

Result<Extracted> snapshot(const Segment& segment, const std::string& directory, const ChannelNames& names,
                           const Told& progress) {
    const auto channels = choose_channels(segment, names);
    if (!channels) return tl::unexpected(channels.error());
    Extracted extracted;
    std::vector<std::pair<ctf::PacketInfo, std::vector<core::u8>>> packets;
    std::uint64_t begin = UINT64_MAX;
    for (const std::size_t c : *channels)
        for (std::uint32_t cpu = 0; cpu < segment.cpus(); ++cpu)
            for (auto& copy : copy_lane(segment.lane(c, cpu), segment.channels()[c], extracted)) {
                packets.emplace_back(info_of(c, cpu, copy.at, copy.end), std::move(copy.bytes));
                begin = std::min(begin, copy.at.begin);
            }
    struct Spilt {
        std::size_t channel;
        std::uint64_t lost;
        std::vector<SpillCopy> run;
    };
    std::vector<Spilt> spilt;
    for (const std::size_t c : *channels) {
        const std::uint64_t lost = core::spill_lost_of(segment.spill(c));
        spilt.push_back({c, lost, copy_spill(segment.spill(c), segment.spill_shape(c), extracted)});
        // Its sub-buffers have no begin: only what was there before the first event is known.
        if (!spilt.back().run.empty()) begin = 0;
    }
    auto trace = ctf::TraceWriter::create(directory, preamble_of(segment, *channels));
    if (!trace) return tl::unexpected(trace.error());
    // After the events were copied: a class is there before its first event.
    Declarations declarations(*channels);
    if (auto ok = declarations.add(*trace, segment, packets.empty() ? 0 : begin); !ok)
        return tl::unexpected(ok.error());
    for (const auto& [info, bytes] : packets) {
        if (auto ok = write_packet(*trace, info, bytes, extracted); !ok) return tl::unexpected(ok.error());
        if (progress) progress(extracted.packets, packets.size());
    }
    for (const Spilt& one : spilt) {
        SpillStream stream = spill_stream(segment, one.channel);
        for (const auto& copy : one.run)
            if (auto ok = stream.write(*trace, copy, extracted); !ok) return tl::unexpected(ok.error());
        if (auto ok = stream.finish(*trace, one.lost, extracted); !ok) return tl::unexpected(ok.error());
    }
    if (auto ok = trace->finish(); !ok) return tl::unexpected(ok.error());
    return extracted;
}

Drain::Drain(Segment segment, ctf::TraceWriter trace, std::vector<std::size_t> channels)
    : segment_(std::make_unique<Segment>(std::move(segment))),
      trace_(std::move(trace)),
      channels_(channels),
      declarations_(std::move(channels)) {
    for (std::size_t c = 0; c < segment_->channels().size(); ++c) spills_.push_back(spill_stream(*segment_, c));
}

Result<Drain> Drain::begin(Segment segment, const std::string& directory, const ChannelNames& names) {
    auto channels = choose_channels(segment, names);
    if (!channels) return tl::unexpected(channels.error());
    for (const std::size_t c : *channels) {
        // On the channel's header, by the open file: the lock goes with whoever holds it, however that ends.
        struct flock lock {};
        lock.l_type = F_WRLCK;
        lock.l_whence = SEEK_SET;
        lock.l_start = static_cast<off_t>(offsetof(SegmentHeader, channel) + c * sizeof(ChannelHeader));
        lock.l_len = sizeof(ChannelHeader);
        if (fcntl(segment.fd().get(), F_OFD_SETLK, &lock) == 0) continue;
        return fail({.what = fmt::format("cannot drain channel {} of this segment", segment.channels()[c].name),
                     .needs = "to be the only one who does",
                     .found = errno == EAGAIN ? "another drain is at work (lslocks shows it)" : std::strerror(errno),
                     .set = "end that one, or take a snapshot, which any number may do"});
    }
    auto trace = ctf::TraceWriter::create(directory, preamble_of(segment, *channels));
    if (!trace) return tl::unexpected(trace.error());
    return Drain(std::move(segment), std::move(*trace), std::move(*channels));
}

Result<Extracted> Drain::run() {
    Extracted extracted;
    for (const std::size_t c : channels_) {
        const auto& channel = segment_->channels()[c];
        for (std::uint32_t cpu = 0; cpu < segment_->cpus(); ++cpu) {
            core::u8* lane = segment_->lane(c, cpu);
            core::SubBuffer at;
            core::Took took = core::Took::nothing;
            // At most a lane's worth in a turn, so that one busy lane does not keep the others waiting.
            for (core::u32 n = 0;
                 n < channel.shape.slots && (took = core::take(lane, channel.shape, at)) == core::Took::one; ++n) {
                if (auto ok = declarations_.add(trace_, *segment_, 0); !ok) return tl::unexpected(ok.error());
                if (auto ok = write_packet(trace_, info_of(c, cpu, at, at.end), {at.data, at.content}, extracted); !ok)
                    return tl::unexpected(ok.error());
                core::give_back(lane, channel.shape, at);
            }
            extracted.broken += took == core::Took::broken;
        }
        if (auto ok = run_spill(c, extracted); !ok) return tl::unexpected(ok.error());
    }
    return extracted;
}

Result<void> Drain::run_spill(std::size_t channel, Extracted& extracted) {
    const core::Shape& shape = segment_->channels()[channel].shape;
    core::u8* lane = segment_->spill(channel);
    core::u32 index = 0;
    for (core::u32 n = 0; n < shape.slots && core::next_to_drain(lane, segment_->spill_shape(channel), index); ++n) {
        const auto copy = copy_spill(lane, segment_->spill_shape(channel), index, extracted);
        if (!copy) continue;  // overwritten meanwhile: another is the oldest now
        if (auto ok = declarations_.add(trace_, *segment_, 0); !ok) return ok;
        if (auto ok = spills_[channel].write(trace_, *copy, extracted); !ok) return ok;
        core::spill_drained(lane, index, copy->state.number(), shape.mode);
    }
    return {};
}

Result<void> Drain::finish_spill(std::size_t channel, Extracted& extracted) {
    const core::u8* lane = segment_->spill(channel);
    const std::uint64_t lost = core::spill_lost_of(lane);
    const core::u32 drained = core::spill_drained_of(lane);
    for (const auto& copy : copy_spill(lane, segment_->spill_shape(channel), extracted)) {
        if (drained != 0 && core::spill_distance(copy.state.number(), drained) <= 0) continue;
        if (auto ok = declarations_.add(trace_, *segment_, 0); !ok) return ok;
        if (auto ok = spills_[channel].write(trace_, copy, extracted); !ok) return ok;
    }
    return spills_[channel].finish(trace_, lost, extracted);
}

Result<Extracted> Drain::finish() {
    auto extracted = run();
    if (!extracted) return extracted;
    for (const std::size_t c : channels_) {
        for (std::uint32_t cpu = 0; cpu < segment_->cpus(); ++cpu) {
            for (const auto& copy : copy_lane(segment_->lane(c, cpu), segment_->channels()[c], *extracted)) {
                if (copy.at.number <= core::drained_of(segment_->lane(c, cpu), segment_->channels()[c].shape)) continue;
                if (auto ok = declarations_.add(trace_, *segment_, 0); !ok) return tl::unexpected(ok.error());
                if (auto ok = write_packet(trace_, info_of(c, cpu, copy.at, copy.end), copy.bytes, *extracted); !ok)
                    return tl::unexpected(ok.error());
            }
        }
        if (auto ok = finish_spill(c, *extracted); !ok) return tl::unexpected(ok.error());
    }
    if (auto ok = trace_.finish(); !ok) return tl::unexpected(ok.error());
    return extracted;
}

}  // namespace cloister::recorder
