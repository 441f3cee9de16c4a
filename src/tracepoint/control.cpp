// The control for programs, in C++ and in C: errors become text.
#include <cloister/trace.hpp>

#include <algorithm>
#include <cstring>

#include "tracepoint/grace.hpp"
#include "tracepoint/registry.hpp"

namespace cloister::trace {
namespace {

Outcome outcome(const Result<int>& result) { return result ? Outcome{*result, {}} : Outcome{0, result.error().text()}; }

}  // namespace

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

int in_c(const cloister::trace::Outcome& outcome, char* error, std::size_t size) {
    if (size > 0) {
        const std::size_t length = std::min(outcome.error.size(), size - 1);
        std::memcpy(error, outcome.error.data(), length);
        error[length] = 0;
    }
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
extern "C" int cloister_trace_add_probe(const char* glob, cloister_probe probe, void* data, int tracer) {
    return in_c(cloister::trace::add_probe(glob, probe, data, tracer), nullptr, 0);
}
extern "C" int cloister_trace_remove_probe(int id) { return in_c(cloister::trace::remove_probe(id), nullptr, 0); }
extern "C" int cloister_trace_synchronize(char* error, std::size_t size) {
    return in_c(cloister::trace::synchronize(), error, size);
}
