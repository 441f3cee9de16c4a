#include "ctf/fragments.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include <fmt/format.h>

namespace cloister::ctf {
namespace {

constexpr const char* kName = "cloister:fragment";

const EventLayout* event_of(const StreamLayout& channel, std::uint32_t id) {
    const auto found = channel.by_id.find(id);
    return found == channel.by_id.end() || found->second->fragment ? nullptr : found->second;
}

}  // namespace

EventClass fragment_class(std::uint32_t stream_id) {
    EventClass out{.name = kName, .id = core::kFragmentId, .stream_id = stream_id, .loglevel = 14, .fields = {}};
    out.fields = {Field::of_integer("instance", {.bits = 64}),
                  Field::of_integer("begun", {.bits = 64}),
                  Field::of_integer("thread", {.bits = 32}),
                  Field::of_integer("id", {.bits = 32}),
                  Field::of_integer("index", {.bits = 32}),
                  Field::of_enumeration("end", {.bits = 32}, {{"more", 0, 0}, {"last", 1, 1}, {"abandoned", 2, 2}}),
                  Field::of_integer("bytes", {.bits = 8, .base = 16}).sequence()};
    return out;
}

bool is_fragment_class(const Metadata::Event& event, ByteOrder order) {
    constexpr std::array<std::pair<const char*, unsigned>, 7> kNumbers{{{"_instance", 64},
                                                                        {"_begun", 64},
                                                                        {"_thread", 32},
                                                                        {"_id", 32},
                                                                        {"_index", 32},
                                                                        {"_end", 32},
                                                                        {"__bytes_len", 32}}};
    const auto packed = [](const Type& type, unsigned bits) {
        return type.leaf() && type.bits == bits && !type.is_signed && type.align == 8 && type.order != ByteOrder::big;
    };
    if (event.name != kName || order != ByteOrder::little || event.context || !event.fields ||
        event.fields->members.size() != kNumbers.size() + 1 || event.fields->align != 8)
        return false;
    const auto& members = event.fields->members;
    for (std::size_t i = 0; i < kNumbers.size(); ++i)
        if (members[i].name != kNumbers[i].first || !packed(*members[i].type, kNumbers[i].second)) return false;
    const Type& bytes = *members.back().type;
    return members.back().name == "_bytes" && bytes.kind == Type::Kind::sequence && packed(*bytes.element, 8) &&
           bytes.length_field == kNumbers.back().first;
}

std::string JoinedEvent::fields(std::vector<Value>& values, std::size_t& of_contexts) const {
    const std::uint64_t end = std::uint64_t{8} * bytes.size();
    values.assign(place.context.begin(), place.context.end());
    Decoder decoder(place.file->layout());
    decoder.begin({.data = bytes.data(), .end = end, .cut = !complete()}, place.cycles);
    std::uint64_t at = 0;
    bool whole = true;
    for (const Program* program : {&event->context, &event->fields}) {
        of_contexts = values.size();
        whole = whole && decoder.run(*program, at, &values);
    }
    if (complete()) {
        if (!whole) return decoder.why();
        return at == end ? std::string() : fmt::format("{} bytes more than its fields take", (end - at) / 8);
    }
    // What was cut within structures and arrays ends them.
    std::ptrdiff_t open = 0;
    for (const Value& value : values) {
        const bool begins = value.kind == Value::Kind::begin_array || value.kind == Value::Kind::begin_structure;
        open += begins ? 1 : value.kind == Value::Kind::end ? -1 : 0;
    }
    for (; open > 0; --open) values.push_back({Value::Kind::end, nullptr, 0, {}});
    return {};
}

JoinedEvent Joiner::remove(Map::iterator at) {
    bytes_ -= at->second.event.bytes.size();
    waiting_.erase(at->second.waiting);
    JoinedEvent out = std::move(at->second.event);
    open_.erase(at);
    return out;
}

void Joiner::give_way() {
    while (open_.size() > kMostOpen || bytes_ > most_bytes_) ended_.push_back(remove(open_.find(waiting_.front())));
}

std::optional<JoinedEvent> Joiner::take(const FragmentKey& key) {
    const auto at = open_.find(key);
    return at == open_.end() ? std::nullopt : std::optional(remove(at));
}

void Joiner::put(const FragmentKey& key, JoinedEvent event) {
    bytes_ += event.bytes.size();
    open_.insert_or_assign(key, Open{std::move(event), waiting_.insert(waiting_.end(), key)});
    give_way();
}

std::string Joiner::add(const FragmentKey& key, const Fragment& fragment, FragmentPlace place) {
    const core::FragmentHead& head = fragment.head;
    const EventLayout* const event = event_of(*key.channel, head.id);
    if (!event) return fmt::format("it is of event {}, which is not declared", head.id);
    if (head.end > static_cast<std::uint32_t>(core::FragmentEnd::abandoned))
        return fmt::format("its end is {}, and there are 0, 1 and 2", head.end);
    auto at = open_.find(key);
    if (at != open_.end()) {
        const JoinedEvent& before = at->second.event;
        if (before.event != event || before.begun != head.begun)
            return fmt::format("it is of event {} begun at {}, those before it of event {} begun at {}", head.id,
                               head.begun, before.event->id, before.begun);
        if (head.index < before.next)
            return fmt::format("its index is {} and not above that of the one before it", head.index);
        waiting_.splice(waiting_.end(), waiting_, at->second.waiting);
    } else {
        JoinedEvent fresh;
        fresh.event = event;
        fresh.begun = head.begun;
        at = open_.emplace(key, Open{std::move(fresh), waiting_.insert(waiting_.end(), key)}).first;
    }
    JoinedEvent& joined = at->second.event;
    joined.gap = joined.gap || head.index != joined.next;
    if (!joined.gap) {
        joined.bytes.insert(joined.bytes.end(), fragment.bytes.begin(), fragment.bytes.end());
        bytes_ += fragment.bytes.size();
    }
    ++joined.fragments;
    joined.next = std::uint64_t{head.index} + 1;
    joined.place = std::move(place);
    joined.last = head.end == static_cast<std::uint32_t>(core::FragmentEnd::last);
    joined.abandoned = head.end == static_cast<std::uint32_t>(core::FragmentEnd::abandoned);
    if (joined.last || joined.abandoned)
        ended_.push_back(remove(at));
    else
        give_way();
    return {};
}

std::optional<JoinedEvent> Joiner::next_ended() {
    if (ended_.empty()) return std::nullopt;
    JoinedEvent out = std::move(ended_.front());
    ended_.pop_front();
    return out;
}

void Joiner::end_all() {
    std::list<JoinedEvent> rest;
    while (!open_.empty()) rest.push_back(remove(open_.begin()));
    rest.sort([](const JoinedEvent& a, const JoinedEvent& b) { return a.place.ns < b.place.ns; });
    ended_.splice(ended_.end(), rest);
}

bool FragmentCounts::add(const StreamLayout& channel, const core::FragmentHead& head, std::int64_t ns) {
    const EventLayout* const event = event_of(channel, head.id);
    if (!event) return false;
    ++fragments;
    const auto at = open_.try_emplace({&channel, head.thread, head.instance}).first;
    Open& open = at->second;
    open.event = event;
    open.newest = std::max(open.newest, ns);
    ++open.seen;
    if (head.end == static_cast<std::uint32_t>(core::FragmentEnd::last)) open.of = std::uint64_t{head.index} + 1;
    if (open.seen == open.of || open_.size() > kMostOpen) {
        count(open);
        open_.erase(at);
    }
    return true;
}

void FragmentCounts::count(const Open& open) {
    ++events[open.event];
    incomplete += open.seen != open.of;
    first = first ? std::min(*first, open.newest) : open.newest;
    last = last ? std::max(*last, open.newest) : open.newest;
}

void FragmentCounts::end_all() {
    for (const auto& [key, open] : open_) count(open);
    open_.clear();
}

}  // namespace cloister::ctf
