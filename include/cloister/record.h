/* The flight recorder of a program, in C11. <cloister/record.hpp> is the same in C++, and says more of each function.
 *
 *     struct cloister_record_options options = {.size = sizeof options, .path = "/dev/shm/engine"};
 *     char error[1024];
 *     if (cloister_record_start(&options, error, sizeof error) < 0) fputs(error, stderr);
 *     cloister_trace_enable("book:*", CLOISTER_DEBUG, 0, error, sizeof error);
 *
 * Functions that can fail return 0, or a negative number, and then write why into error[0, size), with a NUL, clipped to
 * size; error may be null if size is 0. None is async-signal-safe but cloister_record_losses; all are thread-safe. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Which events go into a channel, of those that are enabled (<cloister/trace.h>). All zero: all of them. */
struct cloister_record_events {
    const char* glob;   /* over "provider:name"; null: "*" */
    const int* level;   /* these and graver ones; null: CLOISTER_DEBUG */
    const char* filter; /* an expression on the fields, as for cloister_trace_enable; null: all */
};

struct cloister_record_channel {
    const char* name;          /* 1 to 31 letters, digits and '_'; not metadata, index or modules */
    uint32_t sub_buffers;      /* of each CPU: a power of two, 2 to 4096; 0: 8 */
    uint32_t sub_buffer_bytes; /* a power of two, 4 KiB to 64 MiB; 0: 128 KiB */
    int discard;               /* when all are full: 0 overwrites the oldest, 1 counts what it drops */
    const struct cloister_record_events* events; /* what one of them lets through; null: all events */
    size_t event_count;
};

/* Zero is the default of every member but `size`. New members will be added at the end. */
struct cloister_record_options {
    size_t size;      /* sizeof(struct cloister_record_options): which members the caller knows */
    const char* path; /* of the segment's file, which must not exist; null: memory without a name */
    int huge_pages;   /* 1: of 2 MiB, if there are any */
    const struct cloister_record_channel* channels; /* null: one named "flight", of all events */
    size_t channel_count;                           /* 1 to 16 */
};

/* Begins; once at a time. Null options: the defaults. */
int cloister_record_start(const struct cloister_record_options* options, char* error, size_t size);
/* Maps and locks the memory of a CPU's lanes, so that no event there ever waits for memory. */
int cloister_record_prepare(int cpu, char* error, size_t size);
/* Notes where modules without tracepoints lie that were loaded since, for call stacks. */
int cloister_record_refresh(char* error, size_t size);
/* What is in the segment now, as a trace (CTF 1.8) in a new or empty directory; of `count` channels by name, or of all if
 * count is 0. */
int cloister_record_snapshot(const char* directory, const char* const* channels, size_t count, char* error,
                             size_t size);
/* Ends it, when no event is being written any more. */
void cloister_record_stop(void);

/* Events that are not in the segment, once for each channel that they were lost for. */
struct cloister_record_lost {
    uint64_t refused; /* no memory, a child of fork, a thread without restartable sequences, or too large */
    uint64_t dropped; /* a channel that discards was full */
    uint64_t unknown; /* of classes that could not be declared */
};
/* Of the recording, or of the last one when there is none. Async-signal-safe. */
struct cloister_record_lost cloister_record_losses(void);
/* Of one channel: its index in the options. Without `unknown`, which has no channel. Async-signal-safe. */
struct cloister_record_lost cloister_record_channel_losses(size_t channel);

#ifdef __cplusplus
}
#endif
