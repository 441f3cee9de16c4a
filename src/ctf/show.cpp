#include "ctf/show.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace cloister::ctf {
namespace {

template <class... T>
void add(std::string& out, fmt::format_string<T...> format, T&&... values) {
    fmt::format_to(std::back_inserter(out), format, std::forward<T>(values)...);
}

template <class T>
void append_number(std::string& out, T value) {  // most of what is written; four times as fast as by a format
    const fmt::format_int digits(value);
    out.append(digits.data(), digits.size());
}

bool plain(std::string_view text) {
    return std::all_of(text.begin(), text.end(),
                       [](unsigned char c) { return c >= 0x20 && c < 0x7f && c != '"' && c != '\\'; });
}

void append_quoted(std::string& out, std::string_view text) {
    out += '"';
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (c == '"' || c == '\\')
            out += {'\\', c};
        else if (byte < 0x20 || byte == 0x7f)
            add(out, "\\x{:02x}", byte);
        else
            out += c;
    }
    out += '"';
}

void append_integer(std::string& out, const Value& value) {
    const Type& type = *value.field->type;
    const std::uint64_t bits = type.bits < 64 ? value.bits & ((std::uint64_t{1} << type.bits) - 1) : value.bits;
    if (type.base == 16)
        add(out, "{:#x}", bits);
    else if (value.kind == Value::Kind::signed_integer)
        append_number(out, value.as_signed());
    else
        append_number(out, value.bits);
}

// A separator is due before everything but the first of a group.
class Separated {
public:
    Separated(std::string& out, std::string_view separator) : out_(out), separator_(separator) {}
    void next() {
        if (!first_) out_ += separator_;
        first_ = false;
    }
    void begin() { first_ = true; }
    void end() { first_ = false; }

private:
    std::string& out_;
    std::string_view separator_;
    bool first_ = true;
};

// The brackets and separators, which both forms have. `name` is given each value first, and whether it stands in an
// array; `show` then each that is no bracket.
template <class Name, class Show>
void walk(std::string& out, std::string_view separator, std::span<const Value> values, const Name& name,
          const Show& show) {
    Separated separated(out, separator);
    std::vector<char> open;
    for (const auto& value : values) {
        if (value.kind == Value::Kind::end) {
            out += open.back();
            open.pop_back();
            separated.end();
            continue;
        }
        separated.next();
        name(value, !open.empty() && open.back() == ']');
        if (value.kind == Value::Kind::begin_structure || value.kind == Value::Kind::begin_array) {
            out += value.kind == Value::Kind::begin_array ? '[' : '{';
            open.push_back(value.kind == Value::Kind::begin_array ? ']' : '}');
            separated.begin();
        } else {
            show(value);
        }
    }
}

}  // namespace

void append_text(std::string& out, std::span<const Value> values) {
    const auto name = [&out](const Value& value, bool) {
        if (value.field->name.empty()) return;
        out += value.field->name;
        out += '=';
    };
    walk(out, " ", values, name, [&out](const Value& value) {
        switch (value.kind) {
            case Value::Kind::unsigned_integer:
            case Value::Kind::signed_integer: {
                const auto labels = labels_of(*value.field->type, value.bits);
                for (const auto& label : labels) add(out, "{}{}", &label == labels.data() ? "" : "|", label);
                if (!labels.empty()) out += '(';
                append_integer(out, value);
                if (!labels.empty()) out += ')';
                break;
            }
            case Value::Kind::real:
                add(out, "{}", value.as_real());
                break;
            case Value::Kind::text:
                append_quoted(out, value.text);
                break;
            default:
                break;
        }
    });
}

void append_json(std::string& out, std::string_view text) {
    if (plain(text)) {
        out += '"';
        out += text;
        out += '"';
    } else {
        using Json = nlohmann::json;
        out += Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
    }
}

void append_json(std::string& out, std::span<const Value> values) {
    // In an array what comes has no name; in a structure it has, be it an empty one.
    const auto name = [&out](const Value& value, bool in_array) {
        if (in_array) return;
        append_json(out, value.field->name);
        out += ':';
    };
    out += '{';
    walk(out, ",", values, name, [&out](const Value& value) {
        switch (value.kind) {
            case Value::Kind::unsigned_integer:
            case Value::Kind::signed_integer: {
                const bool enumeration = value.field->type->kind == Type::Kind::enumeration;
                const bool quotes = value.field->type->base == 16;
                if (enumeration) out += "{\"value\":";
                if (quotes) out += '"';
                append_integer(out, value);
                if (quotes) out += '"';
                if (!enumeration) break;
                out += ",\"labels\":[";
                Separated labels(out, ",");
                for (const auto label : labels_of(*value.field->type, value.bits)) {
                    labels.next();
                    append_json(out, label);
                }
                out += "]}";
                break;
            }
            case Value::Kind::real:
                if (std::isfinite(value.as_real()))
                    add(out, "{}", value.as_real());
                else
                    add(out, "\"{}\"", std::isnan(value.as_real()) ? "nan" : value.as_real() < 0 ? "-inf" : "inf");
                break;
            case Value::Kind::text:
                append_json(out, value.text);
                break;
            default:
                break;
        }
    });
    out += '}';
}

void append_text(std::string& out, const JoinedEvent& incomplete) {
    const auto fragments = [](std::uint64_t n) { return fmt::format("{} fragment{}", n, n == 1 ? "" : "s"); };
    const std::uint64_t there = incomplete.fragments;
    if (const auto of = incomplete.of())
        out += fmt::format("incomplete: {} of {}", there, fragments(*of));
    else if (incomplete.abandoned)
        out += fmt::format("incomplete: {}, then abandoned", fragments(there - 1));
    else
        out += fmt::format("incomplete: {}, the last is missing", fragments(there));
}

void append_json(std::string& out, const JoinedEvent& incomplete) {
    const auto of = incomplete.of();
    out += fmt::format("{{\"fragments\":{},\"of\":{},\"abandoned\":{},\"bytes\":{}}}",
                       incomplete.fragments - (incomplete.abandoned ? 1 : 0), of ? fmt::format("{}", *of) : "null",
                       incomplete.abandoned, incomplete.bytes.size());
}

void append_seconds(std::string& out, std::int64_t ns) {
    const std::uint64_t size = ns < 0 ? 0 - static_cast<std::uint64_t>(ns) : static_cast<std::uint64_t>(ns);
    if (ns < 0) out += '-';
    append_number(out, size / 1'000'000'000);
    out += '.';
    const fmt::format_int rest(size % 1'000'000'000);
    out.append(9 - rest.size(), '0');
    out.append(rest.data(), rest.size());
}

std::string wall_clock(std::int64_t unix_ns) {
    std::int64_t seconds = unix_ns / 1'000'000'000, rest = unix_ns % 1'000'000'000;
    if (rest < 0) {
        --seconds;
        rest += 1'000'000'000;
    }
    const std::time_t time = seconds;
    std::tm parts{};
    gmtime_r(&time, &parts);
    return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z", parts.tm_year + 1900, parts.tm_mon + 1,
                       parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec, rest);
}

std::optional<std::int64_t> parse_wall_clock(std::string_view text) {
    if (text.ends_with('Z')) text.remove_suffix(1);
    std::int64_t ns = 0;
    if (const auto dot = text.find('.'); dot != std::string_view::npos) {
        const auto fraction = text.substr(dot + 1);
        if (fraction.empty() || fraction.size() > 9 ||
            fraction.find_first_not_of("0123456789") != std::string_view::npos)
            return std::nullopt;
        ns = std::stoll(std::string(fraction) + std::string(9 - fraction.size(), '0'));
        text = text.substr(0, dot);
    }
    const std::string whole(text);
    for (const char* format : {"%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d"}) {
        std::tm parts{};
        const char* const end = strptime(whole.c_str(), format, &parts);
        if (!end || *end != 0) continue;
        std::int64_t out = 0;
        if (__builtin_mul_overflow(std::int64_t{timegm(&parts)}, std::int64_t{1'000'000'000}, &out))
            return std::nullopt;
        return out + ns;
    }
    return std::nullopt;
}

}  // namespace cloister::ctf
