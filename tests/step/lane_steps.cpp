// The writer of a lane interrupted at every instruction of every path, and there: looked at by a reader, written to,
// switched, lapped, drained; killed; and interrupted once more inside of that. No event may be lost, torn, doubled or
// out of order, and drops must be counted exactly.
//
// Exit status: 0 all is right and every instruction was reached; 1 something is wrong (the first few are printed); 2 an
// instruction was never reached, so nothing was proven. lane.cpp is compiled into this once as it is and once for each
// mutant.
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <functional>
#include <set>

#include "../core/lane.hpp"
#include "step.hpp"

using namespace cloister::core;
using namespace cloister::core::test;
namespace step = cloister::step;

// What is interrupted, each as one function of its own.
[[gnu::noinline]] Wrote steps_pair(const View& view, u64 counter) { return write_pair(view, kPair, 0, counter); }
[[gnu::noinline]] Wrote steps_wide(const View& view, u64 counter) { return write_pair(view, kWide, 0, counter); }
[[gnu::noinline]] Wrote steps_staged(const View& view, const void* payload, u32 bytes) {
    return write_staged(view, kPair, payload, bytes);
}

namespace {

constexpr u32 kDwords = 235;  // of a big event behind its 16 bytes: four of them fill a sub-buffer
constexpr Shape kOver{.slots = 2, .size = 4096, .mode = Mode::overwrite};
constexpr Shape kDisc{.slots = 2, .size = 4096, .mode = Mode::discard};

u32 cpu = 0;
int failures = 0;

enum class Kind { pair, wide, big, odd, huge };

class World {
public:
    explicit World(const Shape& shape) : lanes(shape, cpu + 1) {}

    void reset() {
        lanes.clear(cpu);
        lanes.view.cpus = cpu + 1;
        next = 1;
        done.clear();
        drained.clear();
        dropped = 0;
        cloister_populate_lane = nullptr;
        in_flight = outer = 0;
        outer_committed = false;
        wrong.clear();
    }
    Wrote write(Kind kind) {
        const u64 counter = next++;
        Wrote wrote{};
        if (kind == Kind::huge) {
            std::array<u8, 2 * kOver.largest()> payload{};
            wrote = write_slow(lanes.view, kPair, payload.data(), payload.size());
        } else if (kind == Kind::pair) {
            wrote = steps_pair(lanes.view, counter);
        } else if (kind == Kind::wide) {
            wrote = steps_wide(lanes.view, counter);
        } else {
            const u32 dwords = kind == Kind::big ? kDwords - kDwords % 2 : 3;
            std::array<u8, 16 + 4 * kDwords> payload;
            const std::array<u64, 2> head{u64{dwords} << 8, counter};
            std::memcpy(payload.data(), head.data(), sizeof head);
            std::memset(payload.data() + 16, static_cast<u8>(counter), 4 * std::size_t{dwords});
            wrote = steps_staged(lanes.view, payload.data(), 16 + 4 * dwords);
        }
        if (wrote == Wrote::done) done.push_back(counter);
        if (wrote == Wrote::dropped) ++dropped;
        return wrote;
    }
    [[nodiscard]] u64 active() const { return active_of(lane()).number(); }
    [[nodiscard]] u32 left() const { return Commit{lanes.active_descriptor(cpu)->commit}.left(); }
    // The next event of any size does not fit.
    void fill_up() {
        while (left() >= 20) (void)write(Kind::pair);
    }
    void fill_until(u64 number) {
        while (active() < number && write(Kind::big) == Wrote::done) {
        }
    }
    void drain_one() {
        SubBuffer at;
        if (take(lane(), lanes.shape, at) != Took::one) return;
        const Decoded found = decode(at);
        if (!found.wrong.empty()) say("drain: " + found.wrong);
        for (const auto& event : found.events) drained.push_back(event.counter);
        give_back(lane(), lanes.shape, at);
    }
    // What a reader sees now: whole events, each of them written.
    void observe() {
        for (const auto& at : sub_buffers(lane(), lanes.shape)) {
            const Decoded found = decode(at);
            if (!found.wrong.empty()) say("reader: " + found.wrong);
            for (const auto& event : found.events) outer_committed = outer_committed || event.counter == outer;
            for (const auto& event : found.events)
                if (event.counter == 0 || event.counter >= next)
                    say(fmt::format("reader: event {} never was", event.counter));
        }
    }
    void check() {
        std::vector<u64> present = drained;
        const auto held = sub_buffers(lane(), lanes.shape);
        for (const auto& at : held) {
            const Decoded found = decode(at);
            if (!found.wrong.empty()) return say("at the end: " + found.wrong);
            // In discard mode the drained ones were taken off already; in overwrite mode the drain has them to itself.
            for (const auto& event : found.events) present.push_back(event.counter);
        }
        const std::set<u64> unique(present.begin(), present.end());
        if (unique.size() != present.size()) return say("an event is there twice");
        for (const u64 counter : present)
            if (std::ranges::find(done, counter) == done.end() && counter != in_flight)
                return say(fmt::format("event {} is there, but its write did not say so", counter));
        // What is missing was overwritten: the oldest, and only if there were more sub-buffers than slots. The event
        // that was interrupted may have been committed before all that happened in between, and returned last.
        // A claim alone takes the slot's former sub-buffer away from readers.
        u64 highest = 0;
        for (u32 i = 0; i < lanes.shape.slots; ++i)
            highest = std::max(highest, Slot{*lanes.word(cpu, lanes.shape.slot(i))}.number());
        const bool lapped = highest > lanes.shape.slots;
        bool newer_present = false;
        for (const u64 counter : done) {
            const bool here = unique.contains(counter);
            if (!here && (newer_present || !lapped) && counter != outer)
                return say(fmt::format("event {} is lost", counter));
            const bool drained_before = std::ranges::find(drained, counter) != drained.end();
            newer_present = newer_present || (here && counter != outer && !drained_before);
        }
        if (!done.empty() && done.back() != outer && !unique.contains(done.back()))
            return say("the newest event is lost");
        if (!outer_committed && !done.empty() && done.back() == outer && !unique.contains(outer))
            return say("the event that was interrupted is lost");
        if (lost_of(lane()) != dropped) say(fmt::format("{} dropped, {} counted", dropped, lost_of(lane())));
    }
    void say(const std::string& what) {
        if (wrong.empty()) wrong = what;
    }
    [[nodiscard]] u8* lane() const { return lanes.lane(cpu); }

    Lanes lanes;
    u64 next = 1;
    std::vector<u64> done, drained;  // in the order of their return
    u64 dropped = 0;
    u64 in_flight = 0;             // written by one that was killed: may be there
    u64 outer = 0;                 // the one that is interrupted
    bool outer_committed = false;  // before what happened in between, which may have overwritten it
    std::string wrong;
};

struct Scenario {
    const char* name;
    Shape shape;
    std::function<void(World&)> set_up;
    Kind kind;
    Wrote expected;
    bool whole = true;  // the lane is healthy: what is in it is checked, and it may be written to in between
};

bool give_memory(const View&, u32) { return true; }
bool have_no_memory(const View&, u32) { return false; }
// A hostile peer: between two looks of the writer the active word is always another.
bool change_the_active_word(const View& view, u32 lane) {
    *reinterpret_cast<u64*>(view.lanes + view.stride * lane) ^= 1;
    return true;
}

const std::vector<Scenario>& scenarios() {
    const auto edge = [](World& w) {
        w.fill_until(2);
        w.fill_up();
    };
    static const std::vector<Scenario> all = {
        {"there is room", kOver, [](World& w) { w.write(Kind::pair); }, Kind::pair, Wrote::done},
        {"a staged payload", kOver, [](World& w) { w.write(Kind::pair); }, Kind::odd, Wrote::done},
        {"the first event", kOver, [](World&) {}, Kind::pair, Wrote::done},
        {"the first event, and the lane needs memory", kOver, [](World&) { cloister_populate_lane = give_memory; },
         Kind::pair, Wrote::done},
        {"there is no memory for the lane", kOver, [](World&) { cloister_populate_lane = have_no_memory; }, Kind::pair,
         Wrote::no_lane, false},
        {"a peer that changes the active word", kOver, [](World&) { cloister_populate_lane = change_the_active_word; },
         Kind::pair, Wrote::no_lane, false},
        {"the next sub-buffer is new", kOver, [](World& w) { w.write(Kind::pair), w.fill_up(); }, Kind::pair,
         Wrote::done},
        {"the next sub-buffer is overwritten", kOver, edge, Kind::pair, Wrote::done},
        {"the same with a big event", kOver, edge, Kind::big, Wrote::done},
        {"an id that needs a long header", kOver, [](World& w) { w.write(Kind::pair); }, Kind::wide, Wrote::done},
        {"the clock's high part is a new one", kOver,
         [](World& w) { w.write(Kind::pair), w.lanes.active_descriptor(cpu)->commit -= 1ULL << 32; }, Kind::odd,
         Wrote::done},
        {"the clock has gone back", kOver,
         [](World& w) { w.write(Kind::pair), w.lanes.active_descriptor(cpu)->commit += 100ULL << 32; }, Kind::pair,
         Wrote::done},
        {"a claim was left behind", kOver,
         [edge](World& w) {
             edge(w);
             u64& word = *w.lanes.word(cpu, kOver.slot(1));
             word = Slot::of(3, false, Slot{word}.descriptor(1), 1).word;
         },
         Kind::pair, Wrote::done},
        {"the drain has been there", kOver,
         [edge](World& w) {
             edge(w);
             w.drain_one();
         },
         Kind::pair, Wrote::done},
        {"nothing is free", kDisc, edge, Kind::pair, Wrote::dropped},
        {"the next one has been drained", kDisc,
         [edge](World& w) {
             edge(w);
             w.drain_one();
         },
         Kind::pair, Wrote::done},
        {"an event that is too big", kOver, [](World& w) { w.write(Kind::pair); }, Kind::huge, Wrote::too_big},
        {"no lane for this thread", kOver, [](World& w) { w.lanes.view.cpus = 0; }, Kind::pair, Wrote::no_lane, false},
        {"a descriptor that is none", kOver, [](World& w) { *w.lanes.word(cpu, 0) = Active::of(1, 60'000).word; },
         Kind::pair, Wrote::no_lane, false},
        {"a slot with a descriptor that is none", kOver,
         [edge](World& w) {
             edge(w);
             *w.lanes.word(cpu, kOver.slot(1)) = Slot::of(1, false, 60'000, 1).word;
         },
         Kind::pair, Wrote::no_lane, false},
        {"a slot that is laps ahead", kOver,
         [edge](World& w) {
             edge(w);
             *w.lanes.word(cpu, kOver.slot(1)) = Slot::of(77, false, 1, 1).word;
         },
         Kind::pair, Wrote::no_lane, false},
        {"more bytes left than there are", kOver,
         [](World& w) { w.write(Kind::pair), w.lanes.active_descriptor(cpu)->commit |= 0xfffffff0; }, Kind::pair,
         Wrote::done, false},
    };
    return all;
}

struct Action {
    const char* name;
    std::function<void(World&)> act;
};
const std::vector<Action>& actions() {
    static const std::vector<Action> all = {
        {"a reader looks", [](World&) {}},
        {"one more write", [](World& w) { w.write(Kind::pair); }},
        {"one more long write", [](World& w) { w.write(Kind::wide); }},
        {"a switch", [](World& w) { w.fill_until(w.active() + 1); }},
        {"a lap, so that the same descriptor is active", [](World& w) { w.fill_until(w.active() + 2); }},
        {"a lap and a half", [](World& w) { w.fill_until(w.active() + 3), w.fill_up(); }},
        {"two laps", [](World& w) { w.fill_until(w.active() + 4); }},
        {"a drain", [](World& w) { w.drain_one(); }},
        {"a drain and a lap", [](World& w) { w.drain_one(), w.fill_until(w.active() + 2), w.drain_one(); }},
    };
    return all;
}

struct Place {
    std::string function;
    step::Address at, abort = 0;  // abort: it lies in a sequence that goes on there
};

std::vector<Place> places() {
    std::vector<Place> out;
    const auto sequences = step::sequences();
    for (const auto& code : step::functions(
             {"steps_pair", "steps_wide", "steps_staged", "write_slow", "write_rounds", "try_", "open_next"}))
        for (const step::Address at : step::instructions(code)) {
            Place place{code.name, at};
            for (const auto& sequence : sequences)
                if (sequence.holds(at)) place.abort = sequence.abort;
            out.push_back(place);
        }
    return out;
}

void report(const Scenario& scenario, const Place& place, const std::string& doing, World& world) {
    if (world.wrong.empty()) return;
    if (++failures > 20) {
        std::printf("... and no further\n");
        std::exit(1);
    }
    std::printf("%s, interrupted at %s (%#lx) for %s: %s\n", scenario.name, place.function.c_str(), place.at,
                doing.c_str(), world.wrong.c_str());
}

void begin(const Scenario& scenario, World& world) {
    world.reset();
    scenario.set_up(world);
    world.outer = world.next;
}

// One write of the scenario, interrupted once. Whether the place was reached.
bool interrupted(const Scenario& scenario, World& world, const Place& place, unsigned hit, const Action& action) {
    begin(scenario, world);
    Wrote wrote{};
    const auto then = [&] {
        if (!scenario.whole) return;
        world.observe();
        action.act(world);
        world.observe();
    };
    const auto code = [&] { wrote = world.write(scenario.kind); };
    const bool reached = step::interrupt_at(place.at, hit, then, code);
    // In discard mode what happens in between takes the room or makes it.
    const bool either = scenario.shape.mode == Mode::discard && (wrote == Wrote::done || wrote == Wrote::dropped);
    if (wrote != scenario.expected && !either) world.say(fmt::format("the write returned {}", static_cast<int>(wrote)));
    if (scenario.whole) world.check();
    report(scenario, place, action.name, world);
    return reached;
}

// The clock's high part changes every few tens of milliseconds; then a write goes another way than the place lies on.
// A slow machine may take that long for a fork: many tries, of which nearly always the first is the last.
constexpr int kTries = 100;

// On the way back from a sequence that was aborted.
void interrupted_after_abort(const Scenario& scenario, World& world, const Place& place) {
    const std::function<void()> later = [&] {
        world.observe();
        world.fill_until(world.active() + 2);
        world.observe();
    };
    bool reached = false;
    for (int tries = 0; tries < kTries && !reached; ++tries) {
        begin(scenario, world);
        reached = step::interrupt_at(
            place.at, 1, [&] { step::then_at(place.abort, later); }, [&] { world.write(scenario.kind); });
    }
    if (!reached) world.say("its abort handler was not reached");
    world.check();
    report(scenario, place, "a lap at its abort handler", world);
}

// Two levels deep: what is done in between is interrupted as well, and switches the lane there.
void interrupted_twice(const Scenario& scenario, World& world, const Place& outer, const std::vector<Place>& all) {
    for (const Place& inner : all) {
        begin(scenario, world);
        const auto innermost = [&] { world.fill_until(world.active() + 1); };
        const auto then = [&] { step::interrupt_at(inner.at, 1, innermost, [&] { world.write(Kind::pair); }); };
        step::interrupt_at(outer.at, 1, then, [&] { world.write(scenario.kind); });
        world.check();
        report(scenario, outer, "a write that was interrupted in turn at " + inner.function, world);
    }
}

// kill -9 at that place: what was written is there, and whoever writes next goes on.
void killed(const Scenario& scenario, World& world, const Place& place) {
    int status = 0;
    for (int tries = 0; tries < kTries && !WIFSIGNALED(status); ++tries) {
        begin(scenario, world);
        world.in_flight = world.next;
        const pid_t child = fork();
        if (child == 0) {
            step::interrupt_at(
                place.at, 1, [] { kill(getpid(), SIGKILL); }, [&] { world.write(scenario.kind); });
            _exit(0);
        }
        waitpid(child, &status, 0);
    }
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) world.say("it was not killed");
    ++world.next;
    world.observe();
    // The drop of the dead may have been counted, or not yet.
    if (scenario.expected == Wrote::dropped && lost_of(world.lane()) == 1) world.dropped = 1;
    world.check();
    for (const u64 number : {world.active(), world.active() + 1, world.active() + 2}) {
        world.write(Kind::pair);
        if (scenario.shape.mode == Mode::overwrite) world.fill_until(number);
        world.check();
    }
    report(scenario, place, "kill -9", world);
}

// The clock's high part changes within a sub-buffer, for real.
void rolled() {
    World world(kOver);
    world.reset();
    for (int i = 0; i < 3; ++i) world.write(Kind::pair);
    const u64 high = Commit{world.lanes.active_descriptor(cpu)->commit}.high();
    while (__builtin_ia32_rdtsc() >> kTimeBits == high) continue;
    for (int i = 0; i < 3; ++i) world.write(Kind::pair);
    world.observe();
    world.check();
    report({"the clock's high part changes", kOver, {}, Kind::pair, Wrote::done}, {"nothing", 0}, "nothing", world);
}

}  // namespace

int main() {
    cpu = static_cast<u32>(sched_getcpu());
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
    std::setvbuf(stdout, nullptr, _IOLBF, 0);

    const auto all = places();
    std::set<step::Address> reached;
    std::size_t runs = 0;
    rolled();
    for (const Scenario& scenario : scenarios()) {
        World world(scenario.shape);
        begin(scenario, world);
        const Wrote plain = world.write(scenario.kind);
        if (plain != scenario.expected)
            world.say(fmt::format("uninterrupted, the write returned {}", static_cast<int>(plain)));
        if (scenario.whole) world.check();
        report(scenario, {"nothing", 0}, "nothing", world);

        for (const Place& place : all) {
            // Loops come by more than once; a sequence only begins again.
            for (unsigned hit = 1; hit <= (place.abort ? 1 : 3); ++hit) {
                ++runs;
                if (!interrupted(scenario, world, place, hit, actions().front())) break;
                reached.insert(place.at);
                if (!scenario.whole) continue;
                for (std::size_t i = 1; i < actions().size(); ++i, ++runs)
                    interrupted(scenario, world, place, hit, actions()[i]);
            }
            if (!scenario.whole || !reached.contains(place.at)) continue;
            if (!interrupted(scenario, world, place, 1, actions().front())) continue;
            if (place.abort) interrupted_after_abort(scenario, world, place);
            killed(scenario, world, place);
            if (scenario.shape.mode == Mode::overwrite)
                interrupted_twice(scenario, world, place, all), runs += all.size();
        }
    }
    std::size_t missed = 0;
    for (const Place& place : all)
        if (!reached.contains(place.at) && ++missed <= 20)
            std::printf("never reached: %s (%#lx)\n", place.function.c_str(), place.at);
    std::printf("%zu instructions, %zu of them reached; %zu runs; %d wrong\n", all.size(), all.size() - missed, runs,
                failures);
    return failures ? 1 : missed || all.size() < 150 ? 2 : 0;
}
