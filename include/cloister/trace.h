/* Static tracepoints: what a program, a tracer, and the generated code of a tracepoint agree on. C11 (GNU) and C++20.
 *
 *     CLOISTER_EVENT(book, filled, (uint64_t, order), (double, price), (const char*, venue));   once, at file scope
 *     CLOISTER_TRACE(book, filled, order, price, venue);                                        wherever it happens
 *
 * Off, CLOISTER_TRACE is one 5-byte NOP, and none of its arguments is evaluated. On, the NOP is a jump to code out of
 * line, which evaluates the arguments, lays them out in a buffer on the stack, and calls the probes of the class.
 * C++ includes <cloister/trace.hpp>, which has more types. Up to 16 fields; a type with a comma in it needs an alias.
 *
 * Payload: CTF, byte-packed (alignment 1), little-endian, in the order of the fields.
 *   integers, reals, enumerations   as they are, 1 to 8 bytes          bool       one byte, 0 or 1
 *   pointers other than strings     8 bytes                            strings    up to the first NUL, then NUL
 *   sequences                       32-bit count of elements, then the elements
 * All fields together take at most CLOISTER_PAYLOAD_MAX bytes. What the fixed-size fields leave is divided evenly among
 * strings and sequences; one that is longer than its part is clipped (to whole elements) and counted.
 *
 * A thread's first event asks the kernel who the thread is (gettid, tgkill); no later one makes a system call. A thread
 * that enters a sandbox which forbids them has its first event before, else its events are lost and counted
 * (cloister_losses.no_slot), or it is killed if that is what the sandbox does.
 *
 * A class belongs to its module (the program, or one shared library): two modules that use the same event have two
 * classes of the same name. Modules announce themselves when they are loaded, and take leave before they are unloaded.
 * A shared library leaves the runtime to the program: it is compiled with CLOISTER_TRACE_LIBRARY, is not linked with
 * it, and its tracepoints stay off where the program has none (or does not export it: -rdynamic, or what the CMake
 * target cloister::trace adds).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cloister/detail/lists.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CLOISTER_HIDDEN_ __attribute__((visibility("hidden")))
#ifdef CLOISTER_TRACE_LIBRARY
#define CLOISTER_RUNTIME_ __attribute__((weak))
#else
#define CLOISTER_RUNTIME_
#endif

enum { CLOISTER_PAYLOAD_MAX = 4096, CLOISTER_FIELDS_MAX = 16 };

/* Log levels, as in syslog(3): the lower, the graver. */
enum {
    CLOISTER_EMERGENCY,
    CLOISTER_ALERT,
    CLOISTER_CRITICAL,
    CLOISTER_ERROR,
    CLOISTER_WARNING,
    CLOISTER_NOTICE,
    CLOISTER_INFO,
    CLOISTER_DEBUG
};

/* Flags of a class.
 * CLOISTER_CALL_STACK: the recorder writes the call stack with each event, from the site outwards, as the first field
 * call_stack (no other may have that name). It follows frame pointers, and has the kernel read the stack, as these may
 * lead anywhere: one system call (process_vm_readv) for each half KiB. Where a sandbox forbids it the stack is empty. */
enum { CLOISTER_CALL_STACK = 1 };

enum { /* kinds of fields */
       CLOISTER_INTEGER,
       CLOISTER_REAL,
       CLOISTER_BOOLEAN,
       CLOISTER_ENUMERATION,
       CLOISTER_POINTER,
       CLOISTER_STRING
};

struct cloister_enumerator {
    const char* name;
    int64_t value;
};

struct cloister_field {
    const char* name;
    const struct cloister_enumerator* enumerators; /* of an enumeration whose names were given; else null */
    uint16_t enumerator_count;
    uint8_t kind;
    uint8_t bits; /* 8, 16, 32 or 64; of one element for a sequence; 0 for a string */
    uint8_t is_signed;
    uint8_t base; /* for display: 10 or 16 */
    uint8_t is_sequence;
};

/* An event class. Its description never changes; what is below `flags` belongs to the runtime. */
struct cloister_class {
    const char *provider, *name;
    const struct cloister_field* fields;
    uint32_t field_count;
    uint8_t level, flags;
    uint8_t on;                  /* what its sites are, or are becoming */
    const void *probes, *filter; /* immutable, replaced as a whole: see src/tracepoint/grace.hpp */
};

struct cloister_event {
    const struct cloister_class* event_class;
    const void* payload; /* valid during the call of the probe */
    size_t size;         /* bytes */
    uint32_t clipped;    /* how many of its fields were clipped */
    const void* frame;   /* {the caller's frame pointer, return address} of who has called cloister_trace_fire */
};

/* Called for every event of a class it was added to, in whatever context the event happens, signal handlers included:
 * it must be async-signal-safe and must not throw. errno is kept for it. */
typedef void (*cloister_probe)(void* data, const struct cloister_event* event);

/* One tracepoint in the code. Emitted by CLOISTER_TRACE into the section cloister_sites. */
struct cloister_site {
    unsigned char* nop;      /* the five bytes */
    const unsigned char* on; /* the code out of line */
    struct cloister_class* event_class;
};

/* The sites of one module. Zero-initialised; `state` belongs to the runtime. */
struct cloister_module {
    const struct cloister_site *start, *stop;
    void* state;
};

/* Generated code only. Registering twice is allowed, as every unit of a module does it. */
void cloister_trace_register(struct cloister_module* module) CLOISTER_RUNTIME_;
void cloister_trace_unregister(struct cloister_module* module) CLOISTER_RUNTIME_;
void cloister_trace_fire(struct cloister_class* event_class, const void* payload, size_t size,
                         uint32_t clipped) CLOISTER_RUNTIME_;

/* --- Control. Not async-signal-safe, except where it says so. The same in C++: cloister::trace in
 * <cloister/trace.hpp>.
 *
 * Functions that can fail return a negative number and write why into error[0, size), with a NUL, clipped to size;
 * error may be null if size is 0. */

/* Turns on all classes whose "provider:name" matches the glob (* ? [..]) and whose level is at most `level`, now and
 * when further modules are loaded. `filter` ("" or null: none) is an expression on the fields, such as
 *     price >= 100.5 && (venue == "XETR" || !(order < 10))
 * An event of these classes is dropped before any probe sees it unless the filter holds. Of several globs that match a
 * class the one that was named last decides. Returns the number of classes that match now; 0 is not an error. */
int cloister_trace_enable(const char* glob, int level, const char* filter, char* error, size_t size);
/* The opposite. Once it has returned, no thread enters the code out of line of these classes. */
int cloister_trace_disable(const char* glob, char* error, size_t size);

/* The same on behalf of somebody other than the program, a tracer that comes and goes: `entries` are GLOB[@LEVEL][ if
 * FILTER], separated by ";". Either all are turned on, or none. `owner` is any number but 0. Returns the number of
 * classes that match now. */
int cloister_trace_enable_for(int owner, const char* entries, char* error, size_t size);
/* Takes back what was turned on for this owner: what the program itself has turned on stays on. */
int cloister_trace_release(int owner, char* error, size_t size);

/* Adds a probe to all classes that match the glob, now and later. `tracer` in [0, 63] names the tracer for the
 * recursion word: an event that happens while that tracer's probe runs, in the same context, is not shown to that
 * tracer (see src/tracepoint/context.hpp). Returns the probe's id, or a negative number: tracer out of range. */
int cloister_trace_add_probe(const char* glob, cloister_probe probe, void* data, int tracer);
/* Removes it. It may still be running, until cloister_trace_synchronize. Returns 0, or -1: no such id. */
int cloister_trace_remove_probe(int id);
/* Waits until every probe that was removed before has returned for good, in all threads and signal handlers. Negative:
 * a thread did not leave its probe for 10 s (the error names it), or this was called from inside a probe. */
int cloister_trace_synchronize(char* error, size_t size);

/* Calls visit for each class of each registered module until it returns non-zero, and returns that. The runtime's lock
 * is held: visit calls no other function of the runtime. */
int cloister_trace_classes(int (*visit)(void* data, const struct cloister_class* event_class), void* data);

/* A probe that has data of its own for each class, made before the first event of the class can reach it: what it needs
 * to know of the class it is handed, and has not to look up. As a class is bound each time its module is registered, the
 * data cannot be mixed up with that of another class that was at the same address before.
 *
 * bind is called for each class that there is, and for those that come as they do; the runtime's lock is held, as in
 * cloister_trace_classes. It returns what the probe is called with for events of the class, or null: then it is not. If
 * something went wrong it writes what into error[0, size), which was empty. */
struct cloister_tracer {
    cloister_probe probe;
    int tracer; /* as of cloister_trace_add_probe */
    void* (*bind)(void* owner, const struct cloister_class* event_class, char* error, size_t size);
    void* owner;
};
/* Returns an id, for cloister_trace_remove_probe; or a negative number, and nothing was added: tracer out of range, or
 * what bind said. What it says later, while modules are loaded, goes to cloister_trace_load_errors. */
int cloister_trace_add_tracer(const struct cloister_tracer* tracer, char* error, size_t size);

/* What went wrong while modules were loaded (cloister::trace::load_errors), as far as it fits. Returns its length. */
size_t cloister_trace_load_errors(char* text, size_t size);

/* What did not reach a probe, since the start of the process. Async-signal-safe. */
struct cloister_losses {
    uint64_t recursions; /* calls of a probe that were broken off: the tracer would have traced itself */
    uint64_t too_deep;   /* events more than 8 deep in signal handlers inside probes */
    uint64_t no_slot;    /* events of threads beyond the 4096th that lives at the same time */
    uint64_t clipped;    /* fields that were clipped (their events were shown) */
};
struct cloister_losses cloister_trace_losses(void);

/* In a loop: notices that more than the threshold has passed since this thread's last call, and then fires the event
 * cloister:gap {uint64_t duration, ns}. Costs one reading of the TSC. Async-signal-safe. */
void cloister_beat(void);
/* In ns; 10 us until it is set. Async-signal-safe. */
void cloister_beat_threshold(uint64_t ns);

#ifdef __cplusplus
}
#define CLOISTER_ONCE_ inline
#else
#define CLOISTER_ONCE_ __attribute__((weak))
#endif

/* --- What every unit carries: its module's record, and the calls that announce it. */

#ifdef __cplusplus
extern "C" {
#endif
extern const struct cloister_site __start_cloister_sites[] __attribute__((weak)) CLOISTER_HIDDEN_;
extern const struct cloister_site __stop_cloister_sites[] __attribute__((weak)) CLOISTER_HIDDEN_;
CLOISTER_HIDDEN_ CLOISTER_ONCE_ struct cloister_module cloister_this_module = {0, 0, 0};
#ifdef __cplusplus
}
#endif

/* Before other constructors and after other destructors, so that those may be traced. */
__attribute__((constructor(101))) static void cloister_enter_module_(void) {
#ifdef CLOISTER_TRACE_LIBRARY
    if (!cloister_trace_register) return;
#endif
    cloister_this_module.start = __start_cloister_sites;
    cloister_this_module.stop = __stop_cloister_sites;
    cloister_trace_register(&cloister_this_module);
}
__attribute__((destructor(101))) static void cloister_leave_module_(void) {
#ifdef CLOISTER_TRACE_LIBRARY
    if (!cloister_trace_unregister) return;
#endif
    cloister_trace_unregister(&cloister_this_module);
}

/* --- The site.
 *
 * Section flags: "w" because a shared library's addresses are relocated; "R" keeps the record where the linker collects
 * garbage; "?" puts it into the group of the function it stands in, so that the records of an inline function are
 * thrown away together with its surplus copies, instead of pointing into them. */
#define CLOISTER_NOP_(class_symbol, label)                                      \
    __asm__ goto(                                                               \
        "771: .byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n" /* nopl 0x0(%rax,%rax,1) */ \
        ".pushsection cloister_sites, \"awR?\", @progbits\n"                    \
        ".balign 8\n"                                                           \
        ".quad 771b, %l[" #label                                                \
        "], %c[event_class]\n"                                                  \
        ".popsection"                                                           \
        :                                                                       \
        : [event_class] "i"(&(class_symbol))                                    \
        :                                                                       \
        : label)
#if defined(__clang__) && defined(__cplusplus)
/* Before version 17, clang wants every asm goto of a function to be able to jump to the labels of all the others, and
 * refuses that where a variable with a destructor lies between. In a function of its own, each has only its own label.
 */
#define CLOISTER_SITE_(class_symbol, call)                              \
    __extension__({                                                     \
        struct cloister_site_ {                                         \
            static inline __attribute__((always_inline)) bool is_on() { \
                CLOISTER_NOP_(class_symbol, cloister_on_);              \
                return false;                                           \
            cloister_on_:                                               \
                return true;                                            \
            }                                                           \
        };                                                              \
        if (__builtin_expect(cloister_site_::is_on(), false)) call;     \
        (void)0;                                                        \
    })
#else
#ifdef __clang__
#define CLOISTER_COLD_
#else
#define CLOISTER_COLD_ __attribute__((cold))
#endif
#define CLOISTER_SITE_(class_symbol, call)         \
    __extension__({                                \
        __label__ cloister_on_;                    \
        CLOISTER_NOP_(class_symbol, cloister_on_); \
        if (0) {                                   \
        cloister_on_:                              \
            CLOISTER_COLD_;                        \
            call;                                  \
        }                                          \
        (void)0;                                   \
    })
#endif

/* In the function that lays out the fields, behind its call of cloister_trace_fire: it has a frame of its own with a frame
 * pointer, whatever the program is compiled with, where its class wants call stacks. So the site itself is always found;
 * what is beyond it takes -fno-omit-frame-pointer. */
#define CLOISTER_KEEP_FRAME_(flags) \
    if ((flags)&CLOISTER_CALL_STACK) __asm__ volatile("" : : "r"(__builtin_frame_address(0)))

/* Fires an event of the class. The arguments are converted to the types of the fields as those of a function are. */
#define CLOISTER_TRACE(...) CLOISTER_CAT_(CLOISTER_TRACE_, CLOISTER_SHAPE_(__VA_ARGS__))(__VA_ARGS__)
#define CLOISTER_TRACE_0(provider, name) \
    CLOISTER_SITE_(cloister_class_##provider##_##name, cloister_fire_##provider##_##name())
#define CLOISTER_TRACE_1(provider, name, ...) \
    CLOISTER_SITE_(cloister_class_##provider##_##name, cloister_fire_##provider##_##name(__VA_ARGS__))

/* The class that CLOISTER_EVENT(provider, name, ...) has defined, a struct cloister_class. */
#define CLOISTER_EVENT_CLASS(provider, name) (cloister_class_##provider##_##name)

/* Defines an event class: CLOISTER_EVENT(provider, name, (type, field)...). With a log level other than CLOISTER_INFO,
 * or flags: CLOISTER_EVENT_WITH(CLOISTER_DEBUG, CLOISTER_CALL_STACK, provider, name, (type, field)...). */
#define CLOISTER_EVENT(...) CLOISTER_EVENT_WITH(CLOISTER_INFO, 0, __VA_ARGS__)
#define CLOISTER_EVENT_WITH(level, flags, ...) \
    CLOISTER_CAT_(CLOISTER_EVENT_, CLOISTER_SHAPE_(__VA_ARGS__))(level, flags, __VA_ARGS__)

#ifndef __cplusplus
#include <cloister/detail/trace_c.h>
#endif
