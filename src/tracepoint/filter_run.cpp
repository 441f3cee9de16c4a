#include <cstring>

#include "tracepoint/filter.hpp"

namespace cloister::tracepoint {
namespace {

template <class T>
T load(const char* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

long double number_at(const cloister_field& field, const char* at) {
    if (field.kind == CLOISTER_REAL) return field.bits == 32 ? load<float>(at) : load<double>(at);
    switch (field.bits) {
        case 8:
            return field.is_signed ? load<std::int8_t>(at) : load<std::uint8_t>(at);
        case 16:
            return field.is_signed ? load<std::int16_t>(at) : load<std::uint16_t>(at);
        case 32:
            return field.is_signed ? static_cast<long double>(load<std::int32_t>(at)) : load<std::uint32_t>(at);
        default:
            return field.is_signed ? static_cast<long double>(load<std::int64_t>(at)) : load<std::uint64_t>(at);
    }
}

std::size_t size_at(const cloister_field& field, const char* at, const char* end) {
    if (field.kind == CLOISTER_STRING) return strnlen(at, static_cast<std::size_t>(end - at)) + 1;
    if (field.is_sequence) return 4 + std::size_t{load<std::uint32_t>(at)} * (field.bits / 8U);
    return field.bits / 8U;
}

template <class T>
bool compares(Test::Comparison comparison, T a, T b) {
    switch (comparison) {
        case Test::equal:
            return a == b;
        case Test::not_equal:
            return a != b;
        case Test::less:
            return a < b;
        case Test::less_equal:
            return a <= b;
        case Test::greater:
            return a > b;
        default:
            return a >= b;
    }
}

}  // namespace

bool holds(const Program& program, const cloister_event& event) {
    const char* const end = static_cast<const char*>(event.payload) + event.size;
    std::uint8_t next = 0;
    while (next < kTests) {
        const Test& test = program.tests[next];
        const cloister_field* const fields = event.event_class->fields;
        const char* at = static_cast<const char*>(event.payload);
        for (std::uint8_t i = 0; i < test.field; ++i) at += size_at(fields[i], at, end);
        bool held = false;
        if (fields[test.field].kind == CLOISTER_STRING) {
            const char* const text = reinterpret_cast<const char*>(&program) + test.text;
            const std::size_t size = size_at(fields[test.field], at, end) - 1;
            const bool same = size == test.text_size && std::memcmp(at, text, size) == 0;
            held = same == (test.comparison == Test::equal);
        } else {
            held = compares(test.comparison, number_at(fields[test.field], at), test.number);
        }
        next = held ? test.if_true : test.if_false;
    }
    return next == kAccept;
}

}  // namespace cloister::tracepoint
