// Static tracepoints in C++20. <cloister/trace.h> says what they are; here are the types of fields, and the control in
// C++.
//
// Types of fields: integers, float, double, bool, enumerations (scoped or not; CLOISTER_ENUM gives their names),
// std::string_view, const char* (null is ""), pointers, std::span<T>, std::array<T, n>, T[n] of the arithmetic ones.
#pragma once

#include <cloister/trace.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

namespace cloister {

// See cloister_beat in <cloister/trace.h>.
inline void beat() noexcept { cloister_beat(); }

namespace trace {

using Class = cloister_class;
using Event = cloister_event;

// What a call of the control has come to. If `error` is not empty nothing was changed, and it says what is needed, what
// was found, and what to set.
struct [[nodiscard]] Outcome {
    int count = 0;  // of enable and disable: classes that match now; of add_probe: the probe's id
    std::string error = {};
    explicit operator bool() const { return error.empty(); }
};

// See the functions of the same names in <cloister/trace.h>. None is async-signal-safe; all are thread-safe.
Outcome enable(std::string_view glob, int level = CLOISTER_DEBUG, std::string_view filter = {});
Outcome disable(std::string_view glob);
Outcome add_probe(std::string_view glob, cloister_probe probe, void* data, int tracer = 0);
Outcome remove_probe(int id);
Outcome synchronize();

// What went wrong while modules were loaded, and had nobody to be returned to; "" if nothing did: in the environment
// variable CLOISTER_TRACE, a filter that does not fit a class (which stays off), text that cannot be patched. The
// variable holds what enable() takes, in entries GLOB[@LEVEL][ if FILTER] separated by ";", with a level of 0 to 7:
// "book:*@6 if price > 10; net:*".
[[nodiscard]] std::string load_errors();

// --- What generated code calls.
namespace detail {

template <class T>
inline constexpr bool is_scalar = std::is_arithmetic_v<T> || std::is_enum_v<T>;

template <class T>
struct Sequence {
    static constexpr bool is = false;
};
template <class T, std::size_t n>
struct Sequence<std::span<T, n>> {
    static constexpr bool is = true;
    using Element = std::remove_cv_t<T>;
};
template <class T, std::size_t n>
struct Sequence<std::array<T, n>> {
    static constexpr bool is = true;
    using Element = std::remove_cv_t<T>;
};

template <class T>
inline constexpr bool is_string = std::is_same_v<T, std::string_view> || std::is_same_v<T, const char*> ||
                                  std::is_same_v<T, char*> || std::is_same_v<T, std::string>;
template <class T>
inline constexpr bool is_variable = is_string<T> || Sequence<T>::is;

// The names of an enumeration, found by argument-dependent lookup where CLOISTER_ENUM stands beside it.
template <class T>
concept Named = requires(T value) {
    cloister_enumerators(value);
};

template <class T>
constexpr cloister_field describe(const char* name) {
    cloister_field field = {name, nullptr, 0, CLOISTER_INTEGER, 0, 0, 10, 0};
    if constexpr (Sequence<T>::is) {
        field = describe<typename Sequence<T>::Element>(name);
        field.is_sequence = 1;
    } else if constexpr (is_string<T>) {
        field.kind = CLOISTER_STRING;
    } else if constexpr (std::is_pointer_v<T>) {
        field.kind = CLOISTER_POINTER;
        field.bits = 64;
        field.base = 16;
    } else {
        static_assert(is_scalar<T>, "no type of a field: see <cloister/trace.hpp>");
        static_assert(sizeof(T) <= 8, "no type of a field: wider than 64 bits");
        field.bits = static_cast<std::uint8_t>(8 * sizeof(T));
        if constexpr (std::is_same_v<T, bool>) field.kind = CLOISTER_BOOLEAN;
        if constexpr (std::is_floating_point_v<T>) field.kind = CLOISTER_REAL;
        if constexpr (std::is_enum_v<T>) {
            field.kind = CLOISTER_ENUMERATION;
            field.is_signed = std::is_signed_v<std::underlying_type_t<T>>;
            if constexpr (Named<T>) {
                field.enumerators = cloister_enumerators(T{}).data();
                field.enumerator_count = static_cast<std::uint16_t>(cloister_enumerators(T{}).size());
            }
        } else {
            field.is_signed = std::is_signed_v<T>;
        }
    }
    return field;
}

template <class T>
constexpr std::size_t fixed_size() {
    if constexpr (Sequence<T>::is) return 4;
    if constexpr (is_string<T>) return 1;
    if constexpr (std::is_pointer_v<T>) return 8;
    return sizeof(T);
}

// Bytes of a field beyond its fixed size, at most `most`.
template <class T>
inline __attribute__((always_inline)) std::size_t length(const T& value, std::size_t most, std::uint32_t& clipped) {
    std::size_t wanted = 0, room = most;
    if constexpr (!is_variable<T>) {
        return 0;
    } else if constexpr (Sequence<T>::is) {
        wanted = value.size() * sizeof(typename Sequence<T>::Element);
        room = most / sizeof(typename Sequence<T>::Element) * sizeof(typename Sequence<T>::Element);
    } else if constexpr (std::is_pointer_v<T>) {
        wanted = value ? strnlen(value, most + 1) : 0;
    } else {
        if (value.size() != 0) wanted = strnlen(value.data(), value.size() < most + 1 ? value.size() : most + 1);
    }
    if (wanted <= room) return wanted;
    ++clipped;
    return room;
}

template <class T>
inline __attribute__((always_inline)) char* put(char* at, const T& value, std::size_t length) {
    if constexpr (Sequence<T>::is) {
        const auto count = static_cast<std::uint32_t>(length / sizeof(typename Sequence<T>::Element));
        std::memcpy(at, &count, 4);
        if (length) std::memcpy(at + 4, value.data(), length);
        return at + 4 + length;
    } else if constexpr (is_string<T>) {
        if constexpr (std::is_pointer_v<T>) {
            if (length) std::memcpy(at, value, length);
        } else {
            if (length) std::memcpy(at, value.data(), length);
        }
        at[length] = 0;
        return at + length + 1;
    } else {
        std::memcpy(at, &value, sizeof(value));
        return at + sizeof(value);
    }
}

// Sizes first, then the copy: the buffer is as small as the event, since a signal handler's stack may be small too.
template <class... T>
inline __attribute__((always_inline)) void fire(cloister_class& event_class, const T&... fields) {
    constexpr std::size_t fixed = (std::size_t{0} + ... + fixed_size<T>());
    constexpr std::size_t variable = (std::size_t{0} + ... + (is_variable<T> ? 1 : 0));
    static_assert(sizeof...(T) <= CLOISTER_FIELDS_MAX);
    std::uint32_t clipped = 0;
    if constexpr (variable == 0) {
        char stage[fixed];
        char* at = stage;
        ((at = put(at, fields, 0)), ...);
        cloister_trace_fire(&event_class, stage, fixed, clipped);
    } else {
        constexpr std::size_t most = (CLOISTER_PAYLOAD_MAX - fixed) / variable;
        std::size_t lengths[sizeof...(T)], size = fixed;
        std::size_t* next = lengths;
        ((*next = length(fields, most, clipped), size += *next++), ...);
        char* const stage = static_cast<char*>(__builtin_alloca(size));
        char* at = stage;
        next = lengths;
        ((at = put(at, fields, *next++)), ...);
        cloister_trace_fire(&event_class, stage, size, clipped);
    }
}

}  // namespace detail
}  // namespace trace
}  // namespace cloister

// Gives an enumeration's values names in the description of its fields: CLOISTER_ENUM(Side, (buy), (sell)); in the
// namespace of the enumeration. Up to 16 names.
#define CLOISTER_ENUM(type, ...)                                                                           \
    inline constexpr auto cloister_names_of_##type = [] {                                                  \
        using enum type;                                                                                   \
        return std::to_array<::cloister_enumerator>(                                                       \
            {CLOISTER_LIST_(CLOISTER_ENUMERATOR_, CLOISTER_COUNT_(type, , __VA_ARGS__), __VA_ARGS__)});    \
    }();                                                                                                   \
    [[maybe_unused]] constexpr const auto& cloister_enumerators(type) { return cloister_names_of_##type; } \
    static_assert(true)
#define CLOISTER_ENUMERATOR_(name) \
    { #name, static_cast < std::int64_t>(name) }

// The class has C linkage, so that units in C and in C++ share it; the function that lays out its fields does not, as
// the types of the two differ. Every module has its own: hidden.
#define CLOISTER_CLASS_(level, flags, provider, name, fields, count)                          \
    extern "C" {                                                                              \
    CLOISTER_HIDDEN_ inline constinit ::cloister_class cloister_class_##provider##_##name = { \
        #provider, #name, fields, count, level, flags, 0, nullptr, nullptr};                  \
    }                                                                                         \
    static_assert(true)
#define CLOISTER_LAYOUT_ CLOISTER_HIDDEN_ inline __attribute__((cold, noinline)) void

#define CLOISTER_EVENT_0(level, flags, provider, name)                      \
    CLOISTER_CLASS_(level, flags, provider, name, nullptr, 0);              \
    CLOISTER_LAYOUT_ cloister_fire_##provider##_##name() {                  \
        cloister_trace_fire(&cloister_class_##provider##_##name, "", 0, 0); \
        CLOISTER_KEEP_FRAME_(flags);                                        \
    }                                                                       \
    static_assert(true)
#define CLOISTER_EVENT_1(level, flags, provider, name, ...) \
    CLOISTER_EVENT_2_(level, flags, provider, name, CLOISTER_COUNT_(provider, name, __VA_ARGS__), __VA_ARGS__)
#define CLOISTER_EVENT_2_(level, flags, provider, name, count, ...)                                               \
    CLOISTER_HIDDEN_ inline constexpr ::cloister_field cloister_fields_##provider##_##name[] = {                  \
        CLOISTER_LIST_(CLOISTER_DESCRIBE_, count, __VA_ARGS__)};                                                  \
    CLOISTER_CLASS_(level, flags, provider, name, cloister_fields_##provider##_##name, count);                    \
    CLOISTER_LAYOUT_ cloister_fire_##provider##_##name(CLOISTER_LIST_(CLOISTER_PARAMETER_, count, __VA_ARGS__)) { \
        ::cloister::trace::detail::fire(cloister_class_##provider##_##name,                                       \
                                        CLOISTER_LIST_(CLOISTER_NAME_, count, __VA_ARGS__));                      \
        CLOISTER_KEEP_FRAME_(flags);                                                                              \
    }                                                                                                             \
    static_assert(true)
#define CLOISTER_PARAMETER_(type, name) type name
#define CLOISTER_NAME_(type, name) name
#define CLOISTER_DESCRIBE_(type, name) ::cloister::trace::detail::describe<type>(#name)
