#include "ctf/schema.hpp"

#include <sys/random.h>

#include <algorithm>
#include <cctype>
#include <set>

#include <fmt/format.h>

namespace cloister::ctf {
namespace {

// The names that appear in the metadata have a "_" in front, so a digit may come first.
bool word(const std::string& name) {
    return !name.empty() &&
           std::all_of(name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) != 0 || c == '_'; });
}

std::string wrong_size(const Field& field) {
    const unsigned bits = field.integer.bits;
    const bool stored = field.kind == Field::Kind::integer || field.kind == Field::Kind::enumeration;
    if (stored && bits != 8 && bits != 16 && bits != 32 && bits != 64)
        return fmt::format("an integer of {} bits", bits);
    if (stored && field.integer.base != 10 && field.integer.base != 16)
        return fmt::format("base {}", field.integer.base);
    if (field.kind == Field::Kind::real && field.real_bits != 32 && field.real_bits != 64)
        return fmt::format("a floating point number of {} bits", field.real_bits);
    return {};
}

std::string wrong_labels(const Field& field) {
    if (field.kind != Field::Kind::enumeration) return {};
    if (field.labels.empty()) return "an enumeration without labels";
    for (const auto& label : field.labels) {
        const bool ordered = field.integer.is_signed
                                 ? label.first <= label.last
                                 : static_cast<std::uint64_t>(label.first) <= static_cast<std::uint64_t>(label.last);
        if (!ordered) return fmt::format("label '{}' ends before it begins", label.name);
    }
    return {};
}

}  // namespace

Uuid random_uuid() {
    Uuid uuid{};
    std::size_t have = 0;
    while (have < uuid.size())  // never fails for so few bytes, only starts late
        if (const auto got = getrandom(uuid.data() + have, uuid.size() - have, 0); got > 0)
            have += static_cast<std::size_t>(got);
    uuid[6] = static_cast<std::uint8_t>((uuid[6] & 0x0fU) | 0x40U);
    uuid[8] = static_cast<std::uint8_t>((uuid[8] & 0x3fU) | 0x80U);
    return uuid;
}

std::string text_of(const Uuid& uuid) {
    std::string out;
    for (std::size_t i = 0; i < uuid.size(); ++i) {
        if (i == 4 || i == 6 || i == 8 || i == 10) out += '-';
        out += fmt::format("{:02x}", uuid[i]);
    }
    return out;
}

Field Field::of_integer(std::string name, Integer integer) {
    Field field;
    field.name = std::move(name);
    field.integer = integer;
    return field;
}

Field Field::of_pointer(std::string name) { return of_integer(std::move(name), {.bits = 64, .base = 16}); }

Field Field::of_double(std::string name) {
    Field field;
    field.name = std::move(name);
    field.kind = Kind::real;
    return field;
}

Field Field::of_float(std::string name) {
    Field field = of_double(std::move(name));
    field.real_bits = 32;
    return field;
}

Field Field::of_enumeration(std::string name, Integer integer, std::vector<Label> labels) {
    Field field = of_integer(std::move(name), integer);
    field.kind = Kind::enumeration;
    field.labels = std::move(labels);
    return field;
}

Field Field::of_boolean(std::string name) {
    Field field;
    field.name = std::move(name);
    field.kind = Kind::boolean;
    return field;
}

Field Field::of_string(std::string name) {
    Field field;
    field.name = std::move(name);
    field.kind = Kind::string;
    return field;
}

Field Field::of_bytes(std::string name, std::uint32_t count) {
    return of_integer(std::move(name), {.bits = 8, .base = 16}).times(count);
}

Field Field::times(std::uint32_t n) && {
    shape = Shape::array;
    count = n;
    return std::move(*this);
}

Field Field::sequence() && {
    shape = Shape::sequence;
    return std::move(*this);
}

Result<void> EventClass::check() const {
    const auto wrong = [this](const std::string& what, std::string needs) {
        return fail({fmt::format("event class '{}' cannot be declared", name), std::move(needs), what, ""});
    };
    if (name.empty() || name.find('\0') != std::string::npos) return wrong("no name, or a NUL in it", "a name");
    std::set<std::string> names;
    for (const auto& field : fields) {
        if (!word(field.name))
            return wrong(fmt::format("a field named '{}'", field.name), "letters, digits and _ in a field's name");
        const bool sequence = field.shape == Field::Shape::sequence;
        if (!names.insert(field.name).second || (sequence && !names.insert("_" + field.name + "_len").second))
            return wrong(fmt::format("field '{}' twice", field.name),
                         "fields of different names; a sequence NAME takes _NAME_len too");
        if (const auto size = wrong_size(field); !size.empty())
            return wrong(fmt::format("field '{}': {}", field.name, size),
                         "integers of 8, 16, 32 or 64 bits, base 10 or 16; floating point of 32 or 64 bits");
        if (const auto labels = wrong_labels(field); !labels.empty())
            return wrong(fmt::format("field '{}': {}", field.name, labels), "at least one label, first <= last");
    }
    return {};
}

Result<void> Preamble::check() const {
    const auto wrong = [](const std::string& what, std::string needs) {
        return fail({"the trace cannot be declared", std::move(needs), what, ""});
    };
    if (clock.frequency == 0) return wrong("a clock of 0 Hz", "the frequency of the clock in Hz");
    if (!word(clock.name) || std::isdigit(static_cast<unsigned char>(clock.name.front())) != 0)
        return wrong(fmt::format("a clock named '{}'", clock.name), "an identifier");
    if (clock.offset >= clock.frequency)
        return wrong(fmt::format("an offset of {} cycles at {} Hz", clock.offset, clock.frequency),
                     "whole seconds of the offset in offset_s");
    for (const auto& [key, value] : environment)
        if (!word(key) || std::isdigit(static_cast<unsigned char>(key.front())) != 0)
            return wrong(fmt::format("an environment entry '{}'", key), "an identifier");
    if (channels.empty()) return wrong("no channel", "at least one channel");
    std::set<std::string> names{"metadata", "index"};  // what else lies in a trace's directory
    std::set<std::uint32_t> ids;
    for (const auto& channel : channels) {
        if (!word(channel.name) || !names.insert(channel.name).second)
            return wrong(fmt::format("a channel named '{}'", channel.name),
                         "a name of letters, digits and _ that no other channel has");
        if (!ids.insert(channel.stream_id).second)
            return wrong(fmt::format("stream id {} twice", channel.stream_id), "an id of its own for every channel");
    }
    return {};
}

}  // namespace cloister::ctf
