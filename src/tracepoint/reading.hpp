// A reader in the sense of grace.hpp that is no event: what synchronize() waits for.
#pragma once

#include "tracepoint/grace.hpp"
#include "tracepoint/threads.hpp"

namespace cloister::tracepoint {

// While it lives, nothing is freed that was to be found when it began and is freed behind a synchronize(). On the stack
// only, as its mark (threads.hpp) is in the frame. Async-signal-safe.
class Reading {
public:
    Reading() : thread_(current ? current : claim()), entry_(thread_ ? enter(*thread_, mark_, period) : nullptr) {}
    Reading(const Reading&) = delete;
    Reading& operator=(const Reading&) = delete;
    ~Reading() {
        if (entry_) leave(*thread_, *entry_, mark_);
    }
    // False: this thread has no slot, or is inside of too many events; then it protects nothing.
    explicit operator bool() const { return entry_ != nullptr; }

private:
    Thread* thread_;
    Mark mark_;
    Entry* entry_;
};

}  // namespace cloister::tracepoint
