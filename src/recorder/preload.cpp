// The library that `cloister record -- CMD` has the dynamic linker load into the programs it starts: it brings the
// recorder to any program with tracepoints, before the first of its constructors runs.
//
// Of the tracepoints' runtime it has nothing of its own: the functions below look for those of the program (the CMake
// target cloister::trace exports them). A program without them is left as it is. None of this library's own symbols is
// visible to the program, which may have the same recorder linked in, for a recording of its own.
#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>

#include "cloister/record.hpp"
#include "cloister/trace.h"
#include "recorder/recording.hpp"
#include "recorder/rendezvous.hpp"

namespace {

template <class Function>
Function* of_the_program(Function*, const char* name) {
    return reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
}

}  // namespace

// It has no tracepoints of its own to announce.
extern "C" void cloister_trace_register(cloister_module*) {}
extern "C" void cloister_trace_unregister(cloister_module*) {}
// Only called in a program that has the runtime (begin() below), so they find what they look for.
#define CLOISTER_FORWARD(name) of_the_program(&(name), #name)
extern "C" {
int cloister_trace_classes(int (*visit)(void*, const cloister_class*), void* data) {
    return CLOISTER_FORWARD(cloister_trace_classes)(visit, data);
}
int cloister_trace_add_tracer(const cloister_tracer* tracer, char* error, size_t size) {
    return CLOISTER_FORWARD(cloister_trace_add_tracer)(tracer, error, size);
}
int cloister_trace_remove_probe(int id) { return CLOISTER_FORWARD(cloister_trace_remove_probe)(id); }
int cloister_trace_synchronize(char* error, size_t size) {
    return CLOISTER_FORWARD(cloister_trace_synchronize)(error, size);
}
int cloister_trace_enable_for(int owner, const char* entries, char* error, size_t size) {
    return CLOISTER_FORWARD(cloister_trace_enable_for)(owner, entries, error, size);
}
int cloister_trace_release(int owner, char* error, size_t size) {
    return CLOISTER_FORWARD(cloister_trace_release)(owner, error, size);
}
}

namespace {

using cloister::recorder::Invitation;
using cloister::recorder::Visit;

void complain(const std::string& error) { std::fputs(error.c_str(), stderr); }

void record_this_process(const Invitation& invitation) {
    const auto visit = Visit::to(invitation.name);
    if (!visit) return;  // the recording has ended
    const auto started = cloister::record::start({.sub_buffers = invitation.shape.slots,
                                                  .sub_buffer_bytes = invitation.shape.size,
                                                  .discard = invitation.shape.mode == cloister::core::Mode::discard});
    if (!started) return complain(started.error);
    if (visit->bring(cloister::record::segment_file())) return;
    complain(cloister::Error{.what = "this process is not recorded",
                             .needs = "cloister record to take its segment",
                             .found = "it did not for ten seconds"}
                 .text());
    cloister::record::stop();
}

const std::optional<Invitation>& invitation() {
    static const auto text = secure_getenv(cloister::recorder::kRecordVariable);
    static const auto parsed = Invitation::parse(text ? text : "");
    return parsed;
}

__attribute__((constructor)) void begin() {
    if (!dlsym(RTLD_DEFAULT, "cloister_trace_add_tracer") || !invitation()) return;
    record_this_process(*invitation());
    // What the parent records into is not the child's: it gets its own. After the runtime's own handler, which makes
    // its lock usable again.
    pthread_atfork(nullptr, nullptr, [] {
        cloister::record::stop();
        record_this_process(*invitation());
    });
}

// A filter that does not fit a class has left it off, and nobody else says so.
__attribute__((destructor)) void end() {
    auto* const load_errors =
        reinterpret_cast<decltype(&cloister_trace_load_errors)>(dlsym(RTLD_DEFAULT, "cloister_trace_load_errors"));
    if (!load_errors || !invitation()) return;
    std::array<char, 4096> text{};
    load_errors(text.data(), text.size());
    complain(text.data());
}

}  // namespace
