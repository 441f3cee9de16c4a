/* Event classes in C11 (GNU): what CLOISTER_EVENT makes of its fields. <cloister/trace.h> says what they are.
 *
 * Types of fields: integers, enumerations (shown as integers), float, double, bool, const char* (null is ""), pointers,
 * and for sequences struct cloister_sequence_u8 to _u64, _i8 to _i64, _f32 and _f64 {data, count}. */
#pragma once

#define CLOISTER_SEQUENCE_(suffix, type) \
    struct cloister_sequence_##suffix {  \
        const type* data;                \
        uint32_t count;                  \
    }
CLOISTER_SEQUENCE_(u8, uint8_t);
CLOISTER_SEQUENCE_(u16, uint16_t);
CLOISTER_SEQUENCE_(u32, uint32_t);
CLOISTER_SEQUENCE_(u64, uint64_t);
CLOISTER_SEQUENCE_(i8, int8_t);
CLOISTER_SEQUENCE_(i16, int16_t);
CLOISTER_SEQUENCE_(i32, int32_t);
CLOISTER_SEQUENCE_(i64, int64_t);
CLOISTER_SEQUENCE_(f32, float);
CLOISTER_SEQUENCE_(f64, double);

/* m(sequence type, what) for each of them, in a _Generic; the element's size in bytes is `what`'s to know. */
#define CLOISTER_SEQUENCES_(m)                                                                       \
    struct cloister_sequence_u8 : m(1),                                                              \
                                  struct cloister_sequence_i8 : m(1),                                \
                                                                struct cloister_sequence_u16         \
        : m(2),                                                                                      \
          struct cloister_sequence_i16 : m(2),                                                       \
                                         struct cloister_sequence_u32 : m(4),                        \
                                                                        struct cloister_sequence_i32 \
        : m(4),                                                                                      \
          struct cloister_sequence_f32 : m(4),                                                       \
                                         struct cloister_sequence_u64 : m(8),                        \
                                                                        struct cloister_sequence_i64 \
        : m(8),                                                                                      \
          struct cloister_sequence_f64 : m(8)
#define CLOISTER_SAME_(x) x
#define CLOISTER_ZERO_(x) 0
#define CLOISTER_FOUR_(x) 4
#define CLOISTER_STRINGS_(x) const char* : x, char* : x

#define CLOISTER_OF_(type) *(type*)0 /* an operand of _Generic: never evaluated */
/* Bytes of an element of a sequence; 0 for what is none. */
#define CLOISTER_ELEMENT_(type) _Generic(CLOISTER_OF_(type), CLOISTER_SEQUENCES_(CLOISTER_SAME_), default : 0)
#define CLOISTER_FIXED_(type) \
    _Generic(CLOISTER_OF_(type), CLOISTER_STRINGS_(1), CLOISTER_SEQUENCES_(CLOISTER_FOUR_), default : sizeof(type))
#define CLOISTER_IS_STRING_(type) \
    _Generic(CLOISTER_OF_(type), CLOISTER_STRINGS_(1), CLOISTER_SEQUENCES_(CLOISTER_ZERO_), default : 0)
#define CLOISTER_IS_VARIABLE_(type) (CLOISTER_IS_STRING_(type) || CLOISTER_ELEMENT_(type))

#define CLOISTER_KINDS_(i, r, b, s, p)                                                                                \
    _Bool:                                                                                                            \
    b, float : r,                                                                                                     \
               double : r,                                                                                            \
                        char : i,                                                                                     \
                               signed char : i,                                                                       \
                                             unsigned char : i,                                                       \
                                                             short : i,                                               \
                                                                     unsigned short : i,                              \
                                                                                      int : i,                        \
                                                                                            unsigned : i,             \
                                                                                                       long           \
        : i,                                                                                                          \
          unsigned long : i,                                                                                          \
                          long long : i,                                                                              \
                                      unsigned long long : i,                                                         \
                                                           struct cloister_sequence_u8 : i,                           \
                                                                                         struct cloister_sequence_u16 \
        : i,                                                                                                          \
          struct cloister_sequence_u32 : i,                                                                           \
                                         struct cloister_sequence_u64 : i,                                            \
                                                                        struct cloister_sequence_i8                   \
        : i,                                                                                                          \
          struct cloister_sequence_i16 : i,                                                                           \
                                         struct cloister_sequence_i32 : i,                                            \
                                                                        struct cloister_sequence_i64                  \
        : i,                                                                                                          \
          struct cloister_sequence_f32 : r,                                                                           \
                                         struct cloister_sequence_f64 : r,                                            \
                                                                        const char* : s,                              \
                                                                                      char* : s,                      \
                                                                                              default : p
#define CLOISTER_KIND_(type)     \
    _Generic(CLOISTER_OF_(type), \
             CLOISTER_KINDS_(CLOISTER_INTEGER, CLOISTER_REAL, CLOISTER_BOOLEAN, CLOISTER_STRING, CLOISTER_POINTER))
#define CLOISTER_BASE_(type) _Generic(CLOISTER_OF_(type), CLOISTER_KINDS_(10, 10, 10, 10, 16))
#define CLOISTER_IS_SIGNED_(type)                                                                                   \
    _Generic(CLOISTER_OF_(type), char : 1, signed char : 1, short : 1, int : 1, long : 1, long long : 1, float : 1, \
             double : 1, struct cloister_sequence_i8 : 1, struct cloister_sequence_i16 : 1,                         \
             struct cloister_sequence_i32 : 1, struct cloister_sequence_i64 : 1, struct cloister_sequence_f32 : 1,  \
             struct cloister_sequence_f64 : 1, default : 0)
#define CLOISTER_BITS_(type) \
    (uint8_t)(CLOISTER_IS_STRING_(type) ? 0 : 8 * (CLOISTER_ELEMENT_(type) ? CLOISTER_ELEMENT_(type) : sizeof(type)))

/* Bytes of a variable field beyond its fixed size, at most `most`; whole elements. */
static inline size_t cloister_length_(const void* value, int is_string, size_t element, size_t most,
                                      uint32_t* clipped) {
    const char* text = 0;
    size_t wanted = 0, room = most;
    if (is_string) {
        memcpy(&text, value, sizeof(text));
        wanted = text ? strnlen(text, most + 1) : 0;
    } else if (element) {
        struct cloister_sequence_u8 sequence; /* all of them have this shape */
        memcpy(&sequence, value, sizeof(sequence));
        wanted = sequence.count * element;
        room = most / element * element;
    }
    if (wanted <= room) return wanted;
    ++*clipped;
    return room;
}

static inline char* cloister_put_(char* at, const void* value, size_t size, int is_string, size_t element,
                                  size_t length) {
    const char* data = (const char*)value;
    if (is_string || element) {
        memcpy(&data, value, sizeof(data));
        const uint32_t count = element ? (uint32_t)(length / element) : 0;
        if (element) memcpy(at, &count, 4), at += 4;
        if (length) memcpy(at, data, length);
        at += length;
        if (is_string) *at++ = 0;
        return at;
    }
    memcpy(at, data, size);
    return at + size;
}

#define CLOISTER_CLASS_(level, flags, provider, name, fields, count)                                    \
    CLOISTER_HIDDEN_ __attribute__((weak)) struct cloister_class cloister_class_##provider##_##name = { \
        #provider, #name, fields, count, level, flags, 0, 0, 0}
#define CLOISTER_LAYOUT_ static __attribute__((cold, noinline, unused)) void

#define CLOISTER_EVENT_0(level, flags, provider, name)                      \
    CLOISTER_CLASS_(level, flags, provider, name, 0, 0);                    \
    CLOISTER_LAYOUT_ cloister_fire_##provider##_##name(void) {              \
        cloister_trace_fire(&cloister_class_##provider##_##name, "", 0, 0); \
        CLOISTER_KEEP_FRAME_(flags);                                        \
    }                                                                       \
    _Static_assert(1, "")
#define CLOISTER_EVENT_1(level, flags, provider, name, ...) \
    CLOISTER_EVENT_2_(level, flags, provider, name, CLOISTER_COUNT_(provider, name, __VA_ARGS__), __VA_ARGS__)
/* Sizes first, then the copy: the buffer is as small as the event, since a signal handler's stack may be small too. */
#define CLOISTER_EVENT_2_(level, flags, provider, name, count, ...)                                               \
    static const struct cloister_field cloister_fields_##provider##_##name[] = {                                  \
        CLOISTER_LIST_(CLOISTER_DESCRIBE_, count, __VA_ARGS__)};                                                  \
    CLOISTER_CLASS_(level, flags, provider, name, cloister_fields_##provider##_##name, count);                    \
    CLOISTER_LAYOUT_ cloister_fire_##provider##_##name(CLOISTER_LIST_(CLOISTER_PARAMETER_, count, __VA_ARGS__)) { \
        enum {                                                                                                    \
            fixed_ = CLOISTER_SUM_(CLOISTER_FIXED_FIELD_, count, __VA_ARGS__),                                    \
            variable_ = CLOISTER_SUM_(CLOISTER_VARIABLE_FIELD_, count, __VA_ARGS__),                              \
            most_ = (CLOISTER_PAYLOAD_MAX - fixed_) / (variable_ ? variable_ : 1)                                 \
        };                                                                                                        \
        uint32_t clipped_ = 0;                                                                                    \
        const size_t lengths_[] = {CLOISTER_LIST_(CLOISTER_LENGTH_FIELD_, count, __VA_ARGS__)};                   \
        const size_t* next_ = lengths_;                                                                           \
        size_t size_ = fixed_;                                                                                    \
        for (size_t i_ = 0; i_ < (count); ++i_) size_ += lengths_[i_];                                            \
        char* const stage_ = (char*)__builtin_alloca(size_);                                                      \
        char* at_ = stage_;                                                                                       \
        CLOISTER_LIST_(CLOISTER_PUT_FIELD_, count, __VA_ARGS__);                                                  \
        cloister_trace_fire(&cloister_class_##provider##_##name, stage_, (size_t)(at_ - stage_), clipped_);       \
        CLOISTER_KEEP_FRAME_(flags);                                                                              \
    }                                                                                                             \
    _Static_assert(1, "")
#define CLOISTER_PARAMETER_(type, name) type name
#define CLOISTER_DESCRIBE_(type, name)                                                                            \
    {                                                                                                             \
#name, 0, 0, CLOISTER_KIND_(type), CLOISTER_BITS_(type), CLOISTER_IS_SIGNED_(type), CLOISTER_BASE_(type), \
            !!CLOISTER_ELEMENT_(type)                                                                             \
    }
#define CLOISTER_FIXED_FIELD_(type, name) CLOISTER_FIXED_(type)
#define CLOISTER_VARIABLE_FIELD_(type, name) CLOISTER_IS_VARIABLE_(type)
#define CLOISTER_LENGTH_FIELD_(type, name) \
    cloister_length_(&name, CLOISTER_IS_STRING_(type), CLOISTER_ELEMENT_(type), most_, &clipped_)
#define CLOISTER_PUT_FIELD_(type, name) \
    at_ = cloister_put_(at_, &name, sizeof(name), CLOISTER_IS_STRING_(type), CLOISTER_ELEMENT_(type), *next_++)
