// The flight recorder of a program: every event of its tracepoints that is enabled goes into a segment of shared
// memory, where it can be read at any time, from inside, by `cloister snapshot --pid PID`, or from the segment's file
// when the program is dead.
//
//     cloister::record::start({.path = "/dev/shm/engine"});
//     cloister::trace::enable("book:*");
//
// An event is written where it happens, in whatever context, signal handlers included; it takes no lock and no atomic
// read-modify-write, and costs about as much as reading the clock. docs/format.md specifies the segment.
//
// Threads without restartable sequences (rseq(2); glibc.pthread.rseq=0 turns them off) and children of vfork write to a
// lane that they share, with atomic instructions: some five times slower, and an event of theirs that is killed or left by
// longjmp half-way is shown as lost. In a trace these are streams without a CPU.
#pragma once

#include <cstdint>
#include <string>

namespace cloister::record {

struct Options {
    std::string path = {};          // of the segment's file, which must not exist; "": memory without a name
    std::uint32_t sub_buffers = 8;  // of each CPU: a power of two, 2 to 4096
    std::uint32_t sub_buffer_bytes = 128 << 10;  // a power of two, 4 KiB to 64 MiB
    bool discard = false;     // when all are full: false overwrites the oldest, true counts what it drops
    bool huge_pages = false;  // of 2 MiB, if there are any
};

// If `error` is not empty nothing was done, and it says what is needed, what was found and what to set.
struct [[nodiscard]] Outcome {
    std::string error = {};
    explicit operator bool() const { return error.empty(); }
};

// Begins; once at a time. Not async-signal-safe, as all functions here but losses().
Outcome start(const Options& options = {});
// Maps and locks the memory of a CPU's lane, so that no event there ever waits for memory: for the CPU of a task that
// must not be delayed, before it begins. Otherwise memory comes with the first event on a CPU, which takes some 100 us.
Outcome prepare(int cpu);
// After libraries with tracepoints were loaded while it records: their events are counted in Losses::unknown until
// then.
Outcome refresh();
// What is in the segment now, as a trace (CTF 1.8) in a new or empty directory. Writers run on.
Outcome snapshot(const std::string& directory);
// Ends it. The file of a segment with a path stays.
void stop();

struct Losses {
    std::uint64_t refused =
        0;  // no memory, a child of fork before it has a recording of its own, larger than a quarter of a sub-buffer
    std::uint64_t unknown = 0;  // of classes that refresh() has not seen
};
// Of this recording. What was dropped or overwritten for want of room stands in the trace. Async-signal-safe.
[[nodiscard]] Losses losses();

}  // namespace cloister::record
