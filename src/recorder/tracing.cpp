// Tracepoints into a segment: include/cloister/record.hpp.
//
// Lock order: that of the recording, then the registry's (tracepoint/registry.hpp), under which the routes are made. A
// thread that loads a library comes with the loader's lock and takes the registry's alone. An event takes none.
#include <pthread.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <utility>

#include <fmt/format.h>

#include "cloister/record.hpp"
#include "cloister/trace.h"
#include "recorder/control.hpp"
#include "recorder/extract.hpp"
#include "recorder/probe.hpp"
#include "recorder/recorder.hpp"
#include "recorder/recording.hpp"
#include "recorder/routes.hpp"

namespace cloister::record {
namespace {

constexpr int kTracer = 0;  // in the recursion word

struct Recording {
    std::unique_ptr<recorder::Recorder> recorder;
    std::unique_ptr<recorder::Routes> routes;
    int probe = -1;
    std::unique_ptr<recorder::ControlServer> control;  // null: there was no thread for it
};

struct State {
    std::mutex lock;
    std::shared_ptr<Recording> recording;  // a snapshot holds it as well, so that it does not keep the lock
};

// Never destroyed: other threads fire events while the program exits, and so do destructors.
State& state() {
    static auto* const one = new State;
    return *one;
}

Outcome because(const Error& error) { return {error.text()}; }

Outcome nothing_recorded() {
    return because({.what = "nothing is recorded", .needs = "start() first", .found = "no recording of this process"});
}

// With the lock. Null: there is none, or it is that of the parent of a fork.
std::shared_ptr<Recording> current() {
    const auto& recording = state().recording;
    return recording && !recording->recorder->inherited() ? recording : nullptr;
}

// With the lock. Nobody writes into it any more afterwards.
void forget() {
    State& all = state();
    if (!all.recording) return;
    all.recording->control.reset();
    (void)cloister_trace_remove_probe(all.recording->probe);
    recorder::show(0);
    // A probe that is still in it after ten seconds must find it for ever.
    if (cloister_trace_synchronize(nullptr, 0) < 0) new std::shared_ptr<Recording>(all.recording);
    all.recording.reset();
}

// ---- Classes, under the registry's lock ----

void* bind(void* owner, const cloister_class* event_class, char* error, std::size_t size) {
    static auto* const nowhere = new recorder::Route;  // of a class that could not be declared
    const auto& mine = *static_cast<Recording*>(owner);
    const auto route = mine.routes->of(*event_class);
    if (!route) {
        const std::string text = route.error().text();
        error[text.copy(error, size - 1)] = 0;
        return nowhere;
    }
    // Without room for a module its addresses stay without names; its events are recorded.
    (void)mine.routes->note_modules();
    return *route;
}

// What fork finds locked would stay locked in the child for ever. That goes for a guard of a static as well: with
// pthread_once a child begins again what another thread of its parent was about to do (glibc counts the forks), and the
// flag keeps it from a second registration.
void hold_over_fork() {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    static std::atomic<bool> registered = false;
    pthread_once(&once, [] {
        // Handlers before a fork run in the opposite order: the registry's must be there already, to lock after this.
        (void)cloister_trace_classes([](void*, const cloister_class*) { return 1; }, nullptr);
        if (registered.exchange(true)) return;
        pthread_atfork([] { state().lock.lock(); }, [] { state().lock.unlock(); },
                       [] {
                           recorder::clear_losses();
                           state().lock.unlock();
                       });
    });
}

// The clocks once more at the program's regular end: the longer the time between two readings, the better the TSC's
// frequency is known. Whoever holds the lock now may be a thread that the end has stopped.
[[gnu::destructor]] void read_clocks_at_exit() {
    const std::unique_lock hold(state().lock, std::try_to_lock);
    if (!hold) return;
    if (const auto mine = current()) mine->recorder->segment().read_clocks();
}

}  // namespace

Outcome start(const Options& options) {
    hold_over_fork();
    const std::scoped_lock hold(state().lock);
    if (current())
        return because({.what = "cannot start to record",
                        .needs = "one recording at a time",
                        .found = "one that runs",
                        .set = "stop() it"});
    forget();  // the parent's
    std::vector<Channel> channels = options.channels;
    if (channels.empty())
        channels = {{.sub_buffers = options.sub_buffers,
                     .sub_buffer_bytes = options.sub_buffer_bytes,
                     .discard = options.discard}};
    recorder::SegmentOptions segment{.path = options.path, .channels = {}, .huge_pages = options.huge_pages};
    for (const Channel& channel : channels)
        segment.channels.push_back({channel.name,
                                    {.slots = channel.sub_buffers,
                                     .size = channel.sub_buffer_bytes,
                                     .mode = channel.discard ? core::Mode::discard : core::Mode::overwrite}});
    auto made = recorder::Recorder::create(segment);
    if (!made) return because(made.error());
    auto mine = std::make_shared<Recording>();
    mine->recorder = std::move(*made);
    const auto give_up = [&](std::string error) {
        if (!options.path.empty()) unlink(options.path.c_str());
        return Outcome{std::move(error)};
    };
    auto routes = recorder::Routes::make(*mine->recorder, channels);
    if (!routes) return give_up(routes.error().text());
    mine->routes = std::move(*routes);
    recorder::clear_losses();
    const cloister_tracer tracer{.probe = recorder::on_event, .tracer = kTracer, .bind = bind, .owner = mine.get()};
    std::array<char, 2048> error{};
    mine->probe = cloister_trace_add_tracer(&tracer, error.data(), error.size());
    if (mine->probe < 0) return give_up(error.data());
    // Without it everything works but `cloister record --pid -e`, which says so.
    if (auto control = recorder::ControlServer::start(mine->recorder->segment())) mine->control = std::move(*control);
    recorder::show(mine->routes->turn());
    state().recording = std::move(mine);
    return {};
}

Outcome prepare(int cpu) {
    const std::scoped_lock hold(state().lock);
    const auto mine = current();
    if (!mine) return nothing_recorded();
    const std::uint32_t cpus = mine->recorder->segment().cpus();
    if (cpu < 0 || static_cast<std::uint32_t>(cpu) >= cpus)
        return because({.what = "cannot prepare the lane of this CPU",
                        .needs = fmt::format("a CPU from 0 to {}", cpus - 1),
                        .found = std::to_string(cpu)});
    const auto ok = mine->recorder->prepare(static_cast<std::uint32_t>(cpu));
    return ok ? Outcome{} : because(ok.error());
}

Outcome refresh() {
    const std::scoped_lock hold(state().lock);
    const auto mine = current();
    if (!mine) return nothing_recorded();
    // Under the runtime's lock, as bind().
    struct Noted {
        recorder::Routes* routes;
        Outcome outcome;
    } noted{mine->routes.get(), {}};
    (void)cloister_trace_classes(
        [](void* data, const cloister_class*) {
            auto& all = *static_cast<Noted*>(data);
            if (auto ok = all.routes->note_modules(); !ok) all.outcome = because(ok.error());
            return 1;
        },
        &noted);
    return noted.outcome;
}

Outcome snapshot(const std::string& directory, const std::vector<std::string>& channels) {
    (void)refresh();  // addresses that it finds no room for stay without names
    std::unique_lock hold(state().lock);
    const auto mine = current();
    if (!mine) return nothing_recorded();
    // It may take a while, in which others record, fork, and stop.
    hold.unlock();
    const auto done = recorder::snapshot(mine->recorder->segment(), directory, channels);
    return done ? Outcome{} : because(done.error());
}

void stop() {
    const std::scoped_lock hold(state().lock);
    forget();
}

int segment_file() {
    const std::scoped_lock hold(state().lock);
    const auto mine = current();
    return mine ? mine->recorder->segment().fd().get() : -1;
}

}  // namespace cloister::record
