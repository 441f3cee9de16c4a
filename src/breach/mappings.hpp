// Keeps unwind::AddressSpaces up to date with what a process and its descendants map, fork and execute.
#pragma once

#include <cstdint>
#include <vector>

#include "base/error.hpp"
#include "system/task_events.hpp"
#include "unwind/symbols.hpp"

namespace cloister::breach {

class Mappings {
public:
    // Follows `pid` (held back before its exec, or running: what it has mapped already is read from /proc) and
    // everything it starts from now on. Needs no privilege for a process of the same user. `spaces` must outlive this.
    // Errors: those of system::TaskEvents::open.
    [[nodiscard]] static Result<Mappings> follow(pid_t pid, unwind::AddressSpaces& spaces);

    // Brings `spaces` to the state of this moment. Poll it: a ring holds a few hundred mappings.
    void drain();
    // Changes that found no room in the rings: addresses of a module mapped then stay unnamed.
    [[nodiscard]] std::uint64_t lost() const { return events_.lost(); }

private:
    struct Change {
        enum class Kind { map, fork, exec } kind;
        std::uint64_t time;
        std::uint32_t tgid;
        std::uint32_t child;  // fork
        unwind::AddressSpaces::Map map;
    };
    explicit Mappings(system::TaskEvents events, unwind::AddressSpaces& spaces)
        : events_(std::move(events)), spaces_(&spaces) {}
    void take(const perf_event_header& record);
    void apply(Change& change);

    system::TaskEvents events_;
    unwind::AddressSpaces* spaces_;
    std::vector<Change> changes_;  // read, not yet applied
};

}  // namespace cloister::breach
