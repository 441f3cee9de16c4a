#include "breach/report.hpp"

#include <algorithm>
#include <cctype>
#include <regex>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <fmt/format.h>

#include "breach/catalog.hpp"
#include "sample.hpp"

namespace cloister::breach {
namespace {

using sample::expect_golden;
using sample::inside;
using sample::lines;
using sample::row;

const sample::FakeResolver kResolver;
const TextStyle kPlain{false, 0};

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::size_t times(const std::string& text, const std::string& part) {
    std::size_t n = 0;
    for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++n;
    return n;
}

Summary with_rows(std::vector<Row> rows) {
    Summary s;
    s.header = sample::header();
    s.rows = std::move(rows);
    s.balance.watched_ns = 1'000'000'000;
    return s;
}

std::string text_of(std::vector<Row> rows, bool all = false) {
    return text_summary(with_rows(std::move(rows)), kResolver, kPlain, all);
}

TEST(Report, WholeWatch) {
    const auto s = sample::summary();
    expect_golden("report.txt", text_header(s.header, kPlain) + "\n" + text_summary(s, kResolver, kPlain, false));
}

TEST(Report, WholeWatchOnATerminal) {
    const auto s = sample::summary();
    const auto text = text_summary(s, kResolver, {false, 100}, false);
    expect_golden("report-100.txt", text);
    const auto table = text.substr(0, text.find("\n\n"));
    for (const auto& line : lines(table)) {
        if (line.find('\xff') != std::string::npos) continue;
        EXPECT_LE(line.size(), 100U) << line;
    }
}

TEST(Report, Log) {
    const auto h = sample::header();
    expect_golden("log.txt", text_breach(h, sample::breach(), kResolver, kPlain) +
                                 text_breach(h, sample::fault(), kResolver, kPlain));
}

TEST(Report, ColourAddsNothingButColour) {
    const auto s = sample::summary();
    const auto coloured = text_header(s.header, {true, 0}) + text_summary(s, kResolver, {true, 0}, false) +
                          text_breach(s.header, sample::breach(), kResolver, {true, 0});
    const auto plain = text_header(s.header, kPlain) + text_summary(s, kResolver, kPlain, false) +
                       text_breach(s.header, sample::breach(), kResolver, kPlain);
    EXPECT_TRUE(contains(coloured, "\x1b["));
    EXPECT_FALSE(contains(plain, "\x1b"));
    EXPECT_EQ(std::regex_replace(coloured, std::regex("\x1b\\[[0-9]*m"), ""), plain);
}

TEST(Report, NamesReachNoTerminalAsEscapes) {
    auto hostile = row(Cause::ipi, "call\x1b[2J\n", 1, 1'000, 1'000);
    hostile.who = "evil\r\x07/1 on cpu 0";
    hostile.sites[1] = {1, sample::stack(sample::kHostile), 0, 1};
    auto s = with_rows({hostile});
    s.header.target = "./x\x1b[31m";
    s.notices = {{s.header.begin_ns, "name \x1b]0;title\x07"}};
    const std::vector<Budget::Violation> violations{{"ipi=0", "1", {0}}};
    const auto text = text_header(s.header, kPlain) + text_summary(s, kResolver, kPlain, true) +
                      text_violations(s, violations, kPlain);
    for (const char c : text) EXPECT_TRUE(c == '\n' || static_cast<unsigned char>(c) >= 0x20) << text;
    EXPECT_TRUE(contains(text, "call?[2J?"));
    EXPECT_TRUE(contains(text, "evil?[2J"));
}

TEST(Report, CutsWholeCharactersOnly) {
    std::string name;
    for (int i = 0; i < 60; ++i) name += "\xc3\xa9";  // 60 times an e with an acute accent
    const auto s = with_rows({row(Cause::timer, name, 1, 1'000, 1'000)});
    const auto line = lines(text_summary(s, kResolver, {false, 100}, false)).at(1);
    std::size_t characters = 0;
    for (std::size_t i = 0; i < line.size(); ++i) {
        if (line[i] == '\xc3') {
            EXPECT_EQ(line.at(i + 1), '\xa9') << "half a character at " << i;
        }
        if (line[i] != '\xa9') ++characters;
    }
    EXPECT_EQ(characters, 100U);
    EXPECT_TRUE(contains(line, "\xa9..."));
}

TEST(Report, FixesAreBrokenNotCut) {
    const auto r = row(Cause::irq, "irq 36 virtio1-req.0", 1, 1'000, 1'000);
    const auto text = text_summary(with_rows({r}), kResolver, {false, 60}, false);
    std::string joined;
    for (const auto& line : lines(text))
        if (line.size() > 29 &&
            (line.substr(0, 29).find_first_not_of(' ') == std::string::npos || contains(line.substr(0, 29), "fix")))
            joined += (joined.empty() ? "" : " ") + line.substr(29);
    EXPECT_EQ(joined, remedy(r, 1));
}

TEST(Report, TopDeparturesAndTheirInnersUnlessAllAreAskedFor) {
    std::vector<Row> rows;
    for (int i = 0; i < 30; ++i) {
        rows.push_back(row(Cause::syscall, fmt::format("call{:02}", i), 1, 1'000'000, 1'000'000));
        rows.push_back(
            inside(row(Cause::fault, "minor, read", 1, 900'000, 900'000), fmt::format("syscall call{:02}", i), 1));
    }
    const auto top = text_of(rows);
    EXPECT_TRUE(contains(top, "call24 "));
    EXPECT_FALSE(contains(top, "call25 "));
    EXPECT_EQ(times(top, "minor, read"), 25U);
    EXPECT_TRUE(contains(top, "... and 10 more rows (--json - has all; --all shows them)"));
    const auto all = text_of(rows, true);
    EXPECT_TRUE(contains(all, "call29 "));
    EXPECT_EQ(times(all, "minor, read"), 30U);
    EXPECT_FALSE(contains(all, "more rows"));
}

TEST(Report, SmallAndDeepRowsAreFoldedWithWhatIsInThem) {
    const std::vector<Row> rows{
        row(Cause::tick, "", 1, 1'000'000, 1'000'000),
        inside(row(Cause::softirq, "SMALL", 1, 9'999, 9'999), "tick", 1),
        inside(row(Cause::timer, "in_small", 1, 9'998, 9'998), "tick > softirq SMALL", 2),
        inside(row(Cause::softirq, "LARGE", 1, 10'000, 10'000), "tick", 1),
        inside(row(Cause::timer, "second", 1, 10'000, 10'000), "tick > softirq LARGE", 2),
        inside(row(Cause::irq, "irq 3 third", 1, 10'000, 10'000), "tick > softirq LARGE > timer second", 3),
        inside(row(Cause::softirq, "FOURTH", 1, 10'000, 10'000), "...", 4),
    };
    const auto text = text_of(rows);
    EXPECT_FALSE(contains(text, "SMALL"));
    EXPECT_FALSE(contains(text, "in_small"));
    EXPECT_TRUE(contains(text, "LARGE"));
    EXPECT_TRUE(contains(text, "irq 3 third"));
    EXPECT_FALSE(contains(text, "FOURTH"));
    EXPECT_TRUE(contains(text, "and 3 smaller rows inside"));
    const auto all = text_of(rows, true);
    for (const auto& r : rows) EXPECT_TRUE(contains(all, r.detail)) << r.detail;
}

TEST(Report, RowsWithoutASeenEndHaveNoTimes) {
    auto r = row(Cause::syscall, "exit_group", 3, 0, 0);
    r.end_unseen = 3;
    const auto text = text_of({r});
    EXPECT_TRUE(std::regex_search(text, std::regex("3 +end not seen +syscall exit_group"))) << text;
    EXPECT_FALSE(contains(text, "0 ns"));
}

TEST(Report, CountedRowsAreNotTimed) {
    auto r = row(Cause::interrupt, "HYP", 3, 0, 0);
    r.known = Known::counted;
    r.first_ns = r.last_ns = 0;
    const auto text = text_of({r});
    EXPECT_TRUE(std::regex_search(text, std::regex("3 +not timed +interrupt: HYP +counted +- +-\n"))) << text;
    EXPECT_FALSE(contains(text, "0 ns"));
}

TEST(Report, SameFixIsSaidOnce) {
    const auto a = row(Cause::fault, "minor, write", 1, 2'000, 2'000),
               b = row(Cause::fault, "minor, write", 1, 1'000, 1'000);
    EXPECT_EQ(times(text_of({a, b}), remedy(a, 1)), 1U);
}

TEST(Report, NothingToMendInsideTimeOffTheCpu) {
    const auto irq = row(Cause::irq, "irq 36 disk", 1, 8'000, 8'000);
    EXPECT_TRUE(contains(text_of({irq}), remedy(irq, 1)));
    const auto off = row(Cause::blocked, "in nanosleep", 1, 10'000, 10'000);
    const auto text = text_of({off, inside(irq, "blocked in nanosleep", 1)});
    EXPECT_TRUE(contains(text, "irq 36 disk"));
    EXPECT_FALSE(contains(text, remedy(irq, 1)));
}

TEST(Report, AWorkersFunctionIsWorthAFix) {
    const auto work = row(Cause::workqueue, "vmstat_update", 1, 8'000, 8'000);
    const auto taken = row(Cause::preempted, "by kworker/1", 1, 10'000, 10'000);
    EXPECT_TRUE(contains(text_of({taken, inside(work, "preempted by kworker/1", 1)}), remedy(work, 1)));
    const auto sleep = row(Cause::syscall, "nanosleep", 1, 10'000, 10'000);
    const auto wait = row(Cause::blocked, "in nanosleep", 1, 9'000, 9'000);
    EXPECT_FALSE(contains(text_of({sleep, inside(wait, "syscall nanosleep", 1)}), remedy(wait, 1)));
    EXPECT_TRUE(contains(text_of({wait}), remedy(wait, 1)));
}

TEST(Report, AtSkipsTheLibraryOnlyWhereItWouldHideTheProgram) {
    auto r = row(Cause::syscall, "write", 1, 1'000, 1'000);
    r.sites[1] = {1, sample::stack(sample::kDeepLibc), 0, 1};
    EXPECT_TRUE(contains(text_of({r}), "write < ... < flush_log dataplane.cc:45 < main dataplane.cc:201\n"));
    r.sites[1] = {1, sample::stack(sample::kWriteLog), 0, 1};
    EXPECT_TRUE(contains(text_of({r}),
                         "at  write < log_line dataplane.cc:41 < poll_loop dataplane.cc:60 < main dataplane.cc:201\n"));
    r.sites[1] = {1, sample::stack(sample::kThread), 0, 0};
    EXPECT_TRUE(contains(text_of({r}), "at  rcu_exp_sel_wait_wake < kthread\n"));
    r.sites[1] = {1, sample::stack(sample::kNoFrames), 0, 0};
    EXPECT_FALSE(contains(text_of({r}), " at  "));
}

TEST(Report, SitesMostFrequentFirstAndTwoOfThem) {
    auto r = row(Cause::syscall, "write", 60, 1'000, 1'000);
    r.sites[1] = {10, sample::stack(sample::kDeepLibc), 0, 1};
    r.sites[2] = {20, sample::stack(sample::kWriteLog), 0, 1};
    r.sites[3] = {30, sample::stack(sample::kWriteStats), 0, 1};
    const auto text = text_of({r});
    EXPECT_LT(text.find("30 x write < print_stats"), text.find("20 x write < log_line"));
    EXPECT_FALSE(contains(text, "flush_log"));
}

TEST(Report, EmptyResultExplainsItself) {
    auto s = with_rows({});
    s.balance.watched_ns = 10'000'000'000;
    auto text = text_summary(s, kResolver, kPlain, false);
    EXPECT_TRUE(contains(text, "no breach in 10.0 s"));
    EXPECT_TRUE(contains(text, "syscalls faults ticks"));
    EXPECT_TRUE(contains(text, "not seen: firmware"));
    EXPECT_FALSE(contains(text, "records were dropped"));

    s.balance.dropped = 7;
    EXPECT_TRUE(contains(text_summary(s, kResolver, kPlain, false), "7 records were dropped"));
    s.header.sees.clear();
    EXPECT_TRUE(contains(text_summary(s, kResolver, kPlain, false), "says nothing"));
    s.balance.watched_ns = 0;
    EXPECT_TRUE(contains(text_summary(s, kResolver, kPlain, false), "nothing was watched"));
}

TEST(Report, BalanceSheet) {
    Summary s = with_rows({});
    s.header.command = "watch";
    s.balance = sample::watch_balance();
    EXPECT_TRUE(contains(
        text_summary(s, kResolver, kPlain, false),
        "3 breaches, 168.9 us lost (2.8 ppm of 60.0 s), worst 153.0 us; explained 15.9 us, unexplained 153.0 us "
        "(inferred: firmware 153.0 us); records dropped 0\n"));
    EXPECT_TRUE(
        contains(text_summary(s, kResolver, kPlain, false),
                 "3 gaps over 1.0 us: 2 with kernel entries, 1 of them named; 40 departures too short for a gap "
                 "took 12.0 us more\n"));
    s.header.command = "run";
    s.balance.lost_ns = s.balance.unexplained_ns = std::nullopt;
    EXPECT_TRUE(contains(text_summary(s, kResolver, kPlain, false), "at least 15.9 us lost (0.3 ppm of 60.0 s)"));
    EXPECT_TRUE(contains(text_summary(s, kResolver, kPlain, false),
                         "unexplained unknown (run has no gap detector; `cloister watch` has one)"));
    s.balance.explained_ns = std::nullopt;
    EXPECT_TRUE(contains(text_summary(s, kResolver, kPlain, false), "time lost unknown of 60.0 s"));
}

TEST(Report, ThreadsOnlyIfSeveralOrAskedFor) {
    auto s = sample::summary();
    EXPECT_TRUE(contains(text_summary(s, kResolver, kPlain, false), "dataplane/4400"));
    s.threads.resize(1);
    EXPECT_FALSE(contains(text_summary(s, kResolver, kPlain, false), "dataplane/4400"));
    EXPECT_TRUE(contains(text_summary(s, kResolver, kPlain, true), "dataplane/4400"));
}

TEST(Report, BlindCausesOfOneReasonShareALine) {
    auto h = sample::header();
    h.blind = {{"irqs", "no tracefs", "sudo cloister"},
               {"ipis", "no tracefs", "sudo cloister"},
               {"firmware", "no gap detector", ""}};
    const auto text = text_header(h, kPlain);
    EXPECT_TRUE(
        contains(text, "blind   irqs ipis: no tracefs\n  lift  sudo cloister\nblind   firmware: no gap detector\n"))
        << text;
}

TEST(Report, ViolationsNameTheirRows) {
    const auto s = sample::summary();
    const auto own = static_cast<std::size_t>(
        std::find_if(s.rows.begin(), s.rows.end(), [](const Row& r) { return r.observer; }) - s.rows.begin());
    const auto text = text_violations(s, {{"ipi<=0", "101", {own}}, {"tick<=10", "250", {0, 1, 0, 1, 0, 1}}}, kPlain);
    EXPECT_TRUE(contains(text, "budget ipi<=0 not met: 101\n"));
    EXPECT_TRUE(contains(text, "by cloister itself"));
    EXPECT_TRUE(contains(text, "250 x tick; 1.0 ms, worst 11.8 us\n"));
    EXPECT_TRUE(contains(text, "212 x softirq TIMER, inside tick;"));
    EXPECT_TRUE(contains(text, "... and 1 more rows\n"));
}

// A terminal of our own.
class Terminal : public ::testing::Test {
protected:
    void SetUp() override {
        master_ = posix_openpt(O_RDWR | O_NOCTTY);
        ASSERT_GE(master_, 0);
        ASSERT_EQ(grantpt(master_), 0);
        ASSERT_EQ(unlockpt(master_), 0);
        tty_ = std::fopen(ptsname(master_), "r+");
        ASSERT_NE(tty_, nullptr);
        setenv("TERM", "xterm", 1);
        unsetenv("NO_COLOR");
    }
    void TearDown() override {
        if (tty_ != nullptr) std::fclose(tty_);
        if (master_ >= 0) close(master_);
    }
    int master_ = -1;
    std::FILE* tty_ = nullptr;
};

TEST_F(Terminal, ColourAndWidth) {
    const winsize size{24, 132, 0, 0};
    ASSERT_EQ(ioctl(master_, TIOCSWINSZ, &size), 0);
    EXPECT_TRUE(style_for(tty_).colour);
    EXPECT_EQ(style_for(tty_).width, 132);
    setenv("NO_COLOR", "1", 1);
    EXPECT_FALSE(style_for(tty_).colour);
    EXPECT_EQ(style_for(tty_).width, 132);
    setenv("NO_COLOR", "", 1);
    EXPECT_TRUE(style_for(tty_).colour);
    setenv("TERM", "dumb", 1);
    EXPECT_FALSE(style_for(tty_).colour);
    unsetenv("TERM");
    EXPECT_FALSE(style_for(tty_).colour);
}

TEST_F(Terminal, AFileIsNone) {
    std::FILE* file = std::tmpfile();
    ASSERT_NE(file, nullptr);
    EXPECT_FALSE(style_for(file).colour);
    EXPECT_EQ(style_for(file).width, 0);
    std::fclose(file);
}

}  // namespace
}  // namespace cloister::breach
