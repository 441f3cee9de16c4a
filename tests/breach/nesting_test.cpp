// Random streams: well-formed ones must come back as the trees that they were made from, whatever the order in which
// the rings are read; of malformed ones no record may be lost or doubled.
#include <algorithm>
#include <functional>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "breach/correlate.hpp"
#include "stream.hpp"

namespace cloister::breach::testing {
namespace {

struct HexNames final : Names {
    [[nodiscard]] std::string kernel_function(std::uint64_t address) const override {
        if (address == kTick) return "tick_nohz_handler";
        return fmt::format("fn{:x}", address);
    }
    static constexpr std::uint64_t kTick = 0x7177;
};

// What a tree looks like, apart from what the generator does not choose.
std::string shape(const Breach& breach, int depth = 0) {
    std::string out = fmt::format("{:{}}{}..{} {} '{}'", "", depth, breach.start_ns, breach.end_ns, name(breach.cause),
                                  breach.detail);
    if (breach.who) out += fmt::format(" by {}", breach.who->tid);
    if (depth == 0) out += fmt::format(" back {}", breach.departure_end_ns);
    out += "\n";
    for (const Breach& child : breach.children) out += shape(child, depth + 1);
    return out;
}

// Makes the life of one thread: records as the probe would write them, and the trees they come from.
class Life {
public:
    Life(std::uint32_t tid, std::uint64_t seed) : tid_(tid), random_(seed), cpu_(upto(kCpus - 1)) {}

    void live(int departures) {
        for (int i = 0; i < departures; ++i) {
            depart();
            pass(30'000, 200'000);  // back in its own code for longer than anything follows a departure
        }
    }

    static constexpr int kCpus = 3;
    std::vector<cl_record> records;
    std::vector<std::string> trees;

private:
    std::uint64_t upto(std::uint64_t most) { return std::uniform_int_distribution<std::uint64_t>(0, most)(random_); }
    bool chance(int percent) { return upto(99) < static_cast<std::uint64_t>(percent); }
    void pass(std::uint64_t least, std::uint64_t most) { now_ += least + upto(most - least); }

    cl_record begin(std::uint16_t kind, std::uint32_t flags) const {
        cl_record record{};
        record.kind = kind;
        record.flags = flags;
        record.start = now_;
        record.cpu = static_cast<std::uint16_t>(cpu_);
        record.tid = record.tgid = tid_;
        record.sys_nr = flags & CL_IN_SYSCALL ? 0 : -1;
        record.sys_enter = flags & CL_IN_SYSCALL ? sys_enter_ : 0;
        return record;
    }
    Breach end(cl_record record, Cause cause, std::string detail, std::vector<Breach> children) {
        record.end = now_;
        records.push_back(record);
        Breach breach;
        breach.start_ns = record.start;
        breach.end_ns = record.end;
        breach.cause = cause;
        breach.detail = std::move(detail);
        breach.children = std::move(children);
        return breach;
    }

    Breach nmi(std::uint32_t flags) {
        cl_record record = begin(CL_NMI, flags);
        record.a = 1 + upto(3);
        pass(10, 400);
        return end(record, Cause::nmi, fmt::format("fn{:x}", record.a), {});
    }

    // Nothing else, or NMIs, inside something that runs with interrupts off.
    std::vector<Breach> nmis(std::uint32_t flags) {
        std::vector<Breach> inside;
        while (chance(20)) {
            pass(0, 300);
            inside.push_back(nmi(flags));
        }
        pass(60, 300);
        return inside;
    }

    Breach softirq(std::uint32_t flags) {
        cl_record record = begin(CL_SOFTIRQ, flags);
        record.a = 1;
        std::vector<Breach> inside;
        while (chance(40)) {
            pass(60, 400);
            cl_record timer = begin(CL_TIMER, flags | CL_IN_IRQ);
            timer.a = 1 + upto(3);
            auto nested = nmis(flags | CL_IN_IRQ);
            inside.push_back(end(timer, Cause::timer, fmt::format("fn{:x}", timer.a), std::move(nested)));
        }
        pass(60, 400);
        return end(record, Cause::softirq, "TIMER", std::move(inside));
    }

    Breach interrupt(std::uint32_t flags) {
        Breach breach = chance(50) ? device(flags) : chance(50) ? tick(flags) : call(flags);
        while (chance(30)) {  // softirqs that follow it
            pass(60, 3000);
            breach.children.push_back(softirq(flags));
        }
        return breach;
    }
    Breach device(std::uint32_t flags) {
        cl_record record = begin(CL_IRQ, flags);
        record.a = 36;
        std::copy_n("disk", 5, record.comm);
        auto inside = nmis(flags | CL_IN_IRQ);
        return end(record, Cause::irq, "irq 36 disk", std::move(inside));
    }
    Breach tick(std::uint32_t flags) {
        cl_record record = begin(CL_VECTOR, flags);
        record.a = CL_VEC_LOCAL_TIMER;
        auto inside = nmis(flags | CL_IN_IRQ);
        if (chance(70)) {  // its own timer is no node
            cl_record timer = begin(CL_HRTIMER, flags | CL_IN_IRQ);
            timer.a = HexNames::kTick;
            auto nested = nmis(flags | CL_IN_IRQ);
            (void)end(timer, Cause::timer, "", {});
            std::ranges::move(nested, std::back_inserter(inside));
        }
        pass(60, 300);
        return end(record, Cause::tick, "", std::move(inside));
    }
    // An IPI; its functions come from a few csds that are used again and again.
    Breach call(std::uint32_t flags) {
        cl_record record = begin(CL_VECTOR, flags);
        record.a = CL_VEC_CALL_FUNCTION;
        std::vector<Breach> calls;
        for (std::uint64_t n = upto(3); n > 0; --n) {
            pass(60, 300);
            cl_record csd = begin(CL_CSD, flags | CL_IN_IRQ);
            csd.a = 1 + upto(3);
            csd.b = tid_ * 16 + n;
            auto& last_run = last_runs_[{csd.b, cpu_}];
            cl_record queue{};
            queue.kind = CL_CSD_QUEUE;
            queue.start = queue.end = last_run + 60 + upto(csd.start - last_run - 61);
            queue.cpu = static_cast<std::uint16_t>((cpu_ + 1) % kCpus);
            queue.a = cpu_;
            queue.b = csd.b;
            queue.who_tid = static_cast<std::uint32_t>(1000 + upto(1000));
            queue.sys_nr = -1;
            last_run = csd.start;
            records.push_back(queue);
            auto inside = nmis(flags | CL_IN_IRQ);
            Breach& breach = calls.emplace_back(
                end(csd, Cause::ipi, fmt::format("function call: fn{:x}", csd.a), std::move(inside)));
            breach.who.emplace().tid = queue.who_tid;
        }
        pass(60, 300);
        std::string detail = calls.empty() ? "function call" : "function calls";
        if (calls.size() != 1) return end(record, Cause::ipi, detail, std::move(calls));
        Breach only = std::move(calls[0]);
        Breach breach = end(record, Cause::ipi, only.detail, std::move(only.children));
        breach.who = only.who;
        return breach;
    }

    // Others run one after the other, and the thread may be moved.
    Breach offcpu(std::uint32_t flags, bool involuntary) {
        cl_record record = begin(CL_OFFCPU, flags);
        record.b = involuntary;
        record.c = cpu_;
        std::vector<Breach> others;
        const std::uint64_t count = upto(3);
        for (std::uint64_t i = 0; i < count; ++i) {
            pass(60, 2000);
            cl_record other = begin(CL_OTHER, flags | CL_IN_OFFCPU);
            other.who_tid = static_cast<std::uint32_t>(2000 + 100 * i + upto(50));
            std::copy_n("rival", 6, other.comm);
            if (i == 0) record.who_tid = other.who_tid;
            std::vector<Breach> inside;
            while (chance(40)) {
                pass(60, 50'000);
                inside.push_back(interrupt(flags | CL_IN_OFFCPU));
            }
            pass(60, 700'000);
            Breach& breach = others.emplace_back(end(other, Cause::preempted, "by rival", std::move(inside)));
            breach.who.emplace().tid = other.who_tid;
        }
        if (involuntary && count == 0) record.who_tid = 3000;
        std::copy_n("rival", 6, record.comm);
        if (involuntary && count == 1) others = std::move(others[0].children);  // it would only repeat its parent
        if (chance(20)) {
            pass(60, 300);
            cl_record move = begin(CL_MIGRATE, flags | CL_IN_OFFCPU);
            move.a = cpu_;
            move.b = cpu_ = (cpu_ + 1) % kCpus;
            move.who_tid = 9;
            Breach& breach =
                others.emplace_back(end(move, Cause::migrated, fmt::format("{} -> {}", move.a, move.b), {}));
            breach.who.emplace().tid = 9;
        }
        pass(60, 300);
        record.cpu = static_cast<std::uint16_t>(cpu_);
        const char* blocked = flags & CL_IN_FAULT ? "in page fault" : "in read";
        Breach breach = end(record, involuntary ? Cause::preempted : Cause::blocked, involuntary ? "by rival" : blocked,
                            std::move(others));
        if (involuntary) breach.who.emplace().tid = record.who_tid;
        return breach;
    }

    Breach fault(std::uint32_t flags) {
        cl_record record = begin(CL_FAULT, flags);
        record.c = upto(1) * 2;
        std::vector<Breach> inside;
        while (chance(30)) {
            pass(60, 6000);
            inside.push_back(chance(60) ? interrupt(flags | CL_IN_FAULT) : offcpu(flags | CL_IN_FAULT, chance(50)));
        }
        pass(60, 2000);
        return end(record, Cause::fault, record.c ? "minor, write" : "minor, read", std::move(inside));
    }

    Breach syscall() {
        cl_record record = begin(CL_SYSCALL, 0);
        sys_enter_ = now_;
        std::vector<Breach> inside;
        while (chance(60)) {
            pass(100, 9000);
            switch (upto(3)) {
                case 0:
                    inside.push_back(fault(CL_IN_SYSCALL));
                    break;
                case 1:
                    inside.push_back(offcpu(CL_IN_SYSCALL, chance(50)));
                    break;
                case 2:  // the syscall's own, so long after any interrupt that it does not follow it
                    pass(6000, 9000);
                    inside.push_back(softirq(CL_IN_SYSCALL));
                    break;
                default:
                    inside.push_back(interrupt(CL_IN_SYSCALL));
                    break;
            }
        }
        pass(60, 2000);
        return end(record, Cause::syscall, "read", std::move(inside));
    }

    void depart() {
        const auto kind = upto(9);
        Breach breach = kind == 0 ? nmi(0) : kind < 4 ? syscall() : kind < 6 ? fault(0) : interrupt(0);
        std::uint64_t back = now_;
        while (kind != 0 && chance(25)) {  // switched out on the way back
            pass(60, 19'000);
            breach.children.push_back(offcpu(0, true));
            back = now_;
        }
        breach.departure_end_ns = back;
        trees.push_back(shape(breach));
    }

    std::uint32_t tid_;
    std::mt19937_64 random_;
    std::uint64_t cpu_, now_ = 1'000'000, sys_enter_ = 0;
    std::map<std::pair<std::uint64_t, std::uint64_t>, std::uint64_t> last_runs_;  // by csd and CPU
};

struct Collected {
    std::map<std::uint32_t, std::vector<std::string>> trees;  // by thread
    Correlator::Stats stats;
};

// Reads the rings in random portions; the watermark is what all of them have passed.
Collected correlate(const std::vector<std::vector<cl_record>>& rings, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    Collected collected;
    const HexNames names;
    Correlator correlator(
        names, [&](const Breach& breach) { collected.trees[breach.tid].push_back(shape(breach)); },
        [](const Notice&) {});
    std::vector<std::size_t> at(rings.size());
    for (bool more = true; more;) {
        more = false;
        std::uint64_t watermark = UINT64_MAX;
        for (std::size_t ring = 0; ring < rings.size(); ++ring) {
            const std::size_t left = rings[ring].size() - at[ring];
            std::size_t portion = std::min<std::size_t>(left, random() % 100);
            for (; portion > 0; --portion) correlator.feed(rings[ring][at[ring]++]);
            if (at[ring] == rings[ring].size()) continue;
            more = true;
            watermark = std::min(watermark, rings[ring][at[ring]].end - 1);
        }
        if (more) correlator.advance(watermark);
    }
    correlator.finish(0);
    collected.stats = correlator.stats();
    return collected;
}

class Nesting : public ::testing::TestWithParam<std::uint64_t> {};

TEST_P(Nesting, ComesBackFromTheRings) {
    std::map<std::uint32_t, std::vector<std::string>> expected;
    std::vector<std::vector<cl_record>> rings(Life::kCpus);
    std::size_t records = 0;
    for (std::uint32_t tid = 100; tid < 103; ++tid) {
        Life life(tid, GetParam() * 16 + tid);
        life.live(120);
        for (const cl_record& record : life.records) {
            // The text form must carry everything that counts.
            rings[record.cpu].push_back(record_of(text_of(record)));
            ++records;
        }
        expected[tid] = std::move(life.trees);
    }
    for (auto& ring : rings) std::ranges::stable_sort(ring, {}, &cl_record::end);

    for (std::uint64_t order = 0; order < 3; ++order) {
        const Collected collected = correlate(rings, GetParam() + order);
        for (const auto& [tid, trees] : expected) {
            const auto& got = collected.trees.at(tid);
            for (std::size_t i = 0; i < std::min(trees.size(), got.size()); ++i) ASSERT_EQ(got[i], trees[i]) << tid;
            EXPECT_EQ(got.size(), trees.size());
        }
        EXPECT_EQ(collected.trees.size(), expected.size());
        EXPECT_EQ(collected.stats.records, records);
        EXPECT_EQ(collected.stats.late, 0U);
        EXPECT_EQ(collected.stats.orphans, 0U);
        EXPECT_GT(collected.stats.csd, 0U);
        EXPECT_EQ(collected.stats.csd_paired, collected.stats.csd);
    }
}

// A dropped record takes nothing else with it.
TEST_P(Nesting, LosesOnlyWhatWasDropped) {
    Life life(100, GetParam());
    life.live(100);
    std::mt19937_64 random(GetParam());
    std::vector<std::vector<cl_record>> rings(Life::kCpus);
    std::multiset<std::pair<std::uint64_t, std::uint64_t>> kept;
    for (const cl_record& record : life.records) {
        // What is folded into its parent's name would have to be told apart here.
        const bool folds = record.kind == CL_CSD || record.kind == CL_HRTIMER || record.kind == CL_CSD_QUEUE ||
                           record.kind == CL_OTHER;
        if (folds || random() % 5 == 0) continue;
        rings[record.cpu].push_back(record);
        kept.emplace(record.start, record.end);
    }
    for (auto& ring : rings) std::ranges::stable_sort(ring, {}, &cl_record::end);

    std::multiset<std::pair<std::uint64_t, std::uint64_t>> got;
    std::size_t open = 0;
    const std::function<void(const Breach&)> collect = [&](const Breach& breach) {
        if (breach.end_seen)
            got.emplace(breach.start_ns, breach.end_ns);
        else
            ++open;
        for (const Breach& child : breach.children) collect(child);
    };
    const HexNames names;
    Correlator correlator(names, collect, [](const Notice&) {});
    for (const auto& ring : rings)
        for (const cl_record& record : ring) correlator.feed(record);
    correlator.finish(0);
    EXPECT_EQ(got, kept);
    EXPECT_LE(open, 1U);  // the last syscall, when its record was dropped
    EXPECT_GT(correlator.stats().orphans, 0U);
}

INSTANTIATE_TEST_SUITE_P(Seeds, Nesting, ::testing::Range<std::uint64_t>(1, 21));

// Records without rhyme or reason, many of them late: each comes out once.
TEST(Garbage, IsNeitherLostNorDoubled) {
    constexpr std::uint16_t kKinds[] = {CL_SYSCALL, CL_FAULT, CL_IRQ, CL_SOFTIRQ, CL_NMI, CL_OFFCPU};
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
        std::mt19937_64 random(seed);
        std::multiset<std::pair<std::uint64_t, std::uint64_t>> fed, got;
        const std::function<void(const Breach&)> collect = [&](const Breach& breach) {
            const bool still_open = breach.cause == Cause::syscall && !breach.end_seen;
            if (!still_open) got.emplace(breach.start_ns, breach.end_ns);
            for (const Breach& child : breach.children) collect(child);
        };
        const HexNames names;
        Correlator correlator(names, collect, [](const Notice&) {});
        std::uint64_t now = 1'000'000;
        for (int i = 0; i < 2000; ++i) {
            now += random() % 3000;
            cl_record record{};
            record.kind = kKinds[random() % std::size(kKinds)];
            record.start = now - random() % 20'000;
            record.end = record.start + (random() % 4 == 0 ? 0 : random() % 10'000);
            record.cpu = static_cast<std::uint16_t>(random() % 2);
            record.tid = record.tgid = static_cast<std::uint32_t>(100 + random() % 3);
            record.flags = static_cast<std::uint32_t>(random() % 16);
            record.sys_nr = record.flags & CL_IN_SYSCALL ? 0 : -1;
            record.sys_enter = record.flags & CL_IN_SYSCALL ? record.start - random() % 100 : 0;
            fed.emplace(record.start, record.end);
            correlator.feed(record);
            if (random() % 10 == 0) correlator.advance(now - random() % 5000);
        }
        correlator.finish(now);
        EXPECT_EQ(got, fed) << seed;
        EXPECT_GT(correlator.stats().late, 0U);
    }
}

// Memory is bounded: inner intervals whose outer one never ends come out before the watch does.
TEST(Bounds, InnerIntervalsDoNotPileUp) {
    std::size_t got = 0;
    const HexNames names;
    Correlator correlator(
        names, [&](const Breach&) { ++got; }, [](const Notice&) {});
    constexpr std::size_t kMany = 40'000;
    for (std::size_t i = 0; i < kMany; ++i) {
        cl_record record{};
        record.kind = CL_IRQ;
        record.start = i * 1000;
        record.end = record.start + 100;
        record.tid = record.tgid = 100;
        record.flags = CL_IN_OFFCPU;
        record.sys_nr = -1;
        correlator.feed(record);
    }
    correlator.advance(kMany * 1000);
    EXPECT_GT(got, kMany / 2);
    EXPECT_EQ(correlator.stats().orphans, got);
    correlator.finish(kMany * 1000);
    EXPECT_EQ(got, kMany);
}

TEST(Bounds, ThreadsWhoseExitWasLostAreForgotten) {
    std::size_t got = 0;
    const HexNames names;
    Correlator correlator(
        names, [&](const Breach&) { ++got; }, [](const Notice&) {});
    constexpr std::uint32_t kMany = 50'000;
    for (std::uint32_t tid = 1; tid <= kMany; ++tid) {
        cl_record record{};
        record.kind = CL_SYSCALL;
        record.start = tid;
        record.end = tid + 1;
        record.tid = record.tgid = tid;
        record.sys_nr = -1;
        correlator.feed(record);
    }
    correlator.advance(kMany + 1);
    EXPECT_GT(got, kMany / 2);
    correlator.finish(kMany + 1);
    EXPECT_EQ(got, kMany);
}

}  // namespace
}  // namespace cloister::breach::testing
