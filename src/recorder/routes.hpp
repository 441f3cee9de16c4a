// Which classes of events go into which channels of a recording, and under which ids.
//
// The registry of the tracepoints asks for the route of a class before the first event of the class can happen, and gives
// it to the recorder's probe with each event: so a probe looks nothing up, whatever context it is in. Classes of the same
// declaration have one route, which lives as long as the recording: a library that comes and goes uses nothing up.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "cloister/record.hpp"
#include "cloister/trace.h"
#include "recorder/modules.hpp"
#include "recorder/recorder.hpp"
#include "tracepoint/filter.hpp"

namespace cloister::recorder {

struct FreeProgram {
    void operator()(const tracepoint::Program* program) const;
};

struct Target {
    std::uint32_t channel = 0;
    // An event passes if one of them holds; none: all pass.
    std::vector<std::unique_ptr<const tracepoint::Program, FreeProgram>> filters;

    [[nodiscard]] bool wants(const cloister_event& event) const;  // async-signal-safe
};

struct Route {
    Recorder* recorder = nullptr;
    std::uint64_t turn = 0;  // Routes::turn()
    std::uint32_t id = 0;    // of the class, in all channels: an event in fragments carries it into each
    bool call_stack = false;
    std::vector<Target> targets;
};

// Not thread-safe: under the registry's lock, or before anybody else knows it.
class Routes {
public:
    // Errors: a filter that cannot be understood.
    [[nodiscard]] static Result<std::unique_ptr<Routes>> make(Recorder& recorder,
                                                              const std::vector<record::Channel>& channels);

    // The route of a class, declared in the segment; null if no channel wants it. It stays as long as this object.
    // Errors: no room for the declaration, a filter that does not fit the class.
    [[nodiscard]] Result<Route*> of(const cloister_class& event_class);

    // Which recording of this process this is, from 1: another one may come to lie at the same place.
    [[nodiscard]] std::uint64_t turn() const { return turn_; }

    // Notes where modules lie, if any class wants call stacks.
    [[nodiscard]] Result<void> note_modules();

private:
    struct Rule {
        std::string glob;
        int level;
        tracepoint::Parsed filter;
    };
    explicit Routes(Recorder& recorder);
    [[nodiscard]] Result<std::vector<Target>> targets_of(const cloister_class& event_class);

    Recorder* recorder_;
    std::vector<std::vector<Rule>> rules_;  // by channel
    std::uint64_t turn_;
    std::uint32_t ids_ = 0;                                 // used
    std::map<std::string, std::unique_ptr<Route>> routes_;  // by declaration
    bool call_stacks_ = false;
    ModuleLog modules_;
};

}  // namespace cloister::recorder
