#include "breach/tally.hpp"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace cloister::breach {
namespace {

Breach breach(Cause cause, std::string detail, std::uint64_t start, std::uint64_t end) {
    Breach b;
    b.start_ns = start;
    b.end_ns = b.departure_end_ns = end;
    b.cpu = 1;
    b.tid = b.tgid = 100;
    b.cause = cause;
    b.cls = class_of(cause);
    b.detail = std::move(detail);
    return b;
}

Party party(std::string comm, std::uint32_t tid, std::uint32_t tgid, int cpu = 0) {
    Party who;
    who.comm = std::move(comm);
    who.tid = tid;
    who.tgid = tgid;
    who.cpu = cpu;
    return who;
}

Breach sent_by(Party who, std::uint64_t at) {
    Breach b = breach(Cause::ipi, "TLB flush (flush_tlb_func)", at, at + 10);
    b.who = std::move(who);
    return b;
}

TEST(Tally, OfNothingIsEmpty) {
    const Tally tally;
    EXPECT_TRUE(tally.rows().empty());
    EXPECT_EQ(tally.departures(), 0U);
    EXPECT_EQ(tally.lost_ns(), 0U);
    EXPECT_EQ(tally.worst_ns(), 0U);
}

TEST(Tally, PutsWhatLiesInsideUnderItsOwnParent) {
    Tally tally;
    for (std::uint64_t i = 0; i < 3; ++i) {
        Breach tick = breach(Cause::tick, "", 1000 * i, 1000 * i + 100);
        Breach softirq = breach(Cause::softirq, "TIMER", 1000 * i + 110, 1000 * i + 140);
        softirq.children.push_back(breach(Cause::timer, "process_timeout", 1000 * i + 120, 1000 * i + 130));
        tick.children.push_back(softirq);
        tick.departure_end_ns = 1000 * i + 150;
        tally.add(tick);
    }
    tally.add(breach(Cause::softirq, "TIMER", 9000, 9500));
    const auto rows = tally.rows();
    ASSERT_EQ(rows.size(), 4U);
    EXPECT_EQ(rows[0].cause, Cause::softirq);  // longer in total than the ticks
    EXPECT_EQ(rows[0].total_ns, 500U);
    EXPECT_EQ(rows[1].cause, Cause::tick);
    EXPECT_EQ(rows[1].total_ns, 300U);  // its own time, not the departure's
    EXPECT_EQ(rows[1].first_ns, 0U);
    EXPECT_EQ(rows[1].last_ns, 2100U);
    EXPECT_EQ(rows[2].inside, "tick");
    EXPECT_EQ(rows[2].depth, 1);
    EXPECT_EQ(rows[3].inside, "tick > softirq TIMER");
    EXPECT_EQ(rows[3].depth, 2);
    EXPECT_EQ(rows[3].count, 3U);
    EXPECT_EQ(tally.departures(), 4U);
    EXPECT_EQ(tally.worst_ns(), 500U);
    EXPECT_EQ(tally.lost_ns(), 3 * 150U + 500U);
}

TEST(Tally, PathsEndAtDepthFour) {
    Breach outer = breach(Cause::syscall, "read", 0, 100);
    Breach* at = &outer;
    for (std::uint64_t depth = 1; depth <= 6; ++depth)
        at = &at->children.emplace_back(breach(Cause::irq, fmt::format("irq {} disk", depth), depth, 100 - depth));
    Tally tally;
    tally.add(outer);
    const auto rows = tally.rows();
    ASSERT_EQ(rows.size(), 7U);
    const std::string path = "syscall read > irq 1 disk > irq 2 disk > irq 3 disk";
    for (std::size_t i = 4; i < rows.size(); ++i) {
        EXPECT_EQ(rows[i].depth, 4);
        EXPECT_EQ(rows[i].inside, path);
    }
    EXPECT_EQ(rows[6].detail, "irq 6 disk");
}

TEST(Tally, TellsOffendersApartByProcessAndNotByThread) {
    Tally tally;
    tally.add(sent_by(party("logger", 11, 10, 0), 100));
    tally.add(sent_by(party("logger", 12, 10, 2), 200));
    tally.add(sent_by(party("logger", 20, 20, 0), 300));
    tally.add(sent_by(party("kworker/0:1", 31, 31, 0), 400));
    tally.add(sent_by(party("kworker/0:2-events", 32, 32, 0), 500));
    Party own = party("cloister", 40, 40, 0);
    own.observer = true;
    tally.add(sent_by(own, 600));
    std::vector<std::string> who;
    for (const Row& row : tally.rows()) who.push_back(fmt::format("{} x{} {}", row.who, row.count, row.observer));
    EXPECT_EQ(who, (std::vector<std::string>{"kworker/0 on cpu 0 x2 false", "logger/10 x2 false",
                                             own.text() + " x1 true", "logger/20 on cpu 0 x1 false"}));
}

TEST(Tally, SitesAreTheProgramsOrTheSenders) {
    Tally tally;
    Breach fault = breach(Cause::fault, "minor, write", 0, 10);
    fault.pc = 0x401000;
    tally.add(fault);
    fault.site = 0x51;
    tally.add(fault);
    tally.add(fault);
    Breach ipi = sent_by(party("logger", 11, 10), 100);
    ipi.site = 0x52;  // where the program was is chance
    ipi.who->site = 0x53;
    tally.add(ipi);
    ipi.who->stack = std::make_shared<cl_stack>();
    tally.add(ipi);
    tally.add(breach(Cause::irq, "irq 36 disk", 900, 901));
    for (const Row& row : tally.rows()) {
        if (row.cause == Cause::fault) {
            ASSERT_EQ(row.sites.size(), 2U);
            EXPECT_EQ(row.sites.at(0x401000).count, 1U);
            EXPECT_EQ(row.sites.at(0x51).count, 2U);
            EXPECT_EQ(row.sites.at(0x51).pc, 0x401000U);
            EXPECT_EQ(row.sites.at(0x51).tgid, 100U);
        } else if (row.cause == Cause::ipi) {
            ASSERT_EQ(row.sites.size(), 1U);
            EXPECT_EQ(row.sites.at(0x53).count, 2U);
            EXPECT_EQ(row.sites.at(0x53).tgid, 10U);
            EXPECT_EQ(row.sites.at(0x53).stack, ipi.who->stack);
        } else {
            EXPECT_TRUE(row.sites.empty());
        }
    }
}

TEST(Tally, SitesAreBounded) {
    Tally tally;
    Breach b = breach(Cause::syscall, "write", 0, 10);
    constexpr std::uint64_t kSites = 1000;
    for (b.site = 1; b.site <= kSites; ++b.site) tally.add(b);
    Row row = tally.rows().at(0);
    EXPECT_LT(row.sites.size(), 100U);
    EXPECT_EQ(row.sites.size() + row.sites_over, kSites);

    // Exact counters know them all: the most frequent stay.
    for (std::uint64_t site = 1; site <= kSites; ++site) {
        cl_site counts{};
        counts.count = site;
        tally.exact_site(Cause::syscall, "write", site, counts, nullptr);
    }
    row = tally.rows().at(0);
    std::uint64_t sum = row.sites_over;
    for (const auto& [_, site] : row.sites) sum += site.count;
    EXPECT_EQ(sum, kSites * (kSites + 1) / 2);
    EXPECT_TRUE(row.sites.contains(kSites));
    EXPECT_FALSE(row.sites.contains(1));
}

TEST(Tally, LostIsTheUnionPerThread) {
    Tally tally;
    tally.add(breach(Cause::tick, "", 0, 100));
    tally.add(breach(Cause::irq, "irq 36 disk", 50, 150));  // overlaps: its outer interval was lost
    Breach other = breach(Cause::tick, "", 0, 100);
    other.tid = 101;
    tally.add(other);
    EXPECT_EQ(tally.lost_ns(), 250U);
}

TEST(Tally, AnEndThatWasNotSeenHasNoTime) {
    Tally tally;
    Breach fault = breach(Cause::fault, "failed, read", 1000, 9'000'000);
    fault.end_seen = false;
    fault.children.push_back(breach(Cause::irq, "irq 36 disk", 2000, 2100));
    tally.add(fault);
    const auto rows = tally.rows();
    ASSERT_EQ(rows.size(), 2U);
    EXPECT_EQ(rows[0].end_unseen, 1U);
    EXPECT_EQ(rows[0].total_ns, 0U);
    EXPECT_EQ(rows[0].max_ns, 0U);
    EXPECT_EQ(tally.lost_ns(), 100U);
    EXPECT_EQ(tally.worst_ns(), 100U);
}

TEST(Tally, ExactCountersReplaceThinnedRecords) {
    Tally tally;
    tally.add(breach(Cause::syscall, "getppid", 100, 200));
    tally.add(breach(Cause::syscall, "getppid", 300, 350));
    cl_cell cell{};
    cell.count = 1'000'000;
    cell.total = 80'000'000;
    cell.max = 900;
    cell.first = 50;
    cell.last = 99'000'000;
    tally.exact(Cause::syscall, "getppid", cell);
    const Row row = tally.rows().at(0);
    EXPECT_EQ(row.count, 1'000'000U);
    EXPECT_EQ(row.total_ns, 80'000'000U);
    EXPECT_EQ(row.max_ns, 900U);
    EXPECT_EQ(row.first_ns, 50U);
    EXPECT_EQ(row.last_ns, 99'000'000U);
    EXPECT_EQ(row.recorded, 2U);
    EXPECT_EQ(row.known, Known::traced);
    EXPECT_EQ(tally.departures(), 1'000'000U);
    EXPECT_EQ(tally.lost_ns(), 80'000'000U);
    EXPECT_EQ(tally.worst_ns(), 900U);
}

TEST(Tally, ExactCountersThatAgreeChangeNothing) {
    Tally tally;
    tally.add(breach(Cause::syscall, "read", 100, 200));
    Breach open = breach(Cause::syscall, "read", 300, 400);
    open.end_seen = false;  // not in the counter: it counts when the syscall returns
    tally.add(open);
    cl_cell cell{};
    cell.count = 1;
    cell.total = cell.max = 100;
    cell.first = 100;
    cell.last = 200;
    tally.exact(Cause::syscall, "read", cell);
    const Row row = tally.rows().at(0);
    EXPECT_EQ(row.count, 2U);
    EXPECT_EQ(row.recorded, 2U);
    EXPECT_EQ(row.total_ns, 100U);
    EXPECT_EQ(row.end_unseen, 1U);
}

TEST(Tally, ExactCountersOfFaultsSpareWhatIsNested) {
    Tally tally;
    Breach read = breach(Cause::syscall, "read", 0, 1000);
    read.children.push_back(breach(Cause::fault, "minor, write, in kernel", 100, 300));
    read.children.push_back(breach(Cause::fault, "minor, write, in kernel", 400, 600));
    tally.add(read);
    cl_cell cell{};
    cell.count = 5;
    cell.total = 1000;
    cell.max = 200;
    cell.first = 100;
    cell.last = 5000;
    tally.exact(Cause::fault, "minor, write, in kernel", cell);
    const auto rows = tally.rows();
    ASSERT_EQ(rows.size(), 3U);
    const auto top = std::ranges::find_if(rows, [](const Row& r) { return r.depth == 0 && r.cause == Cause::fault; });
    const auto nested = std::ranges::find_if(rows, [](const Row& r) { return r.depth == 1; });
    ASSERT_NE(top, rows.end());
    ASSERT_NE(nested, rows.end());
    EXPECT_EQ(top->count, 3U);
    EXPECT_EQ(top->total_ns, 600U);
    EXPECT_EQ(top->recorded, 0U);
    EXPECT_EQ(top->known, Known::counted);
    EXPECT_EQ(nested->count, 2U);
    EXPECT_EQ(nested->total_ns, 400U);
    EXPECT_EQ(tally.lost_ns(), 1000U);  // the rest lies inside other syscalls, and in their counters
}

TEST(Tally, CountersOfTheMachineHaveNoTime) {
    Tally tally;
    tally.counted(Cause::interrupt, "HYP hypervisor callback", 3);
    tally.counted(Cause::interrupt, "PMI", 0);
    const auto rows = tally.rows();
    ASSERT_EQ(rows.size(), 1U);
    EXPECT_EQ(rows[0].known, Known::counted);
    EXPECT_EQ(rows[0].count, 3U);
    EXPECT_EQ(rows[0].end_unseen, 3U);
    EXPECT_EQ(rows[0].recorded, 0U);
    EXPECT_EQ(tally.lost_ns(), 0U);
}

TEST(Tally, RowsAreBoundedAndNothingIsForgotten) {
    Tally tally;
    constexpr std::uint64_t kMany = 6000;
    for (std::uint64_t i = 0; i < kMany; ++i) {
        Breach b = sent_by(party(fmt::format("p{}", i), 1, static_cast<std::uint32_t>(i)), i * 100);
        b.children.push_back(breach(Cause::nmi, "handler", i * 100 + 1, i * 100 + 3));
        tally.add(b);
    }
    const auto rows = tally.rows();
    EXPECT_LT(rows.size(), 5000U);
    std::uint64_t ipis = 0, nmis = 0, more = 0;
    for (const Row& row : rows) {
        (row.cause == Cause::ipi ? ipis : nmis) += row.count;
        if (row.detail == "(more)") more += row.count;
    }
    EXPECT_EQ(ipis, kMany);
    EXPECT_EQ(nmis, kMany);
    EXPECT_GT(more, 0U);
    EXPECT_EQ(tally.lost_ns(), kMany * 10);
}

}  // namespace
}  // namespace cloister::breach
