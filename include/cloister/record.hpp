// The flight recorder of a program: every event of its tracepoints that is enabled goes into a segment of shared
// memory, where it can be read at any time, from inside, by `cloister snapshot --pid PID`, or from the segment's file
// when the program is dead. In C: <cloister/record.h>.
//
//     cloister::record::start({.path = "/dev/shm/engine"});
//     cloister::trace::enable("book:*");
//
// An event is written where it happens, in whatever context, signal handlers included; it takes no lock and no atomic
// read-modify-write, and costs about as much as reading the clock. docs/format.md specifies the segment.
//
// Libraries that are loaded while it records take part by themselves: their event classes are declared in the segment
// before their first event.
//
// Threads without restartable sequences (rseq(2); glibc.pthread.rseq=0 turns them off) and children of vfork write to a
// lane that they share, with atomic instructions: some five times slower, and an event of theirs that is killed or left
// by longjmp half-way is shown as lost. In a trace these are streams without a CPU.
//
// fork: the recording goes on in the parent. In the child events are refused and counted there (losses()) until it has
// called start(), which begins a recording of its own as if there had been none; prepare(), refresh() and snapshot() say
// that nothing is recorded, and stop() forgets the parent's recording without touching it. Any thread may fork at any
// time; it waits while another is inside start() or stop().
#pragma once

#include <cloister/trace.h>
#include <cloister/core/staged_event.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace cloister::record {

// Which events go into a channel, of those that are enabled (<cloister/trace.hpp>).
struct Events {
    std::string glob = "*";   // over "provider:name"
    int level = 7;            // CLOISTER_DEBUG: these and graver ones
    std::string filter = {};  // an expression on the fields, as for trace::enable(); "": all
};

// Memory of its own for some of the events: what happens seldom is not overwritten by what happens often.
struct Channel {
    std::string name = "flight";                 // 1 to 31 letters, digits and '_'; not metadata, index or modules
    std::uint32_t sub_buffers = 8;               // of each CPU: a power of two, 2 to 4096
    std::uint32_t sub_buffer_bytes = 128 << 10;  // a power of two, 4 KiB to 64 MiB
    bool discard = false;  // when all are full: false overwrites the oldest, true counts what it drops
    // What one of them lets through. An event goes into every channel that wants it.
    std::vector<Events> events = {{}};
};

struct Options {
    std::string path = {};  // of the segment's file, which must not exist; "": memory without a name
    // Of the channel "flight", which has all events, where no others are given.
    std::uint32_t sub_buffers = Channel().sub_buffers;
    std::uint32_t sub_buffer_bytes = Channel().sub_buffer_bytes;
    bool discard = false;
    bool huge_pages = false;             // of 2 MiB, if there are any
    std::vector<Channel> channels = {};  // 1 to 16 of them, instead of that one
};

// If `error` is not empty nothing was done, and it says what is needed, what was found and what to set.
struct [[nodiscard]] Outcome {
    std::string error = {};
    explicit operator bool() const { return error.empty(); }
};

// Begins; once at a time. Not async-signal-safe, as all functions here but losses(); all are thread-safe, and none may be
// called from a probe.
Outcome start(const Options& options = {});
// Maps and locks the memory of a CPU's lanes, so that no event there ever waits for memory: for the CPU of a task that
// must not be delayed, before it begins. Otherwise memory comes with the first event on a CPU, which takes some 100 us.
Outcome prepare(int cpu);
// Notes where modules lie that were loaded since, for call stacks (CLOISTER_CALL_STACK): after libraries without
// tracepoints were loaded. start(), snapshot() and the loading of a library with tracepoints do so by themselves.
Outcome refresh();
// What is in the segment now, as a trace (CTF 1.8) in a new or empty directory: of all channels, or of those named.
// Writers run on.
Outcome snapshot(const std::string& directory, const std::vector<std::string>& channels = {});
// Ends it, when no event is being written any more. The file of a segment with a path stays.
void stop();

// Events that are not in the segment. What was overwritten for want of room is not among them: the trace shows it.
struct Losses {
    std::uint64_t refused = 0;  // no memory, a child of fork before it has a recording of its own
    std::uint64_t dropped = 0;  // a channel that discards was full; the trace says where
    std::uint64_t unknown = 0;  // of classes that could not be declared; trace::load_errors() says why
};
// Of the recording, or of the last one when there is none: each event counts once for each channel that it was lost for.
// Async-signal-safe.
[[nodiscard]] Losses losses();
// Of one channel: its index in Options::channels. Without `unknown`, which has no channel.
[[nodiscard]] Losses losses(std::size_t channel);

// An event of any size, built piece by piece where a tracepoint would have to lay it out at once (and clip it):
//
//     CLOISTER_EVENT(book, image, (std::uint64_t, order), (std::span<const std::uint8_t>, bytes));
//     cloister::record::LargeEvent event(CLOISTER_EVENT_CLASS(book, image));
//     event.append(&order, sizeof order);
//     event.append(&count, sizeof count);  // 32 bits, before the elements
//     while (...) event.append(piece, size);
//     event.commit();
//
// The pieces one after the other are the payload as <cloister/trace.h> has it: fields without padding, strings with
// their NUL. One that is small in the end is written at its commit as that of any tracepoint. A larger one is written
// in fragments of up to 4 KiB as it grows, between which other events may come, and the thread may move to another CPU;
// a reader shows it as one event at the time of its commit, or as an incomplete one if a part of it is missing.
//
// Recorded if the class is enabled when it is begun, in all channels that want the class; no filter is asked, since there
// are no fields yet. Its call stack, if the class has one, is that of its begin. All of it is async-signal-safe and takes 4.3 KiB of stack. It belongs to the thread that began it. Pieces may be empty, of any
// size, and lie anywhere. If the recording ends meanwhile, what follows is not recorded.
struct Target;
class LargeEvent {
public:
    explicit LargeEvent(const cloister_class& event_class) noexcept;
    LargeEvent(const LargeEvent&) = delete;
    LargeEvent& operator=(const LargeEvent&) = delete;
    // Without a commit it is dropped: at no cost, and without a trace, as long as it was small; else it is shown as
    // incomplete.
    ~LargeEvent() = default;

    // False: it will not be recorded as a whole (not enabled, no recording, no room), so that the rest can be saved.
    bool append(const void* data, std::size_t bytes) noexcept;
    // Whether all of it has been recorded.
    bool commit() noexcept;

private:
    LargeEvent(const Target& target, const void* frame, const void* site) noexcept;
    bool wanted_ = false;
    core::StagedEvent event_;
};

}  // namespace cloister::record
