// The call stacks of events, as functions and lines: by what the trace says of the modules that were loaded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "ctf/events.hpp"
#include "unwind/symbols.hpp"

namespace cloister::cli {

class CallStacks {
public:
    // Reads the modules of all traces, whose streams are those with events cloister:module (recorder/modules.hpp).
    explicit CallStacks(const std::vector<ctf::Trace>& traces);

    struct Stack {
        std::size_t end = 0;             // of the addresses among the values, which come first
        std::vector<std::string> calls;  // innermost first: unwind::Frame::text()
        [[nodiscard]] bool empty() const { return calls.empty(); }
    };
    // That of the event that `events` is at. Empty where its fields do not begin with call_stack, or the trace knows no
    // module. Times may go back.
    [[nodiscard]] Stack of(const ctf::Events& events, std::span<const ctf::Value> fields);

private:
    struct Call {
        std::vector<std::string> names;
        bool restorer = false;  // what a signal handler returns to
    };
    struct Loaded {
        std::int64_t ns;
        unwind::AddressSpaces::Map map;
    };
    struct Process {
        std::uint32_t id = 0;  // for unwind, of no process that there is
        std::vector<Loaded> modules;
        std::size_t applied = 0;  // of them, up to the last event
        std::int64_t ns = 0;
        std::unordered_map<std::uint64_t, Call> calls;  // by return address, until the next module
    };
    void read_modules(const ctf::StreamFile& stream, Process& process);
    void bring_to(Process& process, std::int64_t ns);
    [[nodiscard]] Call call_of(const Process& process, std::uint64_t pc, bool is_return_address) const;

    unwind::AddressSpaces spaces_;
    unwind::Symbols symbols_{spaces_};
    std::unordered_map<const ctf::TraceLayout*, Process> processes_;  // by trace: those with modules
};

}  // namespace cloister::cli
