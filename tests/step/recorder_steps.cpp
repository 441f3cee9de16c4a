// The slow paths of a recorder, one instruction at a time: before each of them another write comes in between, and that
// one is stepped through in turn, with a third write before each of its instructions. No event may be lost, torn,
// doubled or out of order, and what is dropped or refused must be counted exactly.
//
// What runs in a restartable sequence is not stepped through (lane_steps interrupts that), but each sequence is aborted
// once in half of the runs, so that the way from there is. Instructions that stepping does not come to in reasonable
// time (after many rounds) are interrupted by a breakpoint.
//
// Exit status: 0 all is right and every instruction was reached; 1 something is wrong; 2 an instruction was not
// reached.
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <set>

#include "../core/lane.hpp"
#include "recorder/recorder.hpp"
#include "step.hpp"

using namespace cloister;
using namespace cloister::core;
using namespace cloister::core::test;
using step::AtSequences;

namespace {

constexpr Shape kOver{.slots = 2, .size = 4096, .mode = Mode::overwrite};
constexpr Shape kDisc{.slots = 2, .size = 4096, .mode = Mode::discard};
constexpr u32 kBigBytes = 16 + 4 * 230;  // four of them fill a sub-buffer

u32 cpu = 0;
int failures = 0;

// Through what an event is written: the sequence in line, which takes the slow path where it must; the recorder, staged
// by it at once or as it is built; the recorder's slow path at once, with an id that needs a long header; an event that
// is too big for a lane; one for lanes that are no recorder's. (An event of several fragments is in fragment_steps, the
// spill lane in spill_steps.)
enum class Kind { pair, copied, begun, wide, large, huge, elsewhere };

// A recorder with one lane that is looked at, and what must be in it.
class World {
public:
    explicit World(const Shape& shape)
        : shape_(shape), recorder_(*recorder::Recorder::create({.path = {}, .channels = {{"steps", shape}}})) {}

    // `around`: runs what it is given, interrupted.
    Wrote write(
        Kind kind, const std::function<void(const std::function<void()>&)>& around = [](const auto& run) { run(); }) {
        const u64 counter = next_++, active_before = active();
        const auto payload = payload_of(0, counter, 3);
        Wrote wrote{};
        around([&] { wrote = write_as(kind, counter, payload); });
        const bool counts = kind == Kind::copied || kind == Kind::begun || kind == Kind::wide ||
                            kind == Kind::large;  // the recorder, what it refuses
        dropped_ += wrote == Wrote::dropped;
        refused_ += counts && wrote == Wrote::no_lane;
        if (wrote == Wrote::done && kind != Kind::elsewhere) take_in(counter, active_before);
        return wrote;
    }
    void write_big() {
        std::array<u8, kBigBytes> payload{};
        const u64 counter = next_++, active_before = active();
        const std::array<u64, 2> head{u64{(kBigBytes - 16) / 4} << 8, counter};
        std::memset(payload.data(), static_cast<u8>(counter), payload.size());
        std::memcpy(payload.data(), head.data(), sizeof head);
        const Wrote wrote = recorder_->write(0, kPair, payload.data(), kBigBytes);
        dropped_ += wrote == Wrote::dropped;
        if (wrote == Wrote::done) take_in(counter, active_before);
    }
    // The next event of any size does not fit.
    void fill_up() {
        while (active() != 0 && left() >= kShortHeader + 16 && write(Kind::pair) == Wrote::done) continue;
    }
    void fill_until(u64 number) {
        for (u64 dropped = dropped_; active() < number && dropped == dropped_;) write_big();
    }
    void drain_one() {
        SubBuffer at;
        if (take(lane(), shape_, at) != Took::one) return;
        const Decoded found = decode(at);
        if (!found.wrong.empty()) say("drain: " + found.wrong);
        for (const auto& event : found.events) drained_.insert(event.counter);
        give_back(lane(), shape_, at);
    }
    void check() {
        std::map<u64, std::vector<u64>> held;  // sub-buffer: the events in it
        std::set<u64> present = drained_;
        for (const auto& at : sub_buffers(lane(), shape_)) {
            const Decoded found = decode(at);
            if (!found.wrong.empty()) return say(found.wrong);
            auto& numbers = held[at.number];
            for (const auto& event : found.events) {
                numbers.push_back(event.counter);
                if (!present.insert(event.counter).second) return say(fmt::format("event {} doubled", event.counter));
                if (event.counter == 0 || event.counter >= next_) say(fmt::format("event {} never was", event.counter));
            }
        }
        u64 newest = active();
        for (u32 i = 0; i < shape_.slots; ++i)
            newest = std::max(newest, Slot{*word(shape_.slot(i))}.number());  // a claim has taken the slot, too
        std::size_t there = 0;
        for (const auto& [counter, number] : done_) {
            const bool may_be_overwritten = number + shape_.slots <= newest;
            if (!present.contains(counter) && !may_be_overwritten)
                return say(fmt::format("event {} of sub-buffer {} is lost", counter, number));
            there += present.contains(counter);
        }
        if (there != present.size()) say("an event is there whose write did not say so");
        if (lost_of(lane()) != dropped_) say(fmt::format("{} dropped, {} counted", dropped_, lost_of(lane())));
        if (const u64 refused = recorder_->segment().header().refused; refused != refused_)
            say(fmt::format("{} refused, {} counted", refused_, refused));
    }
    void say(const std::string& what) {
        if (wrong.empty()) wrong = what;
    }

    [[nodiscard]] u64 active() const { return active_of(lane()).number(); }
    [[nodiscard]] u8* lane() const { return recorder_->segment().lane(0, cpu); }
    [[nodiscard]] u64* word(u64 offset) const { return reinterpret_cast<u64*>(lane() + offset); }
    [[nodiscard]] u64* commit() const { return word(shape_.descriptor(active_of(lane()).descriptor())); }
    [[nodiscard]] u32 left() const { return Commit{*commit()}.left(); }
    // In memory of the process, and meant to be changed by nobody.
    [[nodiscard]] View& view() const { return const_cast<View&>(recorder_->view(0)); }
    [[nodiscard]] const Shape& shape() const { return shape_; }
    [[nodiscard]] int file() const { return recorder_->segment().fd().get(); }

    std::string wrong;

private:
    Wrote write_as(Kind kind, u64 counter, const Payload& payload) {
        switch (kind) {
            case Kind::pair:
                return write_pair(view(), kPair, 0, counter);
            case Kind::copied:
                return recorder_->write(0, kPair, payload.words.data(), payload.bytes);
            case Kind::begun: {
                StagedEvent event = recorder_->begin(0, kPair);
                (void)event.append(payload.words.data(), payload.bytes);
                return event.commit();
            }
            case Kind::wide:
                return recorder_->write_staged(0, kWide, payload.words.data(), payload.bytes);
            case Kind::large:
                return recorder_->write_staged(0, kWide, too_big_.data(), static_cast<u32>(too_big_.size()));
            case Kind::huge:
                return write_slow(view(), kPair, too_big_.data(), static_cast<u32>(too_big_.size()));
            case Kind::elsewhere:
                return write_pair(elsewhere_.view, kWide, 0, counter);
        }
        return Wrote::no_lane;
    }
    // It has just returned: it is there, unless a whole lap has come in between.
    void take_in(u64 counter, u64 active_before) {
        auto held = sub_buffers(lane(), shape_);
        for (auto at = held.rbegin(); at != held.rend(); ++at)
            for (const auto& event : decode(*at).events)
                if (event.counter == counter) return void(done_[counter] = at->number);
        if (drained_.contains(counter)) return void(done_[counter] = 0);
        if (active() < active_before + shape_.slots)
            say(fmt::format("event {} is not there when its write returns", counter));
        done_[counter] = 0;
    }

    Shape shape_;
    std::unique_ptr<recorder::Recorder> recorder_;
    Lanes elsewhere_{kOver, cpu + 1};
    std::array<u8, kMaxEvent> too_big_{};
    std::map<u64, u64> done_;  // event: its sub-buffer
    std::set<u64> drained_;
    u64 next_ = 1, dropped_ = 0, refused_ = 0;
};

struct Scenario {
    const char* name;
    Shape shape;
    std::function<void(World&)> set_up;
    Kind kind;
    Wrote expected;
    bool whole = true;     // the lane is healthy: it is written to in between, and checked
    bool endless = false;  // the loop runs all its rounds: too many to step through
};

bool change_the_active_word(const View& view, u32 lane) {
    *reinterpret_cast<u64*>(view.lanes + view.stride * lane) ^= 1;
    return true;
}

const std::vector<Scenario>& scenarios() {
    static const auto some = [](World& w) { w.write(Kind::pair); };
    static const auto edge = [](World& w) {
        w.fill_until(2);
        w.fill_up();
    };
    static const std::vector<Scenario> all = {
        {"the first event, whose lane has no memory yet", kOver, [](World&) {}, Kind::copied, Wrote::done},
        {"there is room", kOver, some, Kind::copied, Wrote::done},
        {"there is room for one that is built", kOver, some, Kind::begun, Wrote::done},
        {"an id that needs a long header", kOver, some, Kind::wide, Wrote::done},
        {"the next sub-buffer is new", kOver, [](World& w) { w.write(Kind::pair), w.fill_up(); }, Kind::copied,
         Wrote::done},
        {"the next sub-buffer is overwritten", kOver, edge, Kind::pair, Wrote::done},
        {"the clock has gone back", kOver, [](World& w) { some(w), *w.commit() += 100ULL << 32; }, Kind::wide,
         Wrote::done},
        {"a claim was left behind", kOver,
         [](World& w) {
             edge(w);
             u64& word = *w.word(w.shape().slot(1));
             word = Slot::of(3, false, Slot{word}.descriptor(1), 1).word;
         },
         Kind::copied, Wrote::done},
        {"the drain has been there", kOver, [](World& w) { edge(w), w.drain_one(); }, Kind::pair, Wrote::done},
        {"nothing is free", kDisc, edge, Kind::copied, Wrote::dropped},
        {"the next one has been drained", kDisc, [](World& w) { edge(w), w.drain_one(); }, Kind::copied, Wrote::done},
        {"an event that is too big", kOver, some, Kind::huge, Wrote::too_big},
        {"no lane for this thread", kOver, [](World& w) { w.view().cpus = 0, w.view().spill = 0; }, Kind::copied,
         Wrote::no_lane, false},
        {"no lane for an event of several fragments", kOver, [](World& w) { w.view().cpus = 0, w.view().spill = 0; },
         Kind::large, Wrote::no_lane, false},
        {"there is no memory for the lane", kOver,
         [](World& w) {
             const int other = open("/dev/null", O_RDWR | O_CLOEXEC);
             dup2(other, w.file());
             close(other);
         },
         Kind::copied, Wrote::no_lane, false},
        {"a descriptor that is none", kOver, [](World& w) { *w.word(0) = Active::of(1, 60'000).word; }, Kind::pair,
         Wrote::no_lane, false},
        {"a slot with a descriptor that is none", kOver,
         [](World& w) { edge(w), *w.word(w.shape().slot(1)) = Slot::of(1, false, 60'000, 1).word; }, Kind::pair,
         Wrote::no_lane, false},
        {"a slot that is laps ahead", kOver,
         [](World& w) { edge(w), *w.word(w.shape().slot(1)) = Slot::of(77, false, 1, 1).word; }, Kind::pair,
         Wrote::no_lane, false, true},
        {"a peer that changes the active word", kOver, [](World&) { cloister_populate_lane = change_the_active_word; },
         Kind::pair, Wrote::no_lane, false, true},
        {"a lane of no recorder's", kOver, [](World&) {}, Kind::elsewhere, Wrote::done},
    };
    return all;
}

struct Action {
    const char* name;
    std::function<void(World&)> act;
};
const std::vector<Action>& actions() {
    static const std::vector<Action> all = {
        {"a write", [](World& w) { w.write(Kind::pair); }},
        {"a long write", [](World& w) { w.write(Kind::wide); }},
        {"a write that switches", [](World& w) { w.fill_up(), w.write(Kind::copied); }},
        {"a lap", [](World& w) { w.fill_until(w.active() + 2); }},
        {"a drain", [](World& w) { w.drain_one(); }},
    };
    return all;
}

void report(const Scenario& scenario, const std::string& doing, const World& world) {
    if (world.wrong.empty()) return;
    ++failures;
    std::printf("%s, at each instruction %s: %s\n", scenario.name, doing.c_str(), world.wrong.c_str());
}

// What is stepped through: everything between the sequence in line and the recorder, without the sequences.
struct Places {
    std::vector<step::Code> code;
    std::set<step::Address> all, reached;

    Places()
        : code(step::functions({"write_slow", "write_rounds", "8try_long", "8try_open", "8try_drop", "open_next",
                                "Recorder5beginE", "Recorder5writeE", "Recorder11write_wholeE",
                                "Recorder12write_stagedE", "Recorder13populate_laneE", "8recorder8populateE"})) {
        const auto sequences = step::sequences();
        for (const auto& function : code)
            for (const step::Address at : step::instructions(function))
                if (std::ranges::none_of(sequences, [at](const auto& one) { return one.holds(at); })) all.insert(at);
    }
    [[nodiscard]] std::string name_of(step::Address at) const {
        for (const auto& function : code)
            if (at >= function.begin && at < function.end)
                return fmt::format("{}+{:#x}", function.name, at - function.begin);
        return "?";
    }
};

// A new recorder brings its own way to make room; a scenario may put another in its place.
void begin(const Scenario& scenario, World& world) {
    scenario.set_up(world);
    if (scenario.whole) world.check();
}

void end(const Scenario& scenario, World& world, Wrote wrote, const std::string& doing) {
    // In discard mode what happens in between takes the room or makes it.
    const bool either = scenario.shape.mode == Mode::discard && (wrote == Wrote::done || wrote == Wrote::dropped);
    if (wrote != scenario.expected && !either) world.say(fmt::format("the write returned {}", static_cast<int>(wrote)));
    if (scenario.whole) world.check();
    report(scenario, doing, world);
}

std::size_t stepped(const Scenario& scenario, Places& places, AtSequences sequences, const Action& action) {
    World world(scenario.shape);
    begin(scenario, world);
    std::size_t steps = 0;
    const auto then = [&](step::Address at) {
        places.reached.insert(at);
        ++steps;
        if (scenario.whole) action.act(world);
    };
    const Wrote wrote =
        world.write(scenario.kind, [&](const auto& run) { step::step_through(places.code, sequences, then, run); });
    end(scenario, world, wrote, action.name);
    return steps;
}

std::size_t stepped_twice(const Scenario& scenario, const Places& places, AtSequences sequences, bool switches) {
    World world(scenario.shape);
    begin(scenario, world);
    std::size_t steps = 0;
    const auto innermost = [&](step::Address) {
        ++steps;
        world.write(Kind::pair);
    };
    const auto then = [&](step::Address) {
        if (switches) world.fill_up();
        world.write(Kind::wide, [&](const auto& run) { step::step_through(places.code, sequences, innermost, run); });
    };
    const Wrote wrote =
        world.write(scenario.kind, [&](const auto& run) { step::step_through(places.code, sequences, then, run); });
    end(scenario, world, wrote, "a write that is stepped through, at each of its instructions another");
    return steps;
}

// By a breakpoint, whatever scenario leads there.
bool interrupted(Places& places, step::Address at) {
    for (const Scenario& scenario : scenarios()) {
        World world(scenario.shape);
        begin(scenario, world);
        const auto then = [&] {
            if (scenario.whole) world.write(Kind::pair);
        };
        bool reached = false;
        const Wrote wrote =
            world.write(scenario.kind, [&](const auto& run) { reached = step::interrupt_at(at, 1, then, run); });
        if (reached) {
            end(scenario, world, wrote, places.name_of(at));
            return true;
        }
    }
    return false;
}

}  // namespace

int main() {
    cpu = static_cast<u32>(sched_getcpu());
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    const World beside(kOver);  // another recorder in the process

    Places places;
    std::size_t steps = 0;
    for (const Scenario& scenario : scenarios()) {
        if (scenario.endless) continue;
        for (const AtSequences sequences : {AtSequences::run, AtSequences::abort_once}) {
            for (const Action& action : actions()) steps += stepped(scenario, places, sequences, action);
            if (!scenario.whole) continue;
            for (const bool switches : {false, true}) steps += stepped_twice(scenario, places, sequences, switches);
        }
    }
    std::size_t by_breakpoint = 0, missed = 0;
    for (const step::Address at : places.all) {
        if (places.reached.contains(at)) continue;
        ++by_breakpoint;
        if (interrupted(places, at)) continue;
        if (++missed <= 20) std::printf("never reached: %s\n", places.name_of(at).c_str());
    }
    std::printf("%zu instructions, %zu of them stepped to, %zu by a breakpoint; %zu steps; %d wrong\n",
                places.all.size(), places.all.size() - by_breakpoint, by_breakpoint - missed, steps, failures);
    return failures ? 1 : missed || places.all.size() < 200 ? 2 : 0;
}
