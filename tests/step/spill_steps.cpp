// The writer of a spill lane interrupted at every instruction of every path, and there: looked at by a reader, written
// to, closed, lapped, drained; killed; and interrupted once more inside of that. To the interrupted thread all of it
// could as well have been done by others while it was stalled. No event may be torn, doubled, out of order in time or
// lost without being counted; what is missing where one was killed is one hole.
//
// Exit status: 0 all is right and every instruction was reached; 1 something is wrong (the first few are printed); 2 an
// instruction was never reached, so nothing was proven. spill.cpp is compiled into this once as it is and once for each
// mutant.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <functional>
#include <set>

#include "../core/spill.hpp"
#include "step.hpp"

using namespace cloister::core;
using namespace cloister::core::test;
namespace step = cloister::step;

namespace {

constexpr Shape kOver{.slots = 2, .size = 4096, .mode = Mode::overwrite};
constexpr Shape kDisc{.slots = 2, .size = 4096, .mode = Mode::discard};
constexpr u32 kCells = kOver.size / kSpillCell;
constexpr u32 kDwords = 200;  // of a big event behind its 16 bytes: four of them fill a sub-buffer

int failures = 0;

enum class Kind { empty, scrap, pair, odd, big, huge };

class World {
public:
    explicit World(const Shape& shape) : spill(shape), view_(spill.view) {}

    void reset() {
        spill.clear();
        spill.view = view_;
        next = 1;
        done.clear();
        drained.clear();
        dropped = 0;
        passed_over = 0;
        cloister_populate_lane = nullptr;
        in_flight = outer = 0;
        outer_committed = false;
        wrong.clear();
    }
    Wrote write(Kind kind) {
        const u64 counter = next++;
        const u32 dwords = kind == Kind::huge ? 2 * kDwords : kind == Kind::big ? kDwords : kind == Kind::odd ? 7 : 0;
        std::array<u8, 16 + 8 * kDwords> payload{};
        const std::array<u64, 2> head{u64{dwords} << 8, counter};
        std::memcpy(payload.data(), head.data(), sizeof head);
        std::memset(payload.data() + 16, static_cast<u8>(counter), 4 * std::size_t{dwords});
        const u32 bytes = kind == Kind::empty ? 0 : kind == Kind::scrap ? 7 : 16 + 4 * dwords;
        const Wrote wrote = write_spill(spill.view, kPair, payload.data(), bytes);
        if (wrote == Wrote::done) done.push_back(counter);
        if (wrote == Wrote::dropped) ++dropped;
        return wrote;
    }
    [[nodiscard]] u64& state_word(u32 i) const { return spill.word(SpillShape::state(i)); }
    [[nodiscard]] u32 index() const { return active_of(spill.lane).descriptor(); }
    // Not an event more fits. Bounded: with a writer in each sub-buffer nothing goes on.
    void fill_up() {
        for (u32 n = 0; n < kCells && SpillState{state_word(index())}.used() < kCells; ++n) (void)write(Kind::pair);
    }
    void fill_until(u64 number) {
        for (u32 n = 0; n < kCells && spill.active() < number; ++n) (void)write(Kind::big);
    }
    void drain_one() {
        u32 i = 0;
        if (!next_to_drain(spill.lane, spill.shape, i)) return;
        const SpillContent content = copy_of(spill, i);
        if (!content.wrong.empty()) say("drain: " + content.wrong);
        for (const auto& event : content.events) drained.push_back(event.counter);
        passed_over += content.holes;
        spill_drained(spill.lane, i, content.number, spill.mode);
    }
    // What a reader sees now: whole events in order of time, each of them written.
    void observe() {
        std::set<u64> seen;
        for (const auto& content : contents(spill)) {
            if (!content.wrong.empty()) say("reader: " + content.wrong);
            for (const auto& event : content.events) {
                outer_committed = outer_committed || event.counter == outer;
                if (event.counter == 0 || event.counter >= next)
                    say(fmt::format("reader: event {} never was", event.counter));
                if (!seen.insert(event.counter).second) say(fmt::format("reader: event {} twice", event.counter));
            }
        }
    }
    void check(u32 holes_allowed = 0) {
        observe();
        const bool overwrites = spill.mode == Mode::overwrite;
        std::vector<u64> present;
        if (!overwrites) present = drained;  // in overwrite mode they are still there as well
        u32 holes = 0, highest = 0;
        // One that was opened has lost what was in it, also if nothing is in it yet.
        for (u32 i = 0; i < spill.shape.slots; ++i) highest = std::max(highest, SpillState{state_word(i)}.number());
        for (const auto& content : contents(spill)) {
            holes += content.holes;
            u64 before = 0;
            for (const auto& event : content.events) {
                present.push_back(event.counter);
                if (event.counter == outer || event.counter == in_flight) continue;
                if (overwrites && before != 0 && event.counter != before + 1 && !skipped(before, event.counter))
                    say(fmt::format("event {} follows {}", event.counter, before));
                before = event.counter;
            }
        }
        const std::set<u64> unique(present.begin(), present.end());
        if (unique.size() != present.size()) say("an event is there twice");
        for (const u64 counter : present)
            if (std::ranges::find(done, counter) == done.end() && counter != in_flight)
                say(fmt::format("event {} is there, but its write did not say so", counter));
        if (holes > holes_allowed) say(fmt::format("{} holes", holes));
        if (in_flight != 0 && holes != 0 && unique.contains(in_flight)) say("a hole where there is none");
        // With more numbers than sub-buffers the oldest are gone; a drain that had to has passed over the outer one.
        const bool lapped = overwrites && highest > spill.shape.slots;
        for (const u64 counter : done)
            if (!unique.contains(counter) && !lapped && !(counter == outer && passed_over == 1))
                say(fmt::format("event {} is lost", counter));
        const auto newest = std::find_if(done.rbegin(), done.rend(), [&](u64 counter) { return counter != outer; });
        if (overwrites && newest != done.rend() && !unique.contains(*newest)) say("the newest event is lost");
        if (overwrites && !outer_committed && !done.empty() && done.back() == outer && !unique.contains(outer))
            say("the event that was interrupted is lost");
        const u64 lost = spill_lost_of(spill.lane);
        if (lost != dropped) say(fmt::format("{} dropped, {} counted", dropped, lost));
    }
    void say(const std::string& what) {
        if (wrong.empty()) wrong = what;
    }

    Spill spill;
    u64 next = 1;
    std::vector<u64> done, drained;  // in the order of their return
    u64 dropped = 0, passed_over = 0;
    u64 in_flight = 0;             // written by one that was killed: may be there
    u64 outer = 0;                 // the one that is interrupted
    bool outer_committed = false;  // before what happened in between, which may have overwritten it
    std::string wrong;

private:
    // All between the two were dropped, are in the hands of an interrupted write, or went elsewhere with it.
    [[nodiscard]] bool skipped(u64 from, u64 to) const {
        for (u64 counter = from + 1; counter < to; ++counter)
            if (counter != outer && counter != in_flight && std::ranges::find(done, counter) != done.end())
                return false;
        return true;
    }
    View view_;
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

// A writer that sleeps in this sub-buffer, with one cell.
void sleep_in(World& w, u32 index) {
    u64& word = w.state_word(index);
    word = SpillState{word}.reserved(1).word;
}

const std::vector<Scenario>& scenarios() {
    const auto edge = [](World& w) {
        w.fill_until(2);
        w.fill_up();
    };
    static const std::vector<Scenario> all = {
        {"there is room", kOver, [](World& w) { w.write(Kind::pair); }, Kind::pair, Wrote::done},
        {"an event of two cells", kOver, [](World& w) { w.write(Kind::pair); }, Kind::odd, Wrote::done},
        {"a big event", kOver, [](World& w) { w.write(Kind::pair); }, Kind::big, Wrote::done},
        {"an event without a payload", kOver, [](World& w) { w.write(Kind::pair); }, Kind::empty, Wrote::done, false},
        {"an event of an odd length", kOver, [](World& w) { w.write(Kind::pair); }, Kind::scrap, Wrote::done, false},
        {"the first event", kOver, [](World&) {}, Kind::pair, Wrote::done},
        {"the first event, and the lane needs memory", kOver, [](World&) { cloister_populate_lane = give_memory; },
         Kind::pair, Wrote::done},
        {"there is no memory for the lane", kOver, [](World&) { cloister_populate_lane = have_no_memory; }, Kind::pair,
         Wrote::no_lane, false},
        {"the next sub-buffer is new", kOver, [](World& w) { w.write(Kind::pair), w.fill_up(); }, Kind::pair,
         Wrote::done},
        {"the next sub-buffer is overwritten", kOver, edge, Kind::pair, Wrote::done},
        {"the same with a big event", kOver, edge, Kind::big, Wrote::done},
        {"closed, and nothing further", kOver,
         [edge](World& w) {
             edge(w);
             w.state_word(w.index()) |= SpillState::kClosed;
         },
         Kind::pair, Wrote::done},
        {"a claim was left behind", kOver,
         [edge](World& w) {
             edge(w);
             w.state_word(w.index()) |= SpillState::kClosed;
             w.state_word(w.index() ^ 1) = SpillState::open(3).word;
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
        {"no lane for this thread", kOver, [](World& w) { w.spill.view.spill = 0; }, Kind::pair, Wrote::no_lane, false},
        {"a writer sleeps in the next", kOver,
         [edge](World& w) {
             edge(w);
             sleep_in(w, w.index() ^ 1);
         },
         Kind::pair, Wrote::done, false},
        {"a writer sleeps in each", kOver,
         [edge](World& w) {
             edge(w);
             for (u32 i : {0U, 1U}) sleep_in(w, i);
         },
         Kind::pair, Wrote::dropped, false},
        {"as many writers as can be counted", kOver,
         [](World& w) { w.write(Kind::pair), w.state_word(w.index()) |= kMostSpillWriters; }, Kind::pair, Wrote::done,
         false},
        {"a sub-buffer that is none", kOver, [](World& w) { w.spill.word(0) = Active::of(1, 60'000).word; }, Kind::pair,
         Wrote::no_lane, false},
        {"an active number that no sub-buffer has", kOver,
         [](World& w) { w.write(Kind::pair), w.spill.word(0) = Active::of(9, w.index()).word; }, Kind::pair,
         Wrote::dropped, false},
        {"an active word without a number", kOver,
         [edge](World& w) {
             edge(w);
             w.spill.word(0) = Active::of(0, 1).word;
         },
         Kind::pair, Wrote::dropped, false},
        {"numbers that nobody has given", kOver,
         [edge](World& w) {
             edge(w);
             w.state_word(w.index() ^ 1) = SpillState::open(77).word;
         },
         Kind::pair, Wrote::done, false},
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
        {"one more big write", [](World& w) { w.write(Kind::big); }},
        {"a switch", [](World& w) { w.fill_until(w.spill.active() + 1); }},
        {"a lap", [](World& w) { w.fill_until(w.spill.active() + 2); }},
        {"a lap and a half", [](World& w) { w.fill_until(w.spill.active() + 3), w.fill_up(); }},
        {"two laps", [](World& w) { w.fill_until(w.spill.active() + 4); }},
        {"a drain", [](World& w) { w.drain_one(); }},
        {"a drain and a lap", [](World& w) { w.drain_one(), w.fill_until(w.spill.active() + 2), w.drain_one(); }},
    };
    return all;
}

struct Place {
    std::string function;
    step::Address at;
};

std::vector<Place> places() {
    std::vector<Place> out;
    for (const auto& code : step::functions({"write_spill", "open_spill", "store_event", "fenced_clock"}))
        for (const step::Address at : step::instructions(code)) out.push_back({code.name, at});
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

// Two levels deep: what is done in between is interrupted as well, and laps the lane there.
void interrupted_twice(const Scenario& scenario, World& world, const Place& outer, const std::vector<Place>& all) {
    for (const Place& inner : all) {
        begin(scenario, world);
        const auto innermost = [&] { world.fill_until(world.spill.active() + 2); };
        const auto then = [&] {
            const u64 own = world.outer;
            world.outer = world.next;  // of the two, one is the other's neighbour in time
            step::interrupt_at(inner.at, 1, innermost, [&] { world.write(Kind::pair); });
            world.outer = own;
        };
        step::interrupt_at(outer.at, 1, then, [&] { world.write(scenario.kind); });
        world.observe();
        if (spill_lost_of(world.spill.lane) != world.dropped) world.say("drops are not counted");
        for (const auto& content : contents(world.spill))
            if (content.holes != 0) world.say("a hole is left");
        report(scenario, outer, "a write that was interrupted in turn at " + inner.function, world);
    }
}

// Where a write comes only when others were faster: interrupted somewhere, lapped there, and interrupted at `at` on the
// way on. Whether that was reached from anywhere.
bool reached_when_overtaken(step::Address at, const std::vector<Place>& all) {
    bool reached = false;
    for (const Scenario& scenario : scenarios()) {
        World world(scenario.shape);
        for (const Place& from : all) {
            if (!scenario.whole) break;
            begin(scenario, world);
            const std::function<void()> later = [&] {
                world.observe();
                world.fill_until(world.spill.active() + 2);
                world.observe();
                reached = true;
            };
            const auto then = [&] {
                world.fill_until(world.spill.active() + 1);
                step::then_at(at, later);
            };
            step::interrupt_at(from.at, 1, then, [&] { world.write(scenario.kind); });
            world.observe();
            if (spill_lost_of(world.spill.lane) != world.dropped) world.say("drops are not counted");
            report(scenario, from, "others, that overtook it", world);
        }
    }
    return reached;
}

// kill -9 at that place: what was written is there, one hole at most, and whoever writes next goes on.
void killed(const Scenario& scenario, World& world, const Place& place) {
    begin(scenario, world);
    world.in_flight = world.next;
    const pid_t child = fork();
    if (child == 0) {
        step::interrupt_at(
            place.at, 1, [] { kill(getpid(), SIGKILL); }, [&] { world.write(scenario.kind); });
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) world.say("it was not killed");
    ++world.next;
    // The drop of the dead may have been counted, or not yet.
    if (scenario.expected == Wrote::dropped && spill_lost_of(world.spill.lane) == 1) world.dropped = 1;
    world.check(1);
    for (const u64 number : {world.spill.active(), world.spill.active() + 1, world.spill.active() + 2}) {
        world.write(Kind::pair);
        if (scenario.shape.mode == Mode::overwrite) {
            world.fill_until(number);
            if (world.spill.active() < number) world.say("nobody can go on");
        }
        world.check(1);
    }
    report(scenario, place, "kill -9", world);
}

}  // namespace

int main() {
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    const auto all = places();
    std::set<step::Address> reached;
    std::size_t runs = 0;
    for (const Scenario& scenario : scenarios()) {
        World world(scenario.shape);
        begin(scenario, world);
        const Wrote plain = world.write(scenario.kind);
        if (plain != scenario.expected)
            world.say(fmt::format("uninterrupted, the write returned {}", static_cast<int>(plain)));
        if (scenario.whole) world.check();
        report(scenario, {"nothing", 0}, "nothing", world);

        for (const Place& place : all) {
            for (unsigned hit = 1; hit <= 3; ++hit) {  // loops come by more than once
                ++runs;
                if (!interrupted(scenario, world, place, hit, actions().front())) break;
                reached.insert(place.at);
                if (!scenario.whole) break;
                for (std::size_t i = 1; i < actions().size(); ++i, ++runs)
                    interrupted(scenario, world, place, hit, actions()[i]);
            }
            if (!scenario.whole || !interrupted(scenario, world, place, 1, actions().front())) continue;
            killed(scenario, world, place);
            if (scenario.shape.mode == Mode::overwrite && scenario.kind != Kind::big)
                interrupted_twice(scenario, world, place, all), runs += all.size();
        }
    }
    std::size_t missed = 0;
    for (const Place& place : all)
        if (!reached.contains(place.at) && !reached_when_overtaken(place.at, all) && ++missed <= 20)
            std::printf("never reached: %s (%#lx)\n", place.function.c_str(), place.at);
    std::printf("%zu instructions, %zu of them reached; %zu runs; %d wrong\n", all.size(), all.size() - missed, runs,
                failures);
    return failures ? 1 : missed || all.size() < 100 ? 2 : 0;
}
