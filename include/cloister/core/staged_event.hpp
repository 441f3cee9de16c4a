// Events of any size: begin, append, commit. Freestanding: no libc, no allocation, some 4.2 KiB of stack. fragment.hpp
// is the specification.
#pragma once

#include "cloister/core/fragment.hpp"
#include "cloister/core/lane_writer.hpp"

// The tests build the mistakes that fragment.hpp names as well, and must catch each (tests/step).
#ifndef CLOISTER_FRAGMENT_MUTANT
#define CLOISTER_FRAGMENT_MUTANT 0
#endif

namespace cloister::core {

// Who an event is by, and which of the author's it is.
struct Authorship {
    u32 thread = 0;
    u64 instance = 0;
};

// In the thread-local storage of each thread; zero bytes are one without a name.
struct Author {
    u64 instances = 0;  // the next one
    u32 thread = 0;
};

// Names the author, and gives it its first instance if it has none. `first`: the TSC. Async-signal-safe.
inline void introduce(Author& author, u32 thread, u64 first) {
    author.thread = thread;
#if CLOISTER_FRAGMENT_MUTANT == 2
    if (author.instances == 0) __atomic_store_n(&author.instances, first, __ATOMIC_RELAXED);
#else
    u64 none = 0;
    __atomic_compare_exchange_n(&author.instances, &none, first, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
#endif
}

[[nodiscard]] inline Authorship next_of(Author& author) {
#if CLOISTER_FRAGMENT_MUTANT == 1
    const u64 taken = __atomic_load_n(&author.instances, __ATOMIC_RELAXED);
    __atomic_store_n(&author.instances, taken + 1, __ATOMIC_RELAXED);
#else
    u64 taken = 1;
    asm volatile("xaddq %[taken], %[instances]" : [taken] "+r"(taken), [instances] "+m"(author.instances) : : "cc");
#endif
    return {author.thread, taken};
}

// Where whole events go, and who they are by.
struct Sink {
    // Writes one event whose payload can be read up to a multiple of 4 bytes without a fault. Async-signal-safe.
    Wrote (*write)(const void* to, u64 which, u32 id, const void* payload, u32 bytes) = nullptr;
    // Asked once for each event that becomes fragments, before its first. Async-signal-safe.
    Authorship (*author)() = nullptr;
    const void* to = nullptr;
    u64 which = 0;
    u32 largest = kMinSize / 4;  // event with its header, bytes: Shape::largest()
};
[[nodiscard]] Sink sink_of(const View& view, Authorship (*author)());  // the view must outlive it

// An event in the making. Sizes in bytes. All of it is async-signal-safe; the payload may fault when it is read. One
// that is left without its destructor (longjmp, a thread that ends) is as one whose author was killed (P4).
class StagedEvent {
public:
    // Begins an event of class `id`, which is not kFragmentId. All of it is this thread's.
    StagedEvent(const Sink& to, u32 id) : to_(to), id_(id) {}
    StagedEvent(const StagedEvent&) = delete;
    StagedEvent& operator=(const StagedEvent&) = delete;
    ~StagedEvent() { drop(); }

    // Adds to the payload. Anything but Wrote::done: a fragment was lost, and the event cannot become whole any more.
    Wrote append(const void* data, u64 bytes) noexcept;
    // Ends the event. Wrote::done: all of it is in its lanes. Otherwise what has become of the first fragment that was
    // lost. Once; later calls say the same.
    Wrote commit() noexcept;
    // Ends it without: nothing of it is shown if nothing was written so far, else it is shown as incomplete.
    void drop() noexcept;

private:
    // An ordinary event has room for so much payload; a fragment for so much of an event's.
    [[nodiscard]] u32 whole() const { return to_.largest - kLongHeader; }
    [[nodiscard]] u32 part() const { return whole() - kFragmentHead; }
    void put_fragment(FragmentEnd end, u32 bytes);

    Sink to_;
    Authorship author_;
    u64 begun_ = 0;
    u32 id_, index_ = 0, staged_ = 0;
    Wrote wrote_ = Wrote::done;  // of the first fragment that was lost
    bool ended_ = false, in_lanes_ = false;
    // A head, then what is staged, and what rounds it up to 8 bytes.
    alignas(8) u8 stage_[kFragmentHead + kMaxEvent - kLongHeader + 4];
};

}  // namespace cloister::core
