// The control for programs, in C++ and in C: errors become text.
#include <cloister/trace.hpp>

#include <algorithm>
#include <cstring>

#include "tracepoint/grace.hpp"
#include "tracepoint/registry.hpp"

namespace cloister::trace {

static Outcome outcome(const Result<int>& result) {
    return result ? Outcome{*result, {}} : Outcome{0, result.error().text()};
}

Outcome enable(std::string_view glob, int level, std::string_view filter) {
    return outcome(tracepoint::enable(glob, level, filter));
}
Outcome disable(std::string_view glob) { return outcome(tracepoint::disable(glob)); }
Outcome add_probe(std::string_view glob, cloister_probe probe, void* data, int tracer) {
    return outcome(tracepoint::add_probe(glob, probe, data, tracer));
}
Outcome remove_probe(int id) { return outcome(tracepoint::remove_probe(id)); }
Outcome synchronize() {
    const auto done = tracepoint::synchronize();
    return done ? Outcome{} : Outcome{0, done.error().text()};
}
std::string load_errors() { return tracepoint::load_errors(); }

}  // namespace cloister::trace

namespace {

void copy_clipped(const std::string& from, char* text, std::size_t size) {
    if (size == 0) return;
    const std::size_t length = std::min(from.size(), size - 1);
    std::memcpy(text, from.data(), length);
    text[length] = 0;
}

int in_c(const cloister::trace::Outcome& outcome, char* error, std::size_t size) {
    copy_clipped(outcome.error, error, size);
    return outcome ? outcome.count : -1;
}

const char* or_empty(const char* text) { return text ? text : ""; }

}  // namespace

extern "C" int cloister_trace_enable(const char* glob, int level, const char* filter, char* error, std::size_t size) {
    return in_c(cloister::trace::enable(glob, level, or_empty(filter)), error, size);
}
extern "C" int cloister_trace_disable(const char* glob, char* error, std::size_t size) {
    return in_c(cloister::trace::disable(glob), error, size);
}
extern "C" int cloister_trace_enable_for(int owner, const char* entries, char* error, std::size_t size) {
    return in_c(cloister::trace::outcome(cloister::tracepoint::enable_for(owner, entries)), error, size);
}
extern "C" int cloister_trace_release(int owner, char* error, std::size_t size) {
    return in_c(cloister::trace::outcome(cloister::tracepoint::release(owner)), error, size);
}
extern "C" std::size_t cloister_trace_load_errors(char* text, std::size_t size) {
    const std::string errors = cloister::tracepoint::load_errors();
    copy_clipped(errors, text, size);
    return errors.size();
}
extern "C" int cloister_trace_add_probe(const char* glob, cloister_probe probe, void* data, int tracer) {
    return in_c(cloister::trace::add_probe(glob, probe, data, tracer), nullptr, 0);
}
extern "C" int cloister_trace_add_tracer(const cloister_tracer* tracer, char* error, std::size_t size) {
    const auto added = cloister::tracepoint::add_tracer(*tracer);
    if (added) return *added;
    // What its bind has said is a whole text already.
    copy_clipped(added.error().needs.empty() ? added.error().what : added.error().text(), error, size);
    return -1;
}
extern "C" int cloister_trace_remove_probe(int id) { return in_c(cloister::trace::remove_probe(id), nullptr, 0); }
extern "C" int cloister_trace_synchronize(char* error, std::size_t size) {
    return in_c(cloister::trace::synchronize(), error, size);
}
