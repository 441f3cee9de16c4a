#include "cli/call_stacks.hpp"

#include <algorithm>
#include <utility>

#include "unwind/elf_module.hpp"
#include "unwind/mapped_file.hpp"

namespace cloister::cli {
namespace {

using ctf::Value;

constexpr std::uint32_t kFirstId = 1U << 30;  // above every pid

// Whether the file is the one that was loaded. Only ever a regular file is opened, whatever the trace says.
bool is_still(const std::string& path, const std::vector<std::uint8_t>& build_id) {
    std::unique_ptr<unwind::ElfModule> module;
    if (path == "[vdso]") {
        if (const auto file = unwind::MappedFile::vdso()) module = unwind::ElfModule::open(*file);
    } else {
        unwind::FileIdentity identity;
        if (auto handle = unwind::open_regular(path, identity))
            module = unwind::ElfModule::open({path, identity, std::move(handle)});
    }
    return module && module->build_id() == build_id;
}

}  // namespace

CallStacks::CallStacks(const std::vector<ctf::Trace>& traces) {
    for (const auto& trace : traces) {
        Process process;
        process.id = kFirstId + static_cast<std::uint32_t>(processes_.size());
        for (const auto& stream : trace.streams()) read_modules(stream, process);
        std::ranges::stable_sort(process.modules, {}, &Loaded::ns);
        if (!process.modules.empty()) processes_.emplace(&trace.layout(), std::move(process));
    }
}

void CallStacks::read_modules(const ctf::StreamFile& stream, Process& process) {
    ctf::Cursor cursor(stream);
    std::vector<Value> values;
    // A stream that begins with anything else has none of them.
    for (auto step = cursor.next(); step == ctf::Cursor::Step::event; step = cursor.next()) {
        if (cursor.event().name != "cloister:module" || !cursor.fields(values)) return;
        const auto& clock = stream.layout().clocks[cursor.packet().stream->clock];
        Loaded loaded{.ns = ctf::ns_of(clock, cursor.cycles()), .map = {}};
        std::uint64_t bytes = 0;
        std::vector<std::uint8_t> build_id;
        for (const Value& value : std::span(values).subspan(cursor.of_contexts())) {
            const std::string name = value.field ? value.field->name : "";
            if (name == "start") loaded.map.start = value.bits;
            if (name == "bytes") bytes = value.bits;
            if (name == "offset") loaded.map.offset = value.bits;
            if (name == "path") loaded.map.path = value.text;
            if (name.empty() && value.kind == Value::Kind::unsigned_integer)
                build_id.push_back(static_cast<std::uint8_t>(value.bits));
        }
        if (__builtin_add_overflow(loaded.map.start, bytes, &loaded.map.end)) continue;
        // As the kernel marks a file that is gone: its name is shown, and nothing is read from what has its path now.
        if (!is_still(loaded.map.path, build_id)) loaded.map.path += " (deleted)";
        process.modules.push_back(std::move(loaded));
    }
}

void CallStacks::bring_to(Process& process, std::int64_t ns) {
    if (ns < process.ns) {
        spaces_.exec(process.id);
        process.applied = 0;
        process.calls.clear();
    }
    process.ns = ns;
    for (; process.applied < process.modules.size() && process.modules[process.applied].ns <= ns; ++process.applied) {
        spaces_.map(process.id, process.modules[process.applied].map);
        process.calls.clear();
    }
}

CallStacks::Call CallStacks::call_of(const Process& process, std::uint64_t pc, bool is_return_address) const {
    auto frames = symbols_.user(process.id, pc, false);
    // A return address is behind its call, maybe in another function; but to the restorer nobody has called.
    Call out{.names = {}, .restorer = is_return_address && frames.back().function == "__restore_rt"};
    if (is_return_address && !out.restorer) frames = symbols_.user(process.id, pc, true);
    for (const auto& frame : frames) out.names.push_back(frame.text());
    return out;
}

CallStacks::Stack CallStacks::of(const ctf::Events& events, std::span<const Value> fields) {
    Stack out;
    const auto process = processes_.find(&events.stream().layout());
    // Its length, then the addresses.
    if (process == processes_.end() || fields.size() < 2 || fields[1].kind != Value::Kind::begin_array ||
        fields[1].field->name != "call_stack")
        return out;
    bring_to(process->second, events.ns());
    auto& calls = process->second.calls;
    bool interrupted = false;
    for (out.end = 2; out.end < fields.size() && fields[out.end].kind != Value::Kind::end; ++out.end) {
        const std::uint64_t pc = fields[out.end].bits;
        Call exact;
        const Call* at = &exact;
        if (interrupted)
            exact = call_of(process->second, pc, false);
        else if (const auto known = calls.find(pc); known != calls.end())
            at = &known->second;
        else
            at = &calls.emplace(pc, call_of(process->second, pc, true)).first->second;
        out.calls.insert(out.calls.end(), at->names.begin(), at->names.end());
        // What follows a restorer is where the program was interrupted, and no return address.
        interrupted = at->restorer;
    }
    ++out.end;
    return out;
}

}  // namespace cloister::cli
