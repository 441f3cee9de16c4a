#include "ctf/time.hpp"

#include <array>
#include <limits>

#include <gtest/gtest.h>

#include "ctf/decode.hpp"
#include "ctf/show.hpp"

namespace cloister::ctf {
namespace {

TEST(Time, CyclesToNanoseconds) {
    const Clock clock{.frequency = 3, .offset_s = 10, .offset = 1};
    EXPECT_EQ(ns_of(clock, 0), 10'333'333'333);
    EXPECT_EQ(ns_of(clock, 2), 11'000'000'000);
    // The way through 128 bits comes to the same as the one through 64.
    Clock large{.frequency = 2'999'999'937, .offset_s = 1'700'000'000, .offset = 7};
    const std::uint64_t cycles = std::numeric_limits<std::uint64_t>::max() - 100;
    const std::int64_t in_64 = ns_of(large, cycles);
    large.offset_s += 1;
    large.offset = 0;
    const std::uint64_t same = cycles + 7 - large.frequency;
    EXPECT_EQ(ns_of(large, same), in_64);
    // As LTTng has it: all of the time since 1970 in the offset.
    EXPECT_EQ(ns_of({.frequency = 1'000'000'000, .offset = 1'795'536'493'358'904'807}, 12), 1'795'536'493'358'904'819);
}

TEST(Time, BeyondWhat64BitsHold) {
    const std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
    EXPECT_EQ(ns_of({.frequency = 1}, most), std::numeric_limits<std::int64_t>::max());
    EXPECT_EQ(ns_of({.frequency = 1, .offset_s = std::numeric_limits<std::int64_t>::min()}, 0),
              std::numeric_limits<std::int64_t>::min());
    EXPECT_EQ(ns_of({.frequency = most, .offset = most - 1}, most), 1'999'999'999);
    EXPECT_EQ(cycles_of({.frequency = 1'000'000'000, .offset_s = 5}, 4'000'000'000), 0U);
    EXPECT_EQ(cycles_of({.frequency = most, .offset_s = std::numeric_limits<std::int64_t>::min()},
                        std::numeric_limits<std::int64_t>::max()),
              most);
}

TEST(Time, TheFirstCycleThatIsNotBefore) {
    const Clock clock{.frequency = 2'999'999'937, .offset_s = 1'700'000'000, .offset = 7};
    for (std::uint64_t cycles = 123'456'789'012'345; cycles < 123'456'789'012'400; ++cycles) {
        const std::int64_t ns = ns_of(clock, cycles);
        const std::uint64_t first = cycles_of(clock, ns);
        EXPECT_LE(first, cycles);
        EXPECT_GE(ns_of(clock, first), ns);
        EXPECT_LT(ns_of(clock, first - 1), ns);
    }
}

TEST(Time, ALowPartThatIsSmallerHasWrapped) {
    constexpr std::uint64_t kReach = std::uint64_t{1} << 27U;
    EXPECT_EQ(advance(5, 5, 27), 5U);
    EXPECT_EQ(advance(5, 6, 27), 6U);
    EXPECT_EQ(advance(5, 4, 27), kReach + 4);
    EXPECT_EQ(advance(3 * kReach + 5, 4, 27), 4 * kReach + 4);
    EXPECT_EQ(advance(100, 7, 64), 7U) << "all of it is there";
}

TEST(Time, WallClockAndBack) {
    EXPECT_EQ(wall_clock(0), "1970-01-01T00:00:00.000000000Z");
    EXPECT_EQ(wall_clock(-1), "1969-12-31T23:59:59.999999999Z");
    for (const std::int64_t ns : {std::int64_t{1'795'536'493'358'904'807}, std::int64_t{-1}, std::int64_t{1}})
        EXPECT_EQ(parse_wall_clock(wall_clock(ns)), ns);
    EXPECT_EQ(parse_wall_clock("2026-11-24T16:44:35.5"), parse_wall_clock("2026-11-24T16:44:35.500Z"));
    EXPECT_EQ(parse_wall_clock("2026-11-24T16:44"), parse_wall_clock("2026-11-24T16:44:00Z"));
    EXPECT_EQ(parse_wall_clock("2026-11-24"), parse_wall_clock("2026-11-24T00:00:00Z"));
    for (const char* text : {"", "1.5s", "10", "2026-11-24T16:44:35.", "2026-11-24T16:44:35.1234567890",
                             "2026-11-24T25:00", "2026-11-24x"})
        EXPECT_FALSE(parse_wall_clock(text)) << text;
}

TEST(Bits, AtAnyPlaceInEitherOrder) {
    std::array<std::uint8_t, 12> bytes{};
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(0x9d * (i + 1));
    const auto bit = [&](std::uint64_t at, bool big) { return bytes[at / 8] >> (big ? 7 - at % 8 : at % 8) & 1U; };
    for (unsigned n = 1; n <= 64; ++n)
        for (std::uint64_t at = 0; at + n <= 8 * bytes.size(); ++at)
            for (const bool big : {false, true}) {
                std::uint64_t value = 0;
                for (unsigned i = 0; i < n; ++i) value |= std::uint64_t{bit(at + i, big)} << (big ? n - 1 - i : i);
                ASSERT_EQ(read_bits(bytes.data(), at, n, big), value) << n << " bits at " << at;
            }
}

}  // namespace
}  // namespace cloister::ctf
