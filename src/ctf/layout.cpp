#include "ctf/layout.hpp"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "ctf/fragments.hpp"
#include "ctf/layout_compiler.hpp"
#include "ctf/packet.hpp"

namespace cloister::ctf {
namespace {

std::optional<std::uint64_t> aligned(std::uint64_t at, std::uint64_t align) {
    std::uint64_t out = 0;
    if (__builtin_add_overflow(at, align - 1, &out)) return std::nullopt;
    return out / align * align;
}

// Where a field of this type ends that begins at bit `at` of an event (rounded up to its alignment), if that is the
// same for every event. Events begin at multiples of `most` bits, so larger alignments are not the same for all.
std::optional<std::uint64_t> end_of(const Type& type, std::uint64_t at, std::uint64_t most) {
    if (type.align > most) return std::nullopt;
    std::optional<std::uint64_t> end = aligned(at, type.align);
    switch (type.kind) {
        case Type::Kind::integer:
        case Type::Kind::enumeration:
        case Type::Kind::real:
            if (end && __builtin_add_overflow(*end, std::uint64_t{type.bits}, &*end)) return std::nullopt;
            return end;
        case Type::Kind::structure:
            for (const auto& member : type.members)
                if (end) end = end_of(*member.type, *end, most);
            return end;
        case Type::Kind::array: {
            if (!end || type.length == 0) return end;
            const auto one = end_of(*type.element, *end, most);
            const auto next = one ? aligned(*one, type.element->align) : std::nullopt;
            std::uint64_t rest = 0, out = 0;
            if (!next || __builtin_mul_overflow(*next - *end, type.length - 1, &rest) ||
                __builtin_add_overflow(*one, rest, &out))
                return std::nullopt;
            return out;
        }
        case Type::Kind::string:
        case Type::Kind::variant:
        case Type::Kind::sequence:
            break;
    }
    return std::nullopt;
}

bool is_number(const Type& type, unsigned bits) { return type.leaf() && type.bits == bits && !type.is_signed; }

// The option that a label of exactly these values chooses.
const Type* option_of(const Type& tag, const Type& variant, std::int64_t first, std::int64_t last) {
    for (const auto& label : tag.labels)
        for (const auto& option : variant.members)
            if (label.first == first && label.last == last && label.name == option.name &&
                option.type->kind == Type::Kind::structure)
                return option.type.get();
    return nullptr;
}

std::optional<CompactHeader> compact_of(const TypeRef& header, ByteOrder native, const std::string& clock) {
    if (!header || native != ByteOrder::little || header->members.size() != 2 || header->align % 8 != 0)
        return std::nullopt;
    const Type &id = *header->members[0].type, &variant = *header->members[1].type;
    if (id.kind != Type::Kind::enumeration || variant.kind != Type::Kind::variant || !is_number(id, 5) ||
        header->members[0].name != "id" || variant.tag != "id" || id.labels.size() != 2)
        return std::nullopt;
    const Type* compact = option_of(id, variant, 0, kExtendedId - 1);
    const Type* extended = option_of(id, variant, kExtendedId, kExtendedId);
    if (!compact || !extended || compact->members.size() != 1 || extended->members.size() != 2) return std::nullopt;
    const Type& low = *compact->members[0].type;
    const Type &full_id = *extended->members[0].type, &full = *extended->members[1].type;
    const auto little = [](const Type& type) { return type.order != ByteOrder::big; };
    if (!is_number(low, kCompactTimeBits) || compact->align != 1 || low.clock != clock || clock.empty() ||
        !is_number(full_id, 32) || extended->members[0].name != "id" || !is_number(full, 64) || full.clock != clock ||
        !little(low) || !little(full_id) || !little(full) || !little(id))
        return std::nullopt;
    const auto id_at = aligned(*aligned(5, extended->align), full_id.align);
    const auto time_at = aligned(*id_at + 32, full.align);
    if (*id_at % 8 != 0 || *time_at % 8 != 0) return std::nullopt;
    return CompactHeader{static_cast<std::uint32_t>(header->align / 8), static_cast<std::uint32_t>(*id_at / 8),
                         static_cast<std::uint32_t>(*time_at / 8), static_cast<std::uint32_t>(*time_at / 8 + 8)};
}

// The size of the event in bytes behind a header of so many, and how far it is to the next; {0, 0} where it varies.
std::pair<std::uint32_t, std::uint32_t> sizes_of(std::initializer_list<const TypeRef*> scopes, std::uint32_t header,
                                                 std::uint64_t align) {
    constexpr std::uint64_t kMost = std::uint64_t{1} << 30U;
    std::optional<std::uint64_t> end = std::uint64_t{8} * header;
    for (const TypeRef* scope : scopes)
        if (end && *scope) end = end_of(**scope, *end, align);
    if (!end || *end > kMost || *end % 8 != 0) return {0, 0};
    return {static_cast<std::uint32_t>(*end / 8), static_cast<std::uint32_t>(*aligned(*end, align) / 8)};
}

void clocks_in(const Type& type, std::set<std::string>& names) {
    if (!type.clock.empty()) names.insert(type.clock);
    for (const auto& member : type.members) clocks_in(*member.type, names);
    if (type.element) clocks_in(*type.element, names);
}

}  // namespace

const StreamLayout* TraceLayout::stream(std::uint64_t id) const {
    for (const auto& one : streams)
        if (one.id == id) return &one;
    return nullptr;
}

Result<std::shared_ptr<const TraceLayout>> TraceLayout::compile(Metadata metadata, const std::string& name) {
    const auto wrong = [&](const Error& error) {
        return fail({fmt::format("{}: {}", name, error.what), error.needs, error.found, error.set});
    };
    auto out = std::make_shared<TraceLayout>();
    out->metadata = std::move(metadata);
    out->clocks = out->metadata.clocks;
    out->has_clock = !out->clocks.empty();
    if (!out->has_clock) out->clocks.emplace_back();
    LayoutCompiler compiler(*out);
    compiler.add(out->packet_header, Scope::packet_header, out->metadata.packet_header, "");
    std::unordered_map<std::uint64_t, StreamLayout*> streams;
    for (const auto& declared : out->metadata.streams) {
        StreamLayout& stream = out->streams.emplace_back();
        streams[declared.id] = &stream;
        stream.id = declared.id;
        // The clock of a stream is the one that its event headers carry, else its packets.
        std::set<std::string> names;
        for (const auto* scope : {&declared.event_header, &declared.packet_context})
            if (*scope && names.empty()) clocks_in(**scope, names);
        const std::string clock = names.empty() ? out->clocks.front().name : *names.begin();
        const auto found =
            std::find_if(out->clocks.begin(), out->clocks.end(), [&](const Clock& c) { return c.name == clock; });
        if (found == out->clocks.end())
            return wrong({"the metadata cannot be used", fmt::format("clock {{ name = {}; ... }};", clock),
                          fmt::format("stream {} uses it, nothing declares it", declared.id)});
        stream.clock = static_cast<std::size_t>(found - out->clocks.begin());
        if (declared.event_header) stream.header_align = declared.event_header->align;
        stream.compact = compact_of(declared.event_header, out->metadata.order, clock);
    }
    // The streams' scopes are compiled together with their events': what these refer to is the latest that was added.
    std::unordered_map<std::uint64_t, std::vector<const Metadata::Event*>> events;
    for (const auto& event : out->metadata.events) events[event.stream_id].push_back(&event);
    for (const auto& declared : out->metadata.streams) {
        StreamLayout& stream = *streams[declared.id];
        const std::string& clock = out->clocks[stream.clock].name;
        compiler.add(stream.packet_context, Scope::packet_context, declared.packet_context, clock);
        compiler.add(stream.event_header, Scope::event_header, declared.event_header, clock);
        compiler.add(stream.event_context, Scope::event_context, declared.event_context, clock);
        for (const Metadata::Event* event : events[declared.id]) {
            EventLayout& layout = stream.events.emplace_back();
            layout.name = event->name.empty() ? fmt::format("event {}", event->id) : event->name;
            layout.id = event->id;
            layout.loglevel = event->loglevel;
            layout.number = out->events++;
            layout.fields_type = event->fields;
            compiler.add(layout.context, Scope::context, event->context, clock);
            const std::size_t names_before = out->names.size();
            compiler.add(layout.fields, Scope::fields, event->fields, clock);
            layout.fragment = is_fragment_class(*event, out->metadata.order);
            // Nobody sees fragments, so nobody asks for their fields.
            for (std::size_t i = names_before; layout.fragment && i < out->names.size(); ++i) out->names[i].own = false;
            stream.by_id[event->id] = &layout;
            if (!stream.compact) continue;
            const auto scopes = {&declared.event_context, &event->context, &event->fields};
            std::tie(layout.compact_size, layout.compact_stride) = sizes_of(scopes, 4, stream.header_align);
            std::tie(layout.extended_size, layout.extended_stride) =
                sizes_of(scopes, stream.compact->extended_size, stream.header_align);
        }
        // Its program is what keeps the values that others refer to.
        if (compiler.header_is_referred_to()) stream.compact.reset();
        if (!stream.compact) continue;
        for (const auto& layout : stream.events) {
            if (layout.id >= kExtendedId) continue;
            stream.compact->events[layout.id] = &layout;
            stream.compact->strides[layout.id] = layout.compact_stride;
            stream.compact->longest = std::max(stream.compact->longest, layout.compact_stride);
        }
    }
    if (const Error* error = compiler.error()) return wrong(*error);
    return out;
}

}  // namespace cloister::ctf
