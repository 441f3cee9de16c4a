// Events in fragments interrupted at every instruction of their writer, and of the lane's writer under each fragment;
// and there: looked at by a reader, other events written, further ones in fragments begun and ended, dropped, lapped;
// killed; and interrupted once more inside of that. Every event whose commit said so is there once, whole and itself;
// the others are incomplete or not there; drops are counted exactly.
//
// Exit status: as that of lane_steps.cpp. staged_event.cpp is compiled into this once as it is and once for each
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
#include "cloister/core/staged_event.hpp"
#include "step.hpp"

using namespace cloister::core;
using namespace cloister::core::test;
namespace step = cloister::step;

namespace {

Author author;
constexpr u64 kFirst = 1000;  // instance; the same for whoever comes first, so that using it twice shows

}  // namespace

// What is interrupted beside the functions of staged_event.cpp and lane.cpp.
[[gnu::noinline]] Authorship steps_author() {
    if (author.thread == 0) introduce(author, 7, kFirst);
    return next_of(author);
}

namespace {

constexpr u32 kBody = 6;  // id of the events
constexpr Shape kOver{.slots = 16, .size = 4096, .mode = Mode::overwrite};
constexpr Shape kSmall{.slots = 2, .size = 4096, .mode = Mode::overwrite};
constexpr Shape kDisc{.slots = 2, .size = 4096, .mode = Mode::discard};
constexpr u32 kWhole = kOver.largest() - kLongHeader, kPart = kWhole - kFragmentHead;

u32 cpu = 0;
int failures = 0;

struct Place {
    std::string function;
    step::Address at = 0;
    bool in_lane = false;  // the lane's writer: reached for each fragment
};

// What an event of this number has at a place of its payload; the first eight bytes are the number and the size.
u8 byte_of(u64 number, u32 at, u32 size) {
    if (at < 4) return static_cast<u8>(number >> 8 * at);
    if (at < 8) return static_cast<u8>(size >> 8 * (at - 4));
    return static_cast<u8>(number * 31 + at * 7 + at / 256);
}

struct Found {
    std::vector<u8> bytes;
    u64 next = 0;
    bool gap = false, last = false, abandoned = false;
    [[nodiscard]] bool whole() const { return last && !gap; }
};

class World {
public:
    explicit World(const Shape& shape) : lanes(shape, cpu + 1), real(sink_of(lanes.view, steps_author)) {}

    void reset() {
        lanes.clear(cpu);
        author = {};
        next = 1;
        lost = writes = 0;
        in_flight = plant_at = 0;
        committed.clear();
        wrong.clear();
    }
    // Builds an event in pieces; `commit`: or drops it.
    void build(u32 size, bool commit = true, u32 piece = 700) {
        const u64 number = next++;
        StagedEvent event({.write = write, .author = steps_author, .to = this, .which = 0, .largest = real.largest},
                          kBody);
        std::array<u8, 4 * kOver.largest()> bytes;
        for (u32 i = 0; i < size; ++i) bytes[i] = byte_of(number, i, size);
        for (u32 at = 0; at < size; at += piece) (void)event.append(bytes.data() + at, std::min(piece, size - at));
        const bool done = commit && event.commit() == Wrote::done;
        if (!commit) event.drop();
        (void)event.append(bytes.data(), 1);  // after its end, nothing happens any more
        (void)event.commit();
        if (done) committed.push_back(number);
    }
    void fill(u64 sub_buffers) {
        const u64 until = active_of(lanes.lane(cpu)).number() + sub_buffers;
        while (active_of(lanes.lane(cpu)).number() < until) {
            const u64 before = lost;
            build(900);
            if (lost != before) return;
        }
    }
    // Every event that is there now, by its number.
    std::map<u64, Found> read() {
        std::map<u64, Found> out;
        std::map<u64, Found> open;  // by instance
        u64 before = 0;
        for (const auto& at : sub_buffers(lanes.lane(cpu), lanes.shape)) {
            if (before && at.number != before + 1) say("a sub-buffer is missing");
            before = at.number;
            for (u32 pos = kPacketHeader; pos < at.content;) {
                u32 header = 0, id = 0;
                std::memcpy(&header, at.data + pos, 4);
                id = header & 31;
                u32 size = kShortHeader;
                if (id == 31) {
                    std::memcpy(&id, at.data + pos + 4, 4);
                    size = kLongHeader;
                }
                const u8* const payload = at.data + pos + size;
                if (id == kBody) {
                    u32 bytes = 0;
                    std::memcpy(&bytes, payload + 4, 4);
                    Found one{{payload, payload + bytes}, 1, false, true, false};
                    keep(out, std::move(one));
                    pos = padded(pos + size + bytes);
                    continue;
                }
                if (id != kFragmentId) {
                    say(fmt::format("an event of class {}", id));
                    break;
                }
                FragmentHead head;
                std::memcpy(&head, payload, kFragmentHead);
                if (head.thread != 7 || head.id != kBody || head.end > 2) say("a fragment that is torn");
                if (size + kFragmentHead + head.bytes > lanes.shape.largest()) say("a fragment that is too large");
                const bool known = open.contains(head.instance);
                Found& one = open[head.instance];
                if (known && (one.last || one.abandoned || head.index < one.next))
                    say(fmt::format("instance {} is used twice", head.instance));
                one.gap = one.gap || head.index != one.next;
                if (!one.gap)
                    one.bytes.insert(one.bytes.end(), payload + kFragmentHead, payload + kFragmentHead + head.bytes);
                one.next = u64{head.index} + 1;
                one.last = head.end == 1;
                one.abandoned = head.end == 2;
                pos = padded(pos + size + kFragmentHead + head.bytes);
            }
        }
        for (auto& [instance, one] : open) keep(out, std::move(one));
        return out;
    }
    void check() {
        const bool lapped = active_of(lanes.lane(cpu)).number() > lanes.shape.slots;
        const auto there = read();
        for (const u64 number : committed) {
            const auto at = there.find(number);
            if (lapped) continue;  // what was overwritten is missing; what is there was looked at
            if (at == there.end()) return say(fmt::format("event {} is lost", number));
            if (!at->second.whole()) return say(fmt::format("event {} is incomplete", number));
        }
        for (const auto& [number, one] : there)
            if (one.whole() && number != in_flight && std::ranges::find(committed, number) == committed.end())
                return say(fmt::format("event {} is whole, but its commit did not say so", number));
        if (lost_of(lanes.lane(cpu)) != lost)
            say(fmt::format("{} writes dropped, {} counted", lost, lost_of(lanes.lane(cpu))));
    }
    void say(const std::string& what) {
        if (wrong.empty()) wrong = what;
    }

    Lanes lanes;
    Sink real;
    u64 next = 1, lost = 0, writes = 0;
    std::vector<u64> committed;
    u64 in_flight = 0;  // of one that was killed: may be there, whole or not
    // Interrupts the lane's writer under the plant_at-th write: 0 for none.
    u64 plant_at = 0;
    step::Address place = 0;
    const std::function<void()>* then = nullptr;
    bool reached = false;
    std::string wrong;

private:
    static Wrote write(const void* to, u64, u32 id, const void* payload, u32 bytes) {
        auto& self = *static_cast<World*>(const_cast<void*>(to));
        Wrote wrote{};
        const auto code = [&] { wrote = self.real.write(self.real.to, self.real.which, id, payload, bytes); };
        if (++self.writes == self.plant_at)
            self.reached = step::interrupt_at(self.place, 1, *self.then, code);
        else
            code();
        self.lost += wrote == Wrote::dropped;
        return wrote;
    }
    void keep(std::map<u64, Found>& out, Found one) {
        // One whose begin is missing does not say which it is.
        if (one.bytes.size() < 8) return;
        u32 number = 0, size = 0;
        std::memcpy(&number, one.bytes.data(), 4);
        std::memcpy(&size, one.bytes.data() + 4, 4);
        if (number == 0 || number >= next) return say(fmt::format("event {} never was", number));
        if (one.whole() && one.bytes.size() != size) return say(fmt::format("event {} has another size", number));
        for (u32 i = 0; i < one.bytes.size(); ++i)
            if (one.bytes[i] != byte_of(number, i, size)) return say(fmt::format("event {} is torn", number));
        if (!out.try_emplace(number, std::move(one)).second) say(fmt::format("event {} is there twice", number));
    }
};

struct Scenario {
    const char* name;
    Shape shape;
    std::function<void(World&)> set_up, run;
};

// So many sub-buffers have no more room for a fragment, and none follows.
void leave_room_for(World& w, u32 fragments) {
    for (u32 n = 0; n + fragments < 6; ++n) w.build(900);
}

const std::vector<Scenario>& scenarios() {
    const auto nothing = [](World& w) { w.build(20); };
    static const std::vector<Scenario> all = {
        {"a small one", kOver, nothing, [](World& w) { w.build(101); }},
        {"the largest that is no fragment", kOver, nothing, [](World& w) { w.build(kWhole); }},
        {"one byte more", kOver, nothing, [](World& w) { w.build(kWhole + 1); }},
        {"two fragments that are full", kOver, nothing, [](World& w) { w.build(2 * kPart); }},
        {"three fragments", kOver, nothing, [](World& w) { w.build(3 * kPart - 102); }},
        {"all of it at once", kOver, nothing, [](World& w) { w.build(3 * kPart - 103, true, 4 * kPart); }},
        {"the first of its author", kOver, [](World&) {}, [](World& w) { w.build(2 * kPart - 5); }},
        {"a small one that is dropped", kOver, nothing, [](World& w) { w.build(500, false); }},
        {"one that is dropped after two fragments", kOver, nothing, [](World& w) { w.build(3 * kPart - 90, false); }},
        {"it laps the lane", kSmall, [](World& w) { w.fill(1); }, [](World& w) { w.build(4 * kPart - 8); }},
        {"no room at all", kDisc, [](World& w) { w.fill(3); }, [](World& w) { w.build(3 * kPart); }},
        {"room for two fragments and a short last one", kDisc, [](World& w) { leave_room_for(w, 2); },
         [](World& w) { w.build(3 * kPart + 20); }},
        {"room for two fragments, and the last is long", kDisc, [](World& w) { leave_room_for(w, 2); },
         [](World& w) { w.build(4 * kPart - 20); }},
        {"room for two fragments, and then it is dropped", kDisc, [](World& w) { leave_room_for(w, 2); },
         [](World& w) { w.build(4 * kPart - 20, false); }},
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
        {"a small event", [](World& w) { w.build(20); }},
        {"an event in fragments", [](World& w) { w.build(2 * kPart - 9); }},
        {"two of them, and one that is dropped",
         [](World& w) { w.build(2 * kPart - 9), w.build(kPart + 200, false), w.build(kWhole + 1); }},
        {"a small one that is dropped", [](World& w) { w.build(30, false); }},
        {"a switch", [](World& w) { w.fill(1); }},
    };
    return all;
}

std::vector<Place> places() {
    std::vector<Place> out;
    const auto add = [&](const std::vector<std::string>& parts, bool in_lane) {
        for (const auto& code : step::functions(parts))
            for (const step::Address at : step::instructions(code)) out.push_back({code.name, at, in_lane});
    };
    add({"StagedEvent", "steps_author"}, false);
    add({"write_to_view", "write_slow", "write_rounds", "try_", "open_next"}, true);
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

// Runs the scenario and `then` at the place, when it comes by for the nth time: of the lane, under the nth write.
bool interrupt(const Scenario& scenario, World& world, const Place& place, unsigned nth,
               const std::function<void()>& then) {
    world.writes = 0;
    world.reached = false;
    if (!place.in_lane) return step::interrupt_at(place.at, nth, then, [&] { scenario.run(world); });
    world.plant_at = nth;
    world.place = place.at;
    world.then = &then;
    scenario.run(world);
    return world.reached;
}

void begin(const Scenario& scenario, World& world) {
    world.reset();
    scenario.set_up(world);
}

bool interrupted(const Scenario& scenario, World& world, const Place& place, unsigned nth, const Action& action) {
    begin(scenario, world);
    const bool reached = interrupt(scenario, world, place, nth, [&] {
        world.plant_at = 0;
        (void)world.read();
        action.act(world);
        (void)world.read();
    });
    world.check();
    report(scenario, place, action.name, world);
    return reached;
}

// Two levels deep: the event in fragments that is built in between is interrupted by a further one.
void interrupted_twice(const Scenario& scenario, World& world, const Place& outer, const std::vector<Place>& all) {
    for (const Place& inner : all) {
        if (inner.in_lane) continue;
        begin(scenario, world);
        const std::function<void()> innermost = [&] { world.build(kWhole + 10); };
        interrupt(scenario, world, outer, 1, [&] {
            world.plant_at = 0;
            step::interrupt_at(inner.at, 1, innermost, [&] { world.build(2 * kPart - 9); });
        });
        world.check();
        report(scenario, outer, "an event in fragments that was interrupted in turn at " + inner.function, world);
    }
}

// kill -9 at that place: what was committed is there, and whoever writes next goes on.
void killed(const Scenario& scenario, World& world, const Place& place, unsigned nth) {
    // Every now and then the clock's high part changes, and a write goes another way than the place lies on.
    constexpr int kTries = 4;
    int status = 0;
    for (int tries = 0; tries < kTries && !WIFSIGNALED(status); ++tries) {
        begin(scenario, world);
        const pid_t child = fork();
        if (child == 0) {
            interrupt(scenario, world, place, nth, [] { kill(getpid(), SIGKILL); });
            _exit(0);
        }
        waitpid(child, &status, 0);
    }
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) world.say("it was not killed");
    // What the dead thread has used is in its lane only. Another one with its id begins above that.
    author = {.instances = kFirst + 1000, .thread = 7};
    world.in_flight = world.next++;
    world.lost = lost_of(world.lanes.lane(cpu));
    world.check();
    for (int n = 0; n < 4 && scenario.shape.mode == Mode::overwrite; ++n) {
        world.build(2 * kPart - 9);
        world.check();
    }
    report(scenario, place, "kill -9", world);
}

}  // namespace

int main() {
    cpu = static_cast<u32>(sched_getcpu());
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
    std::setvbuf(stdout, nullptr, _IOLBF, 0);

    constexpr unsigned kMostPasses = 8;  // of one place in a scenario
    const auto all = places();
    std::set<step::Address> reached;
    std::size_t runs = 0;
    for (const Scenario& scenario : scenarios()) {
        World world(scenario.shape);
        begin(scenario, world);
        scenario.run(world);
        world.check();
        report(scenario, {"nothing", 0, false}, "nothing", world);
        for (const Place& place : all)
            for (unsigned nth = 1; nth <= kMostPasses; ++nth, ++runs) {
                if (!interrupted(scenario, world, place, nth, actions().front())) break;
                reached.insert(place.at);
                for (std::size_t i = 1; i < actions().size(); ++i, ++runs)
                    interrupted(scenario, world, place, nth, actions()[i]);
                killed(scenario, world, place, nth), ++runs;
                if (nth == 1 && scenario.shape.mode == Mode::overwrite && !place.in_lane)
                    interrupted_twice(scenario, world, place, all), runs += all.size();
            }
    }
    // Of the lane's writer only what fragments come by: lane_steps has all of it.
    std::size_t own = 0, missed = 0;
    for (const Place& place : all) {
        own += !place.in_lane;
        if (!place.in_lane && !reached.contains(place.at) && ++missed <= 20)
            std::printf("never reached: %s (%#lx)\n", place.function.c_str(), place.at);
    }
    std::printf(
        "%zu instructions of events in fragments, %zu of them reached; %zu of lanes reached; %zu runs; %d wrong\n", own,
        own - missed, reached.size() - (own - missed), runs, failures);
    return failures ? 1 : missed || own < 150 || reached.size() < own + 100 ? 2 : 0;
}
