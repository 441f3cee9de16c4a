#include "recorder/routes.hpp"

#include <fnmatch.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <utility>

#include <fmt/format.h>

#include "ctf/metadata_text.hpp"

namespace cloister::recorder {
namespace {

ctf::Field field_of(const cloister_field& from) {
    const ctf::Integer integer{.bits = from.bits, .is_signed = from.is_signed != 0, .base = from.base};
    ctf::Field out;
    switch (from.kind) {
        case CLOISTER_REAL:
            out = from.bits == 32 ? ctf::Field::of_float(from.name) : ctf::Field::of_double(from.name);
            break;
        case CLOISTER_BOOLEAN:
            out = ctf::Field::of_boolean(from.name);
            break;
        case CLOISTER_POINTER:
            out = ctf::Field::of_pointer(from.name);
            break;
        case CLOISTER_STRING:
            out = ctf::Field::of_string(from.name);
            break;
        default:
            if (from.enumerator_count) {
                std::vector<ctf::Label> labels;
                for (std::size_t i = 0; i < from.enumerator_count; ++i)
                    labels.push_back({from.enumerators[i].name, from.enumerators[i].value, from.enumerators[i].value});
                out = ctf::Field::of_enumeration(from.name, integer, std::move(labels));
            } else {
                out = ctf::Field::of_integer(from.name, integer);
            }
    }
    return from.is_sequence ? std::move(out).sequence() : out;
}

std::string name_of(const cloister_class& from) { return fmt::format("{}:{}", from.provider, from.name); }

ctf::EventClass class_of(const cloister_class& from) {
    ctf::EventClass out{.name = name_of(from), .fields = {}};
    // LTTng's levels, which the format's readers know: those of syslog(3), but 14 for debug.
    out.loglevel = from.level == CLOISTER_DEBUG ? 14 : from.level;
    // A field, and not in the event's context: babeltrace2 (2.0) aborts at a sequence there.
    if (from.flags & CLOISTER_CALL_STACK) out.fields.push_back(ctf::Field::of_pointer("call_stack").sequence());
    for (std::size_t i = 0; i < from.field_count; ++i) out.fields.push_back(field_of(from.fields[i]));
    return out;
}

}  // namespace

void FreeProgram::operator()(const tracepoint::Program* program) const {
    std::free(const_cast<tracepoint::Program*>(program));
}

bool Target::wants(const cloister_event& event) const {
    return filters.empty() ||
           std::ranges::any_of(filters, [&](const auto& filter) { return tracepoint::holds(*filter, event); });
}

Routes::Routes(Recorder& recorder) : recorder_(&recorder) {
    static std::atomic<std::uint64_t> turns;
    turn_ = ++turns;
}

Result<std::unique_ptr<Routes>> Routes::make(Recorder& recorder, const std::vector<record::Channel>& channels) {
    std::unique_ptr<Routes> out(new Routes(recorder));
    for (const auto& channel : channels) {
        out->rules_.emplace_back();
        for (const auto& events : channel.events) {
            auto filter = tracepoint::parse_filter(events.filter);
            if (!filter) return fail(filter.error());
            out->rules_.back().push_back({events.glob, events.level, std::move(*filter)});
        }
    }
    return out;
}

Result<std::vector<Target>> Routes::targets_of(const cloister_class& event_class) {
    std::vector<Target> out;
    const std::string name = name_of(event_class);
    for (std::size_t channel = 0; channel < rules_.size(); ++channel) {
        Target target{.channel = static_cast<std::uint32_t>(channel), .filters = {}};
        bool any = false, all = false;
        for (const Rule& rule : rules_[channel]) {
            if (event_class.level > rule.level || fnmatch(rule.glob.c_str(), name.c_str(), 0) != 0) continue;
            auto filter = tracepoint::compile_filter(rule.filter, event_class);
            if (!filter) return fail(filter.error());
            any = true;
            all = all || !*filter;
            target.filters.emplace_back(*filter);
        }
        if (all) target.filters.clear();
        if (any) out.push_back(std::move(target));
    }
    return out;
}

Result<Route*> Routes::of(const cloister_class& event_class) {
    ctf::EventClass declared = class_of(event_class);
    const std::string text = ctf::event_text(declared);
    if (const auto known = routes_.find(text); known != routes_.end()) return known->second.get();
    if (auto ok = declared.check(); !ok) return fail(ok.error());
    auto targets = targets_of(event_class);
    if (!targets) return fail(targets.error());
    if (targets->empty()) return nullptr;
    auto route = std::make_unique<Route>();
    route->recorder = recorder_;
    route->turn = turn_;
    route->id = ids_++;
    route->call_stack = (event_class.flags & CLOISTER_CALL_STACK) != 0;
    route->targets = std::move(*targets);
    // The declaration is in the segment before the first event that needs it.
    for (const Target& target : route->targets) {
        if (recorder_->inherited()) break;  // the route only counts what is refused
        declared.stream_id = target.channel;
        declared.id = route->id;
        if (auto ok = recorder_->declare(target.channel, route->id, ctf::event_text(declared)); !ok)
            return fail(ok.error());
    }
    call_stacks_ = call_stacks_ || route->call_stack;
    return routes_.emplace(text, std::move(route)).first->second.get();
}

Result<void> Routes::note_modules() {
    return call_stacks_ && !recorder_->inherited() ? modules_.note(recorder_->segment()) : Result<void>();
}

}  // namespace cloister::recorder
