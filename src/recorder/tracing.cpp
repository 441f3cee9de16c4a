// Tracepoints into a segment: include/cloister/record.hpp.
#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <utility>

#include <fmt/format.h>

#include "cloister/record.hpp"
#include "cloister/trace.h"
#include "ctf/metadata_text.hpp"
#include "recorder/control.hpp"
#include "recorder/extract.hpp"
#include "recorder/recorder.hpp"
#include "recorder/recording.hpp"
#include "tracepoint/reading.hpp"

namespace cloister::record {
namespace {

constexpr int kTracer = 0;  // in the recursion word

// The id of each class that has been declared. Filled under the lock, read by probes in any context: an entry's class
// is stored last, and entries stay.
class Ids {
public:
    static constexpr std::uint32_t kMost = 1024, kNone = UINT32_MAX;

    [[nodiscard]] std::uint32_t of(const cloister_class* wanted) const {
        for (std::size_t n = 0, at = place(wanted); n < table_.size(); ++n, at = (at + 1) % table_.size()) {
            const cloister_class* there = table_[at].event_class.load(std::memory_order_acquire);
            if (there == wanted) return table_[at].id;
            if (!there) break;
        }
        return kNone;
    }
    // Needs used() < kMost.
    std::uint32_t add(const cloister_class* fresh) {
        std::size_t at = place(fresh);
        while (table_[at].event_class.load(std::memory_order_relaxed)) at = (at + 1) % table_.size();
        table_[at].id = used_++;
        table_[at].event_class.store(fresh, std::memory_order_release);
        return table_[at].id;
    }
    [[nodiscard]] std::uint32_t used() const { return used_; }

private:
    struct Entry {
        std::atomic<const cloister_class*> event_class = nullptr;
        std::uint32_t id = 0;
    };
    [[nodiscard]] static std::size_t place(const cloister_class* of) {
        return (reinterpret_cast<std::uintptr_t>(of) >> 4) * 0x9e3779b97f4a7c15ULL >> 53;  // 11 bits
    }
    std::array<Entry, 2 * kMost> table_;
    std::uint32_t used_ = 0;
};

struct Recording {
    std::unique_ptr<recorder::Recorder> recorder;
    std::mutex declaring;  // ids and the declarations in the segment; taken after the runtime's own lock
    Ids ids;
    std::atomic<std::uint64_t> unknown = 0;
    int probe = -1, listener = -1;
    std::unique_ptr<recorder::ControlServer> control;  // null: there was no thread for it
};
std::mutex lock;
std::unique_ptr<Recording> recording;
std::atomic<Recording*> visible;  // the same, for code that is no probe: see recording.hpp
std::atomic<std::uint64_t> turn;  // of recordings: another one may come to lie at the same place

Outcome because(const Error& error) { return {error.text()}; }

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

ctf::EventClass class_of(const cloister_class& from, std::uint32_t id) {
    ctf::EventClass out{.name = fmt::format("{}:{}", from.provider, from.name), .id = id, .fields = {}};
    // LTTng's levels, which the format's readers know: those of syslog(3), but 14 for debug.
    out.loglevel = from.level == CLOISTER_DEBUG ? 14 : from.level;
    for (std::size_t i = 0; i < from.field_count; ++i) out.fields.push_back(field_of(from.fields[i]));
    return out;
}

// Declares it, unless it is known.
Outcome declare(Recording& mine, const cloister_class* event_class) {
    const std::scoped_lock hold(mine.declaring);
    if (mine.ids.of(event_class) != Ids::kNone) return {};
    if (mine.ids.used() == Ids::kMost)
        return because({.what = "cannot record all event classes",
                        .needs = fmt::format("at most {} of them", Ids::kMost),
                        .found = "more in the modules that are loaded"});
    const ctf::EventClass declared = class_of(*event_class, mine.ids.used());
    if (auto ok = declared.check(); !ok) return because(ok.error());
    // The declaration is in the segment before the first event that needs it.
    if (auto ok = mine.recorder->declare(0, declared.id, ctf::event_text(declared)); !ok) return because(ok.error());
    mine.ids.add(event_class);
    return {};
}

// Declares what is new. With the lock.
Outcome declare_all(Recording& mine) {
    std::vector<const cloister_class*> found;
    (void)cloister_trace_classes(
        [](void* data, const cloister_class* event_class) {
            static_cast<std::vector<const cloister_class*>*>(data)->push_back(event_class);
            return 0;
        },
        &found);
    for (const cloister_class* event_class : found)
        if (auto ok = declare(mine, event_class); !ok) return ok;
    return {};
}

// In any context. The payload lies on the stack of who fires, so that it can be read in a restartable sequence, and
// some bytes beyond it as well.
void on_event(void* data, const cloister_event* event) {
    auto& mine = *static_cast<Recording*>(data);
    const std::uint32_t id = mine.ids.of(event->event_class);
    if (id == Ids::kNone) {
        mine.unknown.fetch_add(1, std::memory_order_relaxed);
        return;
    }
    mine.recorder->write_staged(0, id, event->payload, static_cast<std::uint32_t>(event->size));
}

core::Wrote write_visible(const void* to, core::u64 of_turn, core::u32 id, const void* payload, core::u32 bytes) {
    const tracepoint::Reading reading;
    Recording* const mine = reading ? visible.load(std::memory_order_acquire) : nullptr;
    if (!mine || mine != to || turn.load(std::memory_order_relaxed) != of_turn) return core::Wrote::no_lane;
    return mine->recorder->write_staged(0, id, payload, bytes);
}

}  // namespace

std::optional<Target> target_of(const cloister_class& event_class) {
    const tracepoint::Reading reading;
    Recording* const mine = reading ? visible.load(std::memory_order_acquire) : nullptr;
    if (!mine || !__atomic_load_n(&event_class.on, __ATOMIC_RELAXED)) return std::nullopt;
    const std::uint32_t id = mine->ids.of(&event_class);
    if (id == Ids::kNone) {
        mine->unknown.fetch_add(1, std::memory_order_relaxed);
        return std::nullopt;
    }
    return Target{{.write = write_visible,
                   .author = recorder::next_authorship,
                   .to = mine,
                   .which = turn.load(std::memory_order_relaxed),
                   .largest = mine->recorder->largest(0) + core::kLongHeader},
                  id};
}

Outcome start(const Options& options) {
    const std::scoped_lock hold(lock);
    if (recording)
        return because({.what = "cannot start to record",
                        .needs = "one recording at a time",
                        .found = "one that runs",
                        .set = "stop() it"});
    auto made = recorder::Recorder::create(
        {.path = options.path,
         .channels = {{"flight",
                       {.slots = options.sub_buffers,
                        .size = options.sub_buffer_bytes,
                        .mode = options.discard ? core::Mode::discard : core::Mode::overwrite}}},
         .huge_pages = options.huge_pages});
    if (!made) return because(made.error());
    auto mine = std::make_unique<Recording>();
    mine->recorder = std::move(*made);
    // Before those that are there are looked at, so that none comes in between.
    mine->listener = cloister_trace_listen(
        [](void* data, const cloister_class* event_class) {
            // One that cannot be declared is counted in Losses::unknown, event by event.
            (void)declare(*static_cast<Recording*>(data), event_class);
        },
        mine.get());
    if (auto ok = declare_all(*mine); !ok) {
        cloister_trace_stop_listening(mine->listener);
        return ok;
    }
    mine->probe = cloister_trace_add_probe("*", on_event, mine.get(), kTracer);
    if (mine->probe < 0) {
        cloister_trace_stop_listening(mine->listener);
        return because(
            {.what = "cannot start to record", .needs = "a probe on all event classes", .found = "it was refused"});
    }
    // Without it everything works but `cloister record --pid -e`, which says so.
    if (auto control = recorder::ControlServer::start(mine->recorder->segment())) mine->control = std::move(*control);
    recording = std::move(mine);
    turn.fetch_add(1, std::memory_order_relaxed);
    visible.store(recording.get(), std::memory_order_release);
    return {};
}

Outcome prepare(int cpu) {
    const std::scoped_lock hold(lock);
    if (!recording) return because({.what = "nothing is recorded", .needs = "start() first", .found = "no recording"});
    const std::uint32_t cpus = recording->recorder->segment().cpus();
    if (cpu < 0 || static_cast<std::uint32_t>(cpu) >= cpus)
        return because({.what = "cannot prepare the lane of this CPU",
                        .needs = fmt::format("a CPU from 0 to {}", cpus - 1),
                        .found = std::to_string(cpu)});
    const auto ok = recording->recorder->prepare(static_cast<std::uint32_t>(cpu));
    return ok ? Outcome{} : because(ok.error());
}

Outcome refresh() {
    const std::scoped_lock hold(lock);
    return recording ? declare_all(*recording)
                     : because({.what = "nothing is recorded", .needs = "start() first", .found = "no recording"});
}

Outcome snapshot(const std::string& directory) {
    const std::scoped_lock hold(lock);
    if (!recording) return because({.what = "nothing is recorded", .needs = "start() first", .found = "no recording"});
    const auto done = recorder::snapshot(recording->recorder->segment(), directory);
    return done ? Outcome{} : because(done.error());
}

void stop() {
    const std::scoped_lock hold(lock);
    if (!recording) return;
    recording->control.reset();
    cloister_trace_stop_listening(recording->listener);
    (void)cloister_trace_remove_probe(recording->probe);
    visible.store(nullptr, std::memory_order_release);
    std::array<char, 256> error{};
    if (cloister_trace_synchronize(error.data(), error.size()) < 0)
        (void)recording.release();  // a probe that is still in it must find it
    else
        recording.reset();
}

int segment_file() {
    const std::scoped_lock hold(lock);
    return recording ? recording->recorder->segment().fd().get() : -1;
}

Losses losses() {
    const Recording* mine = recording.get();
    if (!mine) return {};
    return {.refused = __atomic_load_n(&mine->recorder->segment().header().refused, __ATOMIC_RELAXED),
            .unknown = mine->unknown.load(std::memory_order_relaxed)};
}

}  // namespace cloister::record
