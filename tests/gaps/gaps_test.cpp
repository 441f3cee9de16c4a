#include "breach/gaps.hpp"

#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace cloister::breach {
namespace {

using Entry = TscGap::Entry;
constexpr std::uint32_t kTid = 4711;

Breach departure(std::uint64_t start, std::uint64_t end, Cause cause = Cause::tick, Known known = Known::traced) {
    Breach breach;
    breach.tid = kTid;
    breach.start_ns = start;
    breach.end_ns = start + (end - start) / 2;
    breach.departure_end_ns = end;
    breach.cause = cause;
    breach.known = known;
    return breach;
}

struct Book {
    explicit Book(GapBook::Options options = {.tid = kTid, .threshold_ns = 1000})
        : book(options, [this](const Breach& b) { inferred.push_back(b); }) {}
    std::vector<Breach> inferred;
    GapBook book;

    std::uint64_t inferred_ns(Cause cause) const {
        std::uint64_t sum = 0;
        for (const Breach& b : inferred) sum += b.cause == cause ? b.duration_ns() : 0;
        return sum;
    }
};

TEST(GapBook, ExplainsAGapByTheDepartureInItAndCallsTheEdgesEntry) {
    Book t;
    t.book.departure(departure(10'400, 13'000));
    t.book.gap({.start_ns = 10'000, .end_ns = 13'700, .uncertainty_ns = 20, .cpu = 3, .kernel = Entry::yes});
    t.book.finish(1'000'000);
    const auto& totals = t.book.totals();
    EXPECT_EQ(totals.gaps, 1U);
    EXPECT_EQ(totals.lost_ns, 3700U);
    EXPECT_EQ(totals.explained_ns, 2600U);
    EXPECT_EQ(totals.kernel, 1U);
    EXPECT_EQ(totals.named, 1U);
    ASSERT_EQ(t.inferred.size(), 1U);
    const Breach& edge = t.inferred[0];
    EXPECT_EQ(edge.cause, Cause::entry);
    EXPECT_EQ(edge.known, Known::inferred);
    EXPECT_EQ(edge.cpu, 3);
    EXPECT_EQ(edge.tid, kTid);
    EXPECT_EQ(edge.duration_ns(), 1100U);
    EXPECT_GE(edge.start_ns, 10'000U);
    EXPECT_LE(edge.end_ns, 13'700U);
}

TEST(GapBook, NamesAGapWithoutADepartureByWhatIsKnown) {
    const struct {
        Entry kernel;
        bool traced;
        Cause cause;
        std::uint64_t entered;
    } cases[] = {{Entry::no, true, Cause::firmware, 0},      {Entry::no, false, Cause::firmware, 0},
                 {Entry::yes, true, Cause::unseen, 1},       {Entry::yes, false, Cause::unseen, 1},
                 {Entry::unknown, true, Cause::firmware, 0}, {Entry::unknown, false, Cause::unseen, 0}};
    for (const auto& c : cases) {
        Book t({.tid = kTid, .threshold_ns = 1000, .traced = c.traced});
        t.book.gap({.start_ns = 5000, .end_ns = 9000, .kernel = c.kernel});
        t.book.finish(10'000);
        ASSERT_EQ(t.inferred.size(), 1U);
        EXPECT_EQ(t.inferred[0].cause, c.cause);
        EXPECT_EQ(t.inferred[0].start_ns, 5000U);
        EXPECT_EQ(t.inferred[0].end_ns, 9000U);
        // Only where it is not known whether the kernel was entered does the cause need a word more.
        EXPECT_EQ(t.inferred[0].detail.empty(), c.kernel != Entry::unknown || c.traced);
        EXPECT_EQ(t.book.totals().kernel, c.entered);
        EXPECT_EQ(t.book.totals().named, 0U);
        EXPECT_EQ(t.book.totals().explained_ns, 0U);
    }
}

TEST(GapBook, DoesNotCallALongRestEntry) {
    Book t;
    t.book.departure(departure(11'000, 12'000));
    t.book.departure(departure(15'500, 16'000));
    t.book.gap({.start_ns = 10'000, .end_ns = 166'000, .kernel = Entry::yes});
    t.book.finish(1'000'000);
    // 1000 in, 3500 out and in again, then 150 us that no exit takes.
    EXPECT_EQ(t.inferred_ns(Cause::entry), 4500U);
    EXPECT_EQ(t.inferred_ns(Cause::firmware), 150'000U);
    ASSERT_EQ(t.inferred.size(), 2U);
    EXPECT_NE(t.inferred[1].detail.find("kernel entry"), std::string::npos);
    EXPECT_EQ(t.book.totals().explained_ns, 1500U);
    EXPECT_EQ(t.book.totals().lost_ns, 156'000U);
}

TEST(GapBook, CountsOnlyTracedCausesWithANameAsExplainedByName) {
    Book t;
    t.book.departure(departure(1100, 1900, Cause::unseen));
    t.book.departure(departure(11'100, 11'900, Cause::interrupt, Known::counted));
    t.book.departure(departure(21'100, 21'900, Cause::irq));
    for (std::uint64_t at = 1000; at <= 21'000; at += 10'000) {
        t.book.gap({.start_ns = at, .end_ns = at + 1000, .kernel = Entry::yes});
    }
    t.book.finish(100'000);
    EXPECT_EQ(t.book.totals().kernel, 3U);
    EXPECT_EQ(t.book.totals().named, 1U);
    EXPECT_EQ(t.book.totals().explained_ns, 2400U);
}

TEST(GapBook, IgnoresOtherThreadsAndWhatIsInferredItself) {
    Book t;
    Breach other = departure(1100, 1900);
    other.tid = kTid + 1;
    t.book.departure(other);
    t.book.departure(departure(1200, 1800, Cause::firmware, Known::inferred));
    t.book.gap({.start_ns = 1000, .end_ns = 2000, .kernel = Entry::no});
    t.book.finish(10'000);
    EXPECT_EQ(t.book.totals().explained_ns, 0U);
    EXPECT_EQ(t.book.totals().contradictions, 0U);
    EXPECT_EQ(t.book.totals().below_threshold, 0U);
}

TEST(GapBook, CountsDeparturesThatAreNoGapAsTheWatermarkPasses) {
    Book t;
    for (std::uint64_t at = 0; at < 1000; ++at) t.book.departure(departure(at * 1000, at * 1000 + 300));
    t.book.advance(500'000);
    EXPECT_GE(t.book.totals().below_threshold, 480U);
    EXPECT_LE(t.book.totals().below_threshold, 500U);
    t.book.finish(1'000'000);
    EXPECT_EQ(t.book.totals().below_threshold, 1000U);
    EXPECT_EQ(t.book.totals().below_threshold_ns, 300'000U);
    EXPECT_EQ(t.book.totals().gaps, 0U);
    EXPECT_TRUE(t.inferred.empty());
}

TEST(GapBook, HoldsADepartureForAGapThatIsStillOpen) {
    Book t;
    t.book.departure(departure(1100, 1900));
    // The gap began at 1000 and goes on, so nothing is promised beyond that.
    t.book.advance(1000);
    t.book.departure(departure(90'000'000, 90'001'000, Cause::irq));
    t.book.gap({.start_ns = 1000, .end_ns = 90'002'000, .kernel = Entry::yes});
    t.book.advance(90'013'000);
    EXPECT_EQ(t.book.totals().explained_ns, 1800U);
    EXPECT_EQ(t.book.totals().below_threshold, 0U);
    EXPECT_EQ(t.book.totals().late, 0U);
}

TEST(GapBook, CutsAtTheBeginAndTheEndOfTheSpinning) {
    Book t;
    t.book.begin(10'000);
    t.book.departure(departure(1000, 2000));
    t.book.departure(departure(9000, 10'300));
    t.book.departure(departure(19'900, 25'000));
    t.book.departure(departure(26'000, 27'000));
    t.book.finish(20'000);
    EXPECT_EQ(t.book.totals().below_threshold, 2U);
    EXPECT_EQ(t.book.totals().below_threshold_ns, 400U);
}

TEST(GapBook, LetsEdgesStickOutByTheClocksUncertaintyOnly) {
    Book t;
    t.book.departure(departure(9'800, 11'000));
    t.book.gap({.start_ns = 10'000, .end_ns = 11'000, .uncertainty_ns = 0, .kernel = Entry::yes});
    t.book.departure(departure(20'000, 21'251));
    t.book.gap({.start_ns = 20'000, .end_ns = 21'000, .uncertainty_ns = 50, .kernel = Entry::yes});
    t.book.finish(100'000);
    EXPECT_EQ(t.book.totals().misfits, 1U);
    EXPECT_EQ(t.book.totals().explained_ns, 2000U);
}

TEST(GapBook, SaysWhatContradictsItselfOrCameTooLate) {
    Book t;
    t.book.departure(departure(1100, 1900));
    t.book.gap({.start_ns = 1000, .end_ns = 2000, .kernel = Entry::no});
    t.book.advance(50'000);
    EXPECT_EQ(t.book.totals().contradictions, 1U);
    t.book.departure(departure(1500, 1600));
    EXPECT_EQ(t.book.totals().late, 1U);
}

TEST(GapBook, FillsTheBalance) {
    Book t;
    t.book.departure(departure(1100, 1900));
    t.book.departure(departure(50'000, 50'250));
    t.book.gap({.start_ns = 1000, .end_ns = 2000, .kernel = Entry::yes});
    t.book.gap({.start_ns = 100'000, .end_ns = 107'000, .kernel = Entry::no});
    t.book.missed(3, 4000);
    t.book.finish(1'000'000);
    Balance balance;
    t.book.fill(balance);
    EXPECT_EQ(balance.lost_ns, 12'000U);
    EXPECT_EQ(balance.explained_ns, 800U);
    EXPECT_EQ(balance.unexplained_ns, 11'200U);
    const std::map<std::string, std::uint64_t> inferred{{"entry", 200}, {"firmware", 7000}, {"unseen", 4000}};
    EXPECT_EQ(balance.inferred_ns, inferred);
    EXPECT_EQ(balance.gaps, 5U);
    EXPECT_EQ(balance.gap_threshold_ns, 1000U);
    EXPECT_EQ(balance.kernel_gaps, 1U);
    EXPECT_EQ(balance.named_gaps, 1U);
    EXPECT_EQ(balance.below_threshold, 1U);
    EXPECT_EQ(balance.below_threshold_ns, 250U);
}

// Everything below compares the book with an oracle that looks at every nanosecond.
struct World {
    std::vector<Gap> gaps;
    std::vector<Breach> departures;  // in order of end
    std::uint64_t edge_ns = 60, end_ns = 60'000;
};

World random_world(std::uint64_t seed) {
    std::mt19937_64 rng{seed};
    const auto up_to = [&rng](std::uint64_t n) { return rng() % (n + 1); };
    World world;
    std::uint64_t at = up_to(500);
    while (at < world.end_ns - 4000) {
        Gap gap{
            .start_ns = at, .end_ns = at + 1 + up_to(800), .uncertainty_ns = up_to(3) == 0 ? up_to(200) : up_to(20)};
        gap.kernel = static_cast<Entry>(up_to(2));
        // Most departures lie in gaps as they do in life; the others anywhere, across edges and each other.
        for (std::uint64_t i = up_to(3); i > 0; --i) {
            const std::uint64_t start = gap.start_ns + up_to(gap.end_ns - gap.start_ns);
            const std::uint64_t end = up_to(4) == 0 ? start + up_to(600) : start + up_to(gap.end_ns - start);
            const std::uint64_t back = up_to(5) == 0 ? up_to(250) : 0;
            world.departures.push_back(departure(start - std::min(start, back), end,
                                                 up_to(4) == 0 ? Cause::unseen : Cause::irq,
                                                 up_to(4) == 0 ? Known::counted : Known::traced));
        }
        world.gaps.push_back(gap);
        at = gap.end_ns + (up_to(4) == 0 ? up_to(2) : up_to(1500));
    }
    for (int i = 0; i < 30; ++i) {
        const std::uint64_t start = up_to(world.end_ns - 1000);
        world.departures.push_back(departure(start, start + up_to(300)));
    }
    std::stable_sort(world.departures.begin(), world.departures.end(),
                     [](const Breach& a, const Breach& b) { return a.departure_end_ns < b.departure_end_ns; });
    return world;
}

struct Verdict {
    std::uint64_t explained = 0, entry = 0, firmware = 0, unseen = 0;
    bool kernel = false, named = false;
};

Verdict oracle(const World& world, const Gap& gap, std::vector<bool>& used) {
    Verdict verdict;
    std::vector<bool> covered(gap.end_ns - gap.start_ns);
    std::vector<bool> touched(covered.size() + 1);  // positions between the nanoseconds that a departure touches
    bool any = false;
    const auto slack = static_cast<std::int64_t>(gap.kernel == Entry::no ? 0 : gap.uncertainty_ns);
    const auto g0 = static_cast<std::int64_t>(gap.start_ns), g1 = static_cast<std::int64_t>(gap.end_ns);
    for (std::size_t i = 0; i < world.departures.size(); ++i) {
        const Breach& d = world.departures[i];
        const auto d0 = static_cast<std::int64_t>(d.start_ns), d1 = static_cast<std::int64_t>(d.departure_end_ns);
        if (d1 < g0 - slack || d0 > g1 + slack) continue;
        any = used[i] = true;
        verdict.named |= d.known == Known::traced && d.cause != Cause::unseen;
        for (std::int64_t ns = std::max(d0, g0); ns < std::min(d1, g1); ++ns)
            covered[static_cast<std::size_t>(ns - g0)] = true;
        for (std::int64_t edge = d0; edge <= d1; ++edge) {
            touched[static_cast<std::size_t>(std::clamp(edge, g0, g1) - g0)] = true;
        }
    }
    verdict.kernel = any || gap.kernel == Entry::yes;
    verdict.explained = static_cast<std::uint64_t>(std::count(covered.begin(), covered.end(), true));
    for (std::size_t from = 0; from < covered.size();) {
        if (covered[from]) {
            ++from;
            continue;
        }
        std::size_t to = from + 1;
        while (to < covered.size() && !covered[to] && !touched[to]) ++to;
        const std::size_t sides = (touched[from] ? 1U : 0U) + (touched[to] ? 1U : 0U);
        const std::size_t length = to - from;
        if (!any) {
            (gap.kernel == Entry::yes ? verdict.unseen : verdict.firmware) += length;
        } else {
            (length <= sides * world.edge_ns ? verdict.entry : verdict.firmware) += length;
        }
        from = to;
    }
    return verdict;
}

class AgainstTheOracle : public testing::TestWithParam<std::uint64_t> {};

TEST_P(AgainstTheOracle, EveryGapAddsUpHoweverItIsFed) {
    const World world = random_world(GetParam());
    ASSERT_GT(world.gaps.size(), 10U);
    std::vector<bool> used(world.departures.size());
    std::vector<Verdict> verdicts;
    for (const Gap& gap : world.gaps) verdicts.push_back(oracle(world, gap, used));

    for (const bool streaming : {false, true}) {
        Book t({.tid = kTid, .threshold_ns = 1, .edge_ns = world.edge_ns});
        std::mt19937_64 rng{GetParam() + 1};
        std::size_t d = 0, g = 0;
        for (std::uint64_t now = 0; d < world.departures.size() || g < world.gaps.size();) {
            now += streaming ? 1 + rng() % 3000 : world.end_ns * 2;
            while (d < world.departures.size() && world.departures[d].departure_end_ns < now) {
                t.book.departure(world.departures[d++]);
            }
            while (g < world.gaps.size() && world.gaps[g].start_ns < now) t.book.gap(world.gaps[g++]);
            if (streaming) t.book.advance(now);
        }
        t.book.finish(world.end_ns);

        Verdict sum;
        std::uint64_t lost = 0, kernel = 0, named = 0;
        std::size_t next = 0;
        for (std::size_t i = 0; i < world.gaps.size(); ++i) {
            const Gap& gap = world.gaps[i];
            const Verdict& v = verdicts[i];
            ASSERT_EQ(v.explained + v.entry + v.firmware + v.unseen, gap.end_ns - gap.start_ns) << "the oracle itself";
            std::map<Cause, std::uint64_t> found;
            for (; next < t.inferred.size() && t.inferred[next].end_ns <= gap.end_ns; ++next) {
                const Breach& breach = t.inferred[next];
                ASSERT_GE(breach.start_ns, gap.start_ns);
                ASSERT_TRUE(found.emplace(breach.cause, breach.duration_ns()).second) << "one for each cause";
            }
            ASSERT_EQ(found[Cause::entry], v.entry) << "gap " << i;
            ASSERT_EQ(found[Cause::firmware], v.firmware) << "gap " << i;
            ASSERT_EQ(found[Cause::unseen], v.unseen) << "gap " << i;
            sum.explained += v.explained;
            lost += gap.end_ns - gap.start_ns;
            kernel += v.kernel;
            named += v.named;
        }
        EXPECT_EQ(next, t.inferred.size());
        const auto& totals = t.book.totals();
        EXPECT_EQ(totals.gaps, world.gaps.size());
        EXPECT_EQ(totals.lost_ns, lost);
        EXPECT_EQ(totals.explained_ns, sum.explained);
        EXPECT_EQ(totals.kernel, kernel);
        EXPECT_EQ(totals.named, named);
        std::uint64_t inferred = 0;
        for (const auto& [cause, ns] : totals.inferred_ns) inferred += ns;
        EXPECT_EQ(totals.explained_ns + inferred, totals.lost_ns);
        std::uint64_t below = 0, below_ns = 0;
        for (std::size_t i = 0; i < used.size(); ++i) {
            if (used[i]) continue;
            ++below;
            below_ns += world.departures[i].departure_ns();
        }
        EXPECT_EQ(totals.below_threshold, below);
        EXPECT_EQ(totals.below_threshold_ns, below_ns);
    }
}

INSTANTIATE_TEST_SUITE_P(Seeds, AgainstTheOracle, testing::Range<std::uint64_t>(0, 60));

}  // namespace
}  // namespace cloister::breach
