#include "breach/budget.hpp"

#include <random>

#include <gtest/gtest.h>

#include "sample.hpp"

namespace cloister::breach {
namespace {

using sample::inside;
using sample::row;

Summary watch(std::vector<Row> rows) {
    Summary s;
    s.header.sees = {"everything"};
    s.rows = std::move(rows);
    s.balance.watched_ns = 1'000'000'000;
    s.balance.lost_ns = s.balance.explained_ns = 0;
    s.balance.unexplained_ns = 0;
    for (const auto& r : s.rows) {
        if (r.depth != 0) continue;
        *s.balance.lost_ns += r.total_ns;
        s.balance.worst_ns = std::max(s.balance.worst_ns, r.max_ns);
    }
    return s;
}

std::vector<Budget::Violation> check(std::string_view text, const Summary& s) {
    const auto budget = Budget::parse(text);
    EXPECT_TRUE(budget) << (budget ? "" : budget.error().text());
    return budget ? budget->check(s) : std::vector<Budget::Violation>();
}

// The place that the caret stands under, or -1 when the budget parses.
int caret(std::string_view text) {
    const auto budget = Budget::parse(text);
    if (budget) return -1;
    const auto shown = sample::lines(budget.error().text());
    for (std::size_t i = 1; i < shown.size(); ++i) {
        const auto at = shown[i].find('^');
        if (at == std::string::npos) continue;
        const auto begin = shown[i - 1].find("found  ") + 7;
        EXPECT_EQ(shown[i - 1].substr(begin), text) << "the caret's line follows the text";
        return static_cast<int>(at - begin);
    }
    ADD_FAILURE() << "no caret:\n" << budget.error().text();
    return -2;
}

TEST(Duration, Formats) {
    const std::vector<std::pair<std::uint64_t, std::string>> cases{{0, "0 ns"},
                                                                   {1, "1 ns"},
                                                                   {999, "999 ns"},
                                                                   {1'000, "1.0 us"},
                                                                   {4'100, "4.1 us"},
                                                                   {168'900, "168.9 us"},
                                                                   {999'949, "999.9 us"},
                                                                   {999'950, "1.0 ms"},
                                                                   {1'020'000, "1.0 ms"},
                                                                   {60'000'000'000, "60.0 s"},
                                                                   {999'949'999'999, "999.9 s"},
                                                                   {999'950'000'000, "1000 s"},
                                                                   {86'400'000'000'000, "86400 s"},
                                                                   {18'446'744'073'709'551'615U, "18446744074 s"}};
    for (const auto& [ns, text] : cases) EXPECT_EQ(format_duration(ns), text);
}

TEST(Duration, Parses) {
    const std::vector<std::pair<std::string, std::uint64_t>> cases{
        {"60s", 60'000'000'000},
        {"5us", 5'000},
        {"1.5ms", 1'500'000},
        {"100ns", 100},
        {"2m", 120'000'000'000},
        {"1h", 3'600'000'000'000},
        {"0", 0},
        {"0s", 0},
        {"0.000000001s", 1},
        {"1.000000001s", 1'000'000'001},
        {"4.1 us", 4'100},
        {"1.50us", 1'500},
        {"0.5m", 30'000'000'000},
        {"18446744073709551615ns", 18'446'744'073'709'551'615U},
        {"2.000ns", 2}};
    for (const auto& [text, ns] : cases) {
        const auto parsed = parse_duration(text);
        ASSERT_TRUE(parsed) << text << ": " << parsed.error().text();
        EXPECT_EQ(*parsed, ns) << text;
    }
}

TEST(Duration, ErrorsTeach) {
    const std::vector<std::pair<std::string, std::string>> cases{{"", "nothing"},
                                                                 {"-5us", "negative"},
                                                                 {"5", "unit is missing"},
                                                                 {"5 ", "unit"},
                                                                 {"5xs", "unknown unit 'xs'"},
                                                                 {"us", "not a number"},
                                                                 {"5.us", "not a number"},
                                                                 {".5us", "not a number"},
                                                                 {"0.5ns", "finer than 1 ns"},
                                                                 {"1.0000001us", "finer"},
                                                                 {"18446744073709551616ns", "584 years"},
                                                                 {"99999999999999999999999s", "584 years"},
                                                                 {"5124096h", "584 years"},
                                                                 {"1e3s", "unknown unit"},
                                                                 {"5us ", "unknown unit"},
                                                                 {"5US", "unknown unit"}};
    for (const auto& [text, why] : cases) {
        const auto parsed = parse_duration(text);
        ASSERT_FALSE(parsed) << text;
        EXPECT_NE(parsed.error().what.find(why), std::string::npos) << text << ": " << parsed.error().what;
        EXPECT_NE(parsed.error().needs.find("1.5ms"), std::string::npos);
    }
}

TEST(Duration, WhatIsShownCanBeReadBack) {
    std::mt19937_64 random(1);
    for (int i = 0; i < 2'000; ++i) {
        const std::uint64_t ns = random() >> (random() % 64);
        const auto parsed = parse_duration(format_duration(ns));
        ASSERT_TRUE(parsed || ns > 18'446'744'073'000'000'000U) << ns;
        if (!parsed) continue;
        const auto difference = *parsed > ns ? *parsed - ns : ns - *parsed;
        EXPECT_LE(difference, ns / 20) << ns;
        EXPECT_EQ(format_duration(*parsed), format_duration(ns));
    }
}

TEST(BudgetText, Accepts) {
    for (const char* text : {"syscall=0,fault=0,tick<=10,max<=5us,total<=0.01%", "faults=0", "async<=3,sync=0",
                             "ipis<=2 , max <= 5 us", "total<=100ppm", "total<=0", "max=0", "total=0%", "total<=1.5ms",
                             " tick = 0 ", "preemption<=1", "total<=100%"})
        EXPECT_TRUE(Budget::parse(text)) << text << "\n"
                                         << (Budget::parse(text) ? "" : Budget::parse(text).error().text());
}

TEST(BudgetText, ShowsWhereItDoesNotParse) {
    EXPECT_EQ(caret(""), 0);
    EXPECT_EQ(caret("tick<=10,"), 9);
    EXPECT_EQ(caret("tick<=10,,max<=5us"), 9);
    EXPECT_EQ(caret("tick<=10,tack=0"), 9);
    EXPECT_EQ(caret("switch=0"), 0);
    EXPECT_EQ(caret("tick"), 4);
    EXPECT_EQ(caret("tick<10"), 4);
    EXPECT_EQ(caret("tick>=10"), 4);
    EXPECT_EQ(caret("tick<="), 6);
    EXPECT_EQ(caret("tick<=ten"), 6);
    EXPECT_EQ(caret("tick<=10us"), 8);
    EXPECT_EQ(caret("tick<=1.5"), 7);
    EXPECT_EQ(caret("tick<=-1"), 6);
    EXPECT_EQ(caret("tick<=18446744073709551616"), 6);
    EXPECT_EQ(caret("max<=5"), 6);
    EXPECT_EQ(caret("max<=5xs"), 6);
    EXPECT_EQ(caret("max<=1%"), 6);
    EXPECT_EQ(caret("max=5us"), 3);
    EXPECT_EQ(caret("total=1%"), 5);
    EXPECT_EQ(caret("total<=101%"), 7);
    EXPECT_EQ(caret("total<=-1%"), 7);
    EXPECT_EQ(caret("tick <= 10 , fault == 0"), 20);
    EXPECT_EQ(caret("tick<=10;fault=0"), 8);
}

TEST(BudgetText, ErrorsSayWhatMayStandThere) {
    const auto unknown = Budget::parse("tack=0").error();
    for (const char* word : {"syscall", "fault", "tick", "preempted", "async", "max", "total"})
        EXPECT_NE(unknown.needs.find(word), std::string::npos) << word;
    EXPECT_NE(Budget::parse("max=5us").error().needs.find("max<=5us"), std::string::npos);
    EXPECT_NE(Budget::parse("total<=5").error().needs.find("0.01%"), std::string::npos);
    EXPECT_EQ(unknown.status, 125);
    EXPECT_EQ(Budget::parse("tick\x1b[31m=0").error().text().find('\x1b'), std::string::npos);
}

TEST(BudgetCheck, CountsOverRowsAtAnyDepth) {
    const auto s = watch({row(Cause::syscall, "write", 3, 30, 10),
                          inside(row(Cause::fault, "minor, write, in kernel", 2, 9, 5), "syscall write", 1),
                          row(Cause::fault, "minor, write", 5, 30, 10)});
    EXPECT_TRUE(check("fault<=7,syscall<=3", s).empty());
    const auto found = check("fault<=6", s);
    ASSERT_EQ(found.size(), 1U);
    EXPECT_EQ(found[0].limit, "fault<=6");
    EXPECT_EQ(found[0].found, "7");
    EXPECT_EQ(found[0].rows, (std::vector<std::size_t>{2, 1})) << "the worst first";
    EXPECT_EQ(check("faults=0", s)[0].limit, "faults=0") << "as it was written";
}

TEST(BudgetCheck, PartsOfOneAreNotCountedAgain) {
    const auto s =
        watch({row(Cause::ipi, "function calls", 1, 30, 10), inside(row(Cause::ipi, "TLB flush", 1, 9, 5), "ipi", 1),
               inside(row(Cause::ipi, "membarrier", 1, 9, 5), "ipi", 1), row(Cause::tick, "", 2, 30, 10),
               inside(row(Cause::softirq, "TIMER", 2, 9, 5), "tick", 1),
               inside(row(Cause::timer, "process_timeout", 4, 5, 5), "tick > softirq TIMER", 2)});
    EXPECT_EQ(check("ipi=0", s).at(0).found, "1");
    EXPECT_EQ(check("timer=0", s).at(0).found, "4");
    EXPECT_EQ(check("async=0", s).at(0).found, "3") << "one ipi and two ticks, whatever is inside them";
    EXPECT_TRUE(check("sync=0,syscall=0", s).empty());
}

TEST(BudgetCheck, CloistersOwnCounts) {
    auto own = row(Cause::ipi, "perf event (remote_function)", 1, 10, 10);
    own.observer = true;
    EXPECT_EQ(check("ipi=0", watch({own})).at(0).rows, (std::vector<std::size_t>{0}));
}

TEST(BudgetCheck, Max) {
    const auto s = watch({row(Cause::tick, "", 5, 20'000, 4'000), row(Cause::syscall, "write", 5, 20'000, 11'800),
                          inside(row(Cause::irq, "irq 3", 1, 11'000, 11'000), "syscall write", 1),
                          row(Cause::fault, "minor", 1, 6'000, 6'000)});
    EXPECT_TRUE(check("max<=11.8us", s).empty());
    const auto found = check("max<=5us", s).at(0);
    EXPECT_EQ(found.found, "11.8 us");
    EXPECT_EQ(found.rows, (std::vector<std::size_t>{1, 3}));
}

TEST(BudgetCheck, ADepartureLongerThanItsFirstCauseStillHasRows) {
    auto s = watch({row(Cause::tick, "", 5, 20'000, 4'000)});
    s.balance.worst_ns = 6'000;
    EXPECT_EQ(check("max<=5us", s).at(0).rows, (std::vector<std::size_t>{0}));
}

TEST(BudgetCheck, BreachesWithoutATimeAreNoMetLimit) {
    auto open = row(Cause::syscall, "read", 1, 0, 0);
    open.end_unseen = 1;
    EXPECT_NE(check("max<=1h", watch({open})).at(0).found.find("not known"), std::string::npos);
    auto counted = row(Cause::interrupt, "HYP", 1, 0, 0);
    counted.known = Known::counted;
    EXPECT_TRUE(check("max<=1h", watch({counted})).empty()) << "the report says that it has no time";
    auto exit = row(Cause::syscall, "exit_group", 1, 0, 0);
    exit.end_unseen = 1;
    EXPECT_TRUE(check("max<=1h", watch({exit})).empty());
}

TEST(BudgetCheck, Total) {
    const auto s = watch({row(Cause::tick, "", 5, 100'000, 4'000), row(Cause::syscall, "write", 5, 200'000, 11'800)});
    EXPECT_TRUE(check("total<=300us,total<=0.03%,total<=300ppm", s).empty());
    EXPECT_EQ(check("total<=299us", s).at(0).rows, (std::vector<std::size_t>{1, 0}));
    EXPECT_EQ(check("total<=0.01%", s).at(0).found, "300.0 us (0.03%)");
    EXPECT_EQ(check("total<=299ppm", s).size(), 1U);
    EXPECT_EQ(check("total=0", s).size(), 1U);
}

TEST(BudgetCheck, TotalThatNobodyMeasuredIsNotMet) {
    auto s = watch({row(Cause::tick, "", 5, 100'000, 4'000)});
    s.balance.lost_ns.reset();
    EXPECT_NE(check("total<=1h", s).at(0).found.find("not known"), std::string::npos);
    EXPECT_TRUE(check("tick<=5", s).empty());
    s.balance.explained_ns = 100'000;
    EXPECT_EQ(check("total<=99us", s).at(0).found, "at least 100.0 us");
    s.balance.lost_ns = 0;
    s.balance.watched_ns = 0;
    EXPECT_NE(check("total<=1%", s).at(0).found.find("nothing was watched"), std::string::npos);
}

TEST(BudgetCheck, ABlindCauseIsNotMet) {
    auto s = watch({});
    s.header.blind = {{"irqs and softirqs", "no tracefs", "sudo cloister"}, {"firmware", "no gap detector", ""}};
    EXPECT_EQ(check("irq=0", s).at(0).found, "blind: no tracefs");
    EXPECT_EQ(check("softirq<=1000", s).size(), 1U);
    EXPECT_EQ(check("async=0", s).size(), 1U);
    EXPECT_EQ(check("max<=1h", s).size(), 1U);
    EXPECT_EQ(check("firmware=0", s).at(0).found, "blind: no gap detector");
    EXPECT_TRUE(check("syscall=0,sync=0,tick=0", s).empty());
    s.header.blind.erase(s.header.blind.begin());
    EXPECT_TRUE(check("async=0,max<=5us", s).empty()) << "run never sees the firmware; it has to be asked for by name";
    s.header.blind = {{"irq_work", "no vector tracepoints", ""}};
    EXPECT_TRUE(check("irq=0", s).empty());
}

TEST(BudgetCheck, WhatExceedsIsSaidBeforeWhatIsBlind) {
    auto s = watch({row(Cause::irq, "irq 3", 2, 10, 5)});
    s.header.blind = {{"irqs", "only some are seen", ""}};
    EXPECT_EQ(check("irq<=1", s).at(0).found, "2");
}

TEST(BudgetCheck, DroppedRecordsLeaveOnlyExactCounters) {
    auto s = watch({row(Cause::irq, "irq 3", 2, 10, 5), row(Cause::syscall, "write", 2, 10, 5)});
    s.balance.dropped = 30;
    s.balance.dropped_by_kind = {{"irq", 10}, {"stack", 10}, {"syscall", 10}};
    EXPECT_TRUE(check("syscall<=2,tick=0,fault=0,sync=0", s).empty());
    EXPECT_NE(check("irq<=2", s).at(0).found.find("10 records dropped"), std::string::npos);
    EXPECT_EQ(check("async<=2", s).size(), 1U);
    EXPECT_EQ(check("max<=1h", s).size(), 1U);
    s.balance.dropped_by_kind = {{"vector", 1}};
    EXPECT_EQ(check("tick=0", s).size(), 1U) << "may have been a tick";
    s.balance.dropped_by_kind = {{"stack", 1}};
    EXPECT_TRUE(check("tick=0,max<=1h,async<=2", s).empty());
}

TEST(BudgetCheck, EveryViolationIsNamedInTheOrderOfTheBudget) {
    const auto found = check("tick=0,max<=1ns,fault=0,total=0", watch({row(Cause::tick, "", 5, 100, 20)}));
    ASSERT_EQ(found.size(), 3U);
    EXPECT_EQ(found[0].limit, "tick=0");
    EXPECT_EQ(found[1].limit, "max<=1ns");
    EXPECT_EQ(found[2].limit, "total=0");
}

}  // namespace
}  // namespace cloister::breach
