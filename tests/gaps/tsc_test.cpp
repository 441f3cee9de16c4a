#include "system/tsc.hpp"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace cloister::system {
namespace {

// A clock whose rate over the TSC is known exactly: the truth that the map is measured against.
class SimulatedClock {
public:
    void rate(std::uint64_t from_tsc, double ns_per_cycle) {
        rates_.push_back({from_tsc, truth(from_tsc), ns_per_cycle});
    }

    [[nodiscard]] double truth(std::uint64_t tsc) const {
        double ns = 1e9;
        for (const Rate& r : rates_) {
            if (tsc >= r.tsc) ns = r.ns + static_cast<double>(tsc - r.tsc) * r.slope;
        }
        return ns;
    }

    // One reading at `now`, its middle anywhere in it.
    TscClock::Reading read() {
        const std::uint64_t width = 40 + rng_() % extra_width;
        const std::uint64_t at = now + rng_() % width;
        const TscClock::Reading reading{now, static_cast<std::uint64_t>(truth(at)), now + width};
        now += width;
        return reading;
    }

    std::uint64_t now = 1'000'000'000, extra_width = 100;

private:
    struct Rate {
        std::uint64_t tsc;
        double ns, slope;
    };
    std::vector<Rate> rates_;
    std::mt19937_64 rng_{1};
};

struct TscClockTest : testing::Test {
    SimulatedClock machine;
    TscClock clock{[this] { return machine.read(); }};

    void sample_every(std::uint64_t cycles, int times) {
        for (int i = 0; i < times; ++i) {
            clock.sample();
            machine.now += cycles;
        }
    }
    double error(std::uint64_t tsc) const {
        return std::abs(static_cast<double>(clock.to_ns(tsc)) - machine.truth(tsc));
    }
};

constexpr double kSlope = 1 / 2.445;
constexpr std::uint64_t kStep = 10'000'000;  // 4 ms

TEST_F(TscClockTest, FollowsSlewingWithinItsUncertainty) {
    std::mt19937_64 rng{7};
    machine.rate(machine.now, kSlope);
    const std::uint64_t begin = machine.now;
    std::vector<std::uint64_t> bends;
    for (int i = 1; i < 20; ++i) {
        bends.push_back(begin + static_cast<std::uint64_t>(i) * 10 * kStep + rng() % (5 * kStep));
        machine.rate(bends.back(), kSlope * (1 + (static_cast<double>(rng() % 1001) - 500) * 1e-6));
    }
    sample_every(kStep, 220);
    const std::uint64_t end = machine.now - kStep;

    std::uint64_t looked = 0;
    const auto check = [&](std::uint64_t tsc) {
        if (!clock.covers(tsc)) return;
        ++looked;
        ASSERT_LE(error(tsc), static_cast<double>(clock.uncertainty_ns(tsc))) << "at " << tsc - begin;
    };
    for (const std::uint64_t bend : bends) check(bend);
    for (int i = 0; i < 20'000; ++i) check(begin + rng() % (end - begin));
    EXPECT_GT(looked, 19'000U);

    // What the pieces are for: one line through both ends is off by far more than any of them says.
    const double whole = (machine.truth(end) - machine.truth(begin)) / static_cast<double>(end - begin);
    double worst_line = 0, worst_claim = 0;
    for (const std::uint64_t bend : bends) {
        const double line = machine.truth(begin) + static_cast<double>(bend - begin) * whole;
        worst_line = std::max(worst_line, std::abs(line - machine.truth(bend)));
        worst_claim = std::max(worst_claim, static_cast<double>(clock.uncertainty_ns(bend)));
    }
    EXPECT_GT(worst_line, 10 * worst_claim);
}

TEST_F(TscClockTest, NeverRunsBackwardsAndAddsUp) {
    std::mt19937_64 rng{3};
    machine.rate(machine.now, kSlope);
    machine.rate(machine.now + 55 * kStep, kSlope * 1.0005);
    machine.extra_width = 5000;
    const std::uint64_t begin = machine.now;
    sample_every(kStep, 100);
    std::vector<std::uint64_t> cuts;
    for (int i = 0; i < 5000; ++i) cuts.push_back(begin - kStep + rng() % (102 * kStep));
    std::sort(cuts.begin(), cuts.end());
    std::uint64_t sum = 0;
    for (std::size_t i = 1; i < cuts.size(); ++i) {
        ASSERT_LE(clock.to_ns(cuts[i - 1]), clock.to_ns(cuts[i]));
        sum += clock.to_ns(cuts[i]) - clock.to_ns(cuts[i - 1]);
    }
    EXPECT_EQ(sum, clock.to_ns(cuts.back()) - clock.to_ns(cuts.front()));
}

TEST_F(TscClockTest, IsNotMisledBySamplesInQuickSuccession) {
    machine.rate(0, kSlope);
    const std::uint64_t begin = machine.now, bend = begin + 10 * kStep + kStep / 2;
    machine.rate(bend, kSlope * 1.0005);
    for (int i = 0; i < 20; ++i) {
        sample_every(500, 5);
        machine.now += kStep;
    }
    std::uint64_t looked = 0;
    for (std::uint64_t tsc = begin + kStep; clock.covers(tsc); tsc += kStep / 10, ++looked) {
        ASSERT_LE(error(tsc), static_cast<double>(clock.uncertainty_ns(tsc)));
        // Six half-widths of the readings; around the bend a quarter of what it adds up to over one piece, too.
        const bool near = tsc + 3 * kStep > bend && tsc < bend + 3 * kStep;
        ASSERT_LE(clock.uncertainty_ns(tsc), near ? 800U : 250U);
    }
    EXPECT_GT(looked, 150U);
}

TEST_F(TscClockTest, ExtrapolatesWithinItsUncertaintyAndSaysSo) {
    machine.rate(0, kSlope);
    const std::uint64_t begin = machine.now;
    sample_every(kStep, 40);
    const std::uint64_t last = machine.now - kStep;
    machine.rate(machine.now, kSlope * 1.0009);
    for (const std::uint64_t away : {kStep / 2, kStep, 10 * kStep, 100 * kStep}) {
        EXPECT_FALSE(clock.covers(last + away));
        EXPECT_LE(error(last + away), static_cast<double>(clock.uncertainty_ns(last + away)));
    }
    EXPECT_FALSE(clock.covers(begin - kStep));
    EXPECT_LE(error(begin - kStep), static_cast<double>(clock.uncertainty_ns(begin - kStep)));
    EXPECT_TRUE(clock.covers(begin + kStep));
}

TEST_F(TscClockTest, ForgetsOnlyWhatIsNotNeeded) {
    machine.rate(machine.now, kSlope);
    machine.rate(machine.now + 40 * kStep, kSlope * 0.9996);
    const std::uint64_t begin = machine.now;
    sample_every(kStep, 100);
    const std::uint64_t keep = begin + 70 * kStep + 12345;
    std::vector<std::pair<std::uint64_t, std::uint64_t>> before;
    for (std::uint64_t tsc = keep; tsc < machine.now + kStep; tsc += kStep / 7) {
        before.emplace_back(clock.to_ns(tsc), clock.uncertainty_ns(tsc));
    }
    clock.forget_before(keep);
    EXPECT_LE(clock.size(), 32U);
    std::size_t i = 0;
    for (std::uint64_t tsc = keep; tsc < machine.now + kStep; tsc += kStep / 7, ++i) {
        ASSERT_EQ(clock.to_ns(tsc), before[i].first);
        ASSERT_EQ(clock.uncertainty_ns(tsc), before[i].second);
    }
}

TEST_F(TscClockTest, RefusesAnInterruptedSampleButNotForLong) {
    machine.rate(machine.now, kSlope);
    sample_every(kStep, 10);
    const std::size_t kept = clock.size();
    machine.extra_width = 1'000'000;
    EXPECT_FALSE(clock.sample());
    EXPECT_EQ(clock.size(), kept);
    machine.now += 300'000'000;  // more than 100 ms
    EXPECT_TRUE(clock.sample());
    EXPECT_EQ(clock.size(), kept + 1);
    const std::uint64_t inside = machine.now - 150'000'000;
    EXPECT_LE(error(inside), static_cast<double>(clock.uncertainty_ns(inside)));
}

TEST_F(TscClockTest, StartsAnewWhenTheTscGoesBack) {
    machine.rate(0, kSlope);
    sample_every(kStep, 10);
    machine.now = 500'000;
    EXPECT_TRUE(clock.sample());
    EXPECT_EQ(clock.size(), 1U);
    EXPECT_FALSE(clock.ready());
    machine.now += kStep;
    EXPECT_TRUE(clock.sample());
    EXPECT_TRUE(clock.ready());
    EXPECT_LE(error(500'000 + kStep / 2), static_cast<double>(clock.uncertainty_ns(500'000 + kStep / 2)));
}

TEST_F(TscClockTest, CountsCyclesAtTheMeanFrequency) {
    machine.rate(machine.now, kSlope);
    sample_every(kStep, 10);
    EXPECT_NEAR(static_cast<double>(clock.cycles(1'000'000)), 2'445'000, 10);
}

// The map of this machine's clock must agree with readings that were no samples of it.
TEST(TscClockOfThisMachine, AgreesWithReadingsBetweenItsSamples) {
    TscClock clock;
    std::vector<TscClock::Reading> readings;
    for (int i = 0; i < 200 || !clock.ready() || !clock.covers(readings.back().after); ++i) {
        clock.sample();
        for (int k = 0; k < 200; ++k) readings.push_back(TscClock::read_machine());
        clock.sample();
    }
    for (const auto& reading : readings) {
        if (!clock.covers(reading.before) || !clock.covers(reading.after)) continue;
        ASSERT_LE(clock.to_ns(reading.before), reading.ns + clock.uncertainty_ns(reading.before));
        ASSERT_GE(clock.to_ns(reading.after) + clock.uncertainty_ns(reading.after), reading.ns);
    }
}

}  // namespace
}  // namespace cloister::system
