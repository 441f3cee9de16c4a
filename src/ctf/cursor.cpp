#include "ctf/cursor.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "ctf/packet.hpp"
#include "ctf/time.hpp"

namespace cloister::ctf {
namespace {

std::uint32_t word_at(const std::uint8_t* at) {
    std::uint32_t word = 0;
    std::memcpy(&word, at, sizeof word);
    return word;
}

}  // namespace

bool Cursor::broken(const std::string& what, std::string needs) {
    broken_ = true;
    in_packet_ = pending_ = false;
    error_ = {fmt::format("packet {} of {}: {}", packet_.number, stream_->name(), what), std::move(needs),
              fmt::format("the packet begins at byte {} of {}", packet_.offset, stream_->size()), ""};
    return false;
}

void Cursor::find_loss(const Packet& before, const Packet& behind) {
    loss_ = {};
    if (before.events_discarded && behind.events_discarded && *behind.events_discarded > *before.events_discarded)
        loss_.events = *behind.events_discarded - *before.events_discarded;
    if (before.sequence_number && behind.sequence_number && *behind.sequence_number > *before.sequence_number)
        loss_.packets = *behind.sequence_number - *before.sequence_number - 1;
    // Between the last event of the one and the first of the other, as far as their times are known.
    loss_.from = before.end.value_or(cycles_);
    loss_.to = loss_.events ? behind.end.value_or(loss_.from) : behind.begin.value_or(loss_.from);
    lost_ = loss_.events || loss_.packets;
}

// The count of the very first packet is of what was lost since the stream began. In front of a later one, packets were
// left out or overwritten, and when its count rose nobody knows.
void Cursor::find_first_loss(const Packet& first) {
    lost_ = first.events_discarded.value_or(0) > 0 && first.sequence_number.value_or(0) == 0;
    if (!lost_) return;
    loss_ = {.events = *first.events_discarded};
    loss_.from = first.begin.value_or(0);
    loss_.to = first.end.value_or(loss_.from);
}

Cursor::Step Cursor::open_packet() {
    if (next_packet_ >= stream_->size()) return Step::end;
    packet_values_.clear();
    auto packet = stream_->packet_at(next_packet_, seen_packet_ ? packet_.number + 1 : 0, decoder_, &packet_values_);
    std::erase_if(packet_values_, [](const Value& value) { return value.field && !value.field->own; });
    if (!packet) {
        broken_ = true;
        error_ = packet.error();
        return Step::broken;
    }
    if (seen_packet_)
        find_loss(packet_, *packet);
    else
        find_first_loss(*packet);
    packet_ = *packet;
    seen_packet_ = in_packet_ = true;
    next_packet_ = packet_.offset + packet_.size;
    at_ = packet_.events_at;
    return Step::event;
}

void Cursor::seek(std::uint64_t cycles) {
    if (const auto hint = stream_->before(cycles, decoder_)) {
        packet_ = *hint;
        seen_packet_ = true;
        next_packet_ = hint->offset + hint->size;
    }
    while (next_packet_ < stream_->size()) {
        const auto packet = stream_->packet_at(next_packet_, seen_packet_ ? packet_.number + 1 : 0, decoder_);
        // A broken one is for next() to report. One that ends before it begins was never closed.
        if (!packet || !packet->end || *packet->end >= cycles || *packet->end < packet->begin.value_or(0)) break;
        packet_ = *packet;
        seen_packet_ = true;
        next_packet_ = packet_.offset + packet_.size;
    }
}

bool Cursor::choose(std::uint64_t id) {
    const StreamLayout& stream = *packet_.stream;
    if (stream.compact && id < kExtendedId) {
        event_ = stream.compact->events[id];
    } else {
        const auto found = stream.by_id.find(id);
        event_ = found == stream.by_id.end() ? nullptr : found->second;
    }
    if (event_) return true;
    return broken(fmt::format("event {} at byte {} is not declared", id, event_at_ / 8),
                  "an id that the metadata declares for its stream");
}

// The shape that most traces have, without its program.
bool Cursor::compact_header() {
    const CompactHeader& shape = *packet_.stream->compact;
    const std::uint8_t* const begin = stream_->data() + packet_.offset + event_at_ / 8;
    const std::uint64_t left = (packet_.content - event_at_) / 8;
    if (left < sizeof(std::uint32_t))
        return broken(fmt::format("{} bytes of an event at its end", left), "whole events");
    const std::uint32_t word = word_at(begin);
    std::uint64_t id = word & kExtendedId;
    const bool extended = id == kExtendedId;
    std::uint64_t clock = decoder_.clock();
    if (extended) {
        if (left < shape.extended_size)
            return broken(fmt::format("{} bytes of an event at its end", left), "whole events");
        id = word_at(begin + shape.id_at);
        std::memcpy(&clock, begin + shape.time_at, sizeof clock);
    } else {
        clock = advance(clock, word >> 5U, kCompactTimeBits);
    }
    if (!choose(id)) return false;
    decoder_.set_clock(clock);
    at_ = event_at_ + std::uint64_t{8} * (extended ? shape.extended_size : sizeof(std::uint32_t));
    size_ = extended ? event_->extended_size : event_->compact_size;
    return true;
}

bool Cursor::header() {
    const std::uint64_t align = packet_.stream->header_align;
    event_at_ = (at_ + align - 1) & ~(align - 1);
    if (packet_.stream->compact) {
        if (!compact_header()) return false;
    } else {
        size_ = 0;
        at_ = event_at_;
        decoder_.forget_roles();
        if (!decoder_.run(packet_.stream->event_header, at_, nullptr))
            return broken(fmt::format("header of the event at byte {}: {}", event_at_ / 8, decoder_.why()),
                          "whole events");
        const auto& stream = *packet_.stream;
        const bool only = !decoder_.has(Role::event_id) && stream.events.size() == 1;
        const std::uint64_t id = decoder_.has(Role::event_id) ? decoder_.role(Role::event_id) : 0;
        if (!choose(only ? stream.events.front().id : id)) return false;
    }
    pending_ = true;
    cycles_ = decoder_.clock();
    return true;
}

bool Cursor::skip_fields() {
    pending_ = false;
    // One that does not fit is left to the programs: they say which field it is.
    const std::uint64_t end = event_at_ + std::uint64_t{8} * size_;
    if (size_ != 0 && end <= packet_.content) {
        at_ = end;
        return true;
    }
    return run(nullptr);
}

bool Cursor::run(std::vector<Value>* values) {
    for (const Program* program : {&packet_.stream->event_context, &event_->context, &event_->fields}) {
        if (values) of_contexts_ = values->size();
        if (!decoder_.run(*program, at_, values))
            return broken(fmt::format("event '{}' at byte {}: {}", event_->name, event_at_ / 8, decoder_.why()),
                          "whole events");
    }
    if (at_ == event_at_)
        return broken(fmt::format("event '{}' at byte {} takes no room", event_->name, event_at_ / 8),
                      "a header or fields in every event");
    return true;
}

bool Cursor::fields(std::vector<Value>& values) {
    values.assign(packet_values_.begin(), packet_values_.end());
    pending_ = false;
    return run(&values);
}

bool Cursor::fragment(Fragment& out, std::vector<Value>* context) {
    if (context) context->assign(packet_values_.begin(), packet_values_.end());
    pending_ = false;
    const std::uint64_t begin = at_;
    if (!decoder_.run(packet_.stream->event_context, at_, context)) {
        at_ = begin;
        return run(nullptr);  // fails as well, and says where
    }
    const std::uint64_t at = (at_ + 7) / 8, end = packet_.content / 8, left = end - std::min(at, end);
    if (left >= core::kFragmentHead) {
        const std::uint8_t* const head = stream_->data() + packet_.offset + at;
        std::memcpy(&out.head, head, core::kFragmentHead);
        out.bytes = {head + core::kFragmentHead, out.head.bytes};
        at_ = 8 * (at + core::kFragmentHead + out.head.bytes);
    }
    if (left >= core::kFragmentHead && out.head.bytes <= left - core::kFragmentHead) return true;
    at_ = begin;
    return run(nullptr);
}

Cursor::Step Cursor::next() {
    if (broken_ || (pending_ && !skip_fields())) return Step::broken;
    while (true) {
        if (in_packet_) {
            const std::uint64_t align = packet_.stream->header_align;
            // Less than the alignment of an event that is left is padding.
            if (((at_ + align - 1) & ~(align - 1)) < packet_.content) return header() ? Step::event : Step::broken;
            in_packet_ = false;
        }
        if (const Step step = open_packet(); step != Step::event) return step;
        if (std::exchange(lost_, false)) return Step::loss;
    }
}

// Events of fixed size with a compact header, one after the other. As long as the longest of them fits, none has to be
// looked at for the packet's end.
void Cursor::count_fixed(std::array<std::uint64_t, 32>& counts) {
    const CompactHeader& shape = *packet_.stream->compact;
    const std::uint64_t align = packet_.stream->header_align;
    std::uint64_t at = ((at_ + align - 1) & ~(align - 1)) / 8;
    const std::uint64_t end = packet_.content / 8;
    if (shape.longest == 0 || shape.longest > end) return;
    const std::uint8_t* const data = stream_->data() + packet_.offset;
    const std::uint64_t last = end - shape.longest;
    const auto strides = shape.strides;
    std::uint64_t clock = decoder_.clock();
    while (at <= last) {
        const std::uint32_t word = word_at(data + at);
        const std::uint32_t id = word & kExtendedId, stride = strides[id];
        if (stride == 0) break;
        clock = advance(clock, word >> 5U, kCompactTimeBits);
        ++counts[id];
        at += stride;
    }
    at_ = 8 * at;
    decoder_.set_clock(clock);
    cycles_ = clock;
}

bool Cursor::count(Counts& counts, FragmentCounts& fragments) {
    counts.events.resize(std::max(counts.events.size(), stream_->layout().events));
    const StreamLayout* stream = nullptr;
    std::array<std::uint64_t, 32> fixed{};
    const auto flush = [&] {
        for (std::size_t id = 0; stream && id < fixed.size(); ++id)
            if (fixed[id]) counts.events[stream->compact->events[id]->number] += std::exchange(fixed[id], 0);
    };
    Step step = next();
    for (; step == Step::event || step == Step::loss; step = next()) {
        if (step == Step::loss) {
            counts.lost_events += loss_.events;
            counts.lost_packets += loss_.packets;
            continue;
        }
        if (event_->fragment) [[unlikely]] {
            Fragment part;
            if (!fragment(part, nullptr)) break;
            ++counts.events[event_->number];
            const auto& clock = stream_->layout().clocks[packet_.stream->clock];
            if (fragments.add(*packet_.stream, part.head, ns_of(clock, cycles_))) continue;
            broken(fmt::format("a fragment of event {}, which is not declared", part.head.id),
                   "fragments of events that the metadata declares for their stream");
            break;
        }
        if (!skip_fields()) break;
        ++counts.events[event_->number];
        if (!counts.first) counts.first = cycles_;
        if (packet_.stream->compact) {
            if (packet_.stream != stream) flush();
            stream = packet_.stream;
            count_fixed(fixed);
        }
        counts.last = cycles_;
    }
    flush();
    counts.packets += seen_packet_ ? packet_.number + 1 : 0;
    return !broken_;
}

}  // namespace cloister::ctf
