// What is left of the evidence without privileges: the page faults that a process and its descendants take in their own
// code, each with its address and its stack.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/error.hpp"
#include "breach/breach.hpp"
#include "system/task_events.hpp"

namespace cloister::breach {

class SoftEvents {
public:
    // Follows `pid` (held back before its exec, or running) and everything it starts from now on. Errors: those of
    // system::TaskEvents::open; then nothing at all can be seen this way.
    [[nodiscard]] static Result<SoftEvents> follow(pid_t pid);

    // CL_FAULT records, those of a CPU in their order, each after the stack that it names. Such a record is a point:
    // when the fault was over is not known (CL_FAULT_POINT), nor whether it read or wrote (c has the user bit
    // alone).
    void drain(const std::function<void(const cl_record&)>& record,
               const std::function<void(std::shared_ptr<const cl_stack>)>& stack);

    struct Totals {
        std::uint64_t minor = 0, major = 0;
    };
    // Exact counts, whatever the rings lost; they settle lost() too, once everything has been drained. Interrupts the
    // CPUs that followed threads run on: for the end of a watch. Errors: a counter that cannot be read.
    [[nodiscard]] Result<Totals> totals();

    // Faults without a record because a ring was full: as far as known before totals(), exact after it.
    [[nodiscard]] std::uint64_t lost() const;
    // Faults that these events never show, even when they work.
    [[nodiscard]] static std::vector<Header::Blind> blind();

private:
    explicit SoftEvents(system::TaskEvents events) : events_(std::move(events)) {}
    void take(const perf_event_header& sample, const std::function<void(const cl_record&)>& record,
              const std::function<void(std::shared_ptr<const cl_stack>)>& stack);

    system::TaskEvents events_;
    std::uint64_t seen_ = 0, lost_ = 0;
    std::uint32_t stacks_ = 0;
};

}  // namespace cloister::breach
