// A made-up watch in which everything occurs that a report can show, for the golden files.
#pragma once

#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "breach/report.hpp"

namespace cloister::breach::sample {

constexpr std::uint64_t kBegin = 5'000'000'000'000;
constexpr std::uint64_t kMs = 1'000'000;

inline unwind::Frame frame(std::string function, std::string module, std::string file = "", int line = 0,
                           bool kernel = false) {
    unwind::Frame f;
    f.pc = 0x1000 + 16 * function.size();
    f.function = std::move(function);
    f.module = std::move(module);
    f.file = std::move(file);
    f.line = line;
    f.kernel = kernel;
    return f;
}

// Stacks are told apart by their id: the resolver knows frames by it.
inline StackPtr stack(std::uint32_t id) {
    auto s = std::make_shared<cl_stack>();
    s->id = id;
    return s;
}

enum StackId : std::uint32_t { kNoFrames = 1, kUnmap, kWriteLog, kWriteStats, kThread, kDeepLibc, kHostile };

struct FakeResolver : Resolver {
    std::vector<unwind::Frame> user(const cl_stack& s) const override {
        switch (s.id) {
            case kUnmap:
                return {frame("munmap", "libc.so.6"), frame("drop_old_segment", "dataplane", "dataplane.cc", 88),
                        frame("housekeeping", "dataplane", "dataplane.cc", 120),
                        frame("main", "dataplane", "dataplane.cc", 200)};
            case kWriteLog:
                return {frame("write", "libc.so.6"), frame("log_line", "dataplane", "dataplane.cc", 41),
                        frame("poll_loop", "dataplane", "dataplane.cc", 60),
                        frame("main", "dataplane", "dataplane.cc", 201), frame("__libc_start_main", "libc.so.6")};
            case kWriteStats:
                return {frame("write", "libc.so.6"), frame("print_stats", "dataplane", "dataplane.cc", 77)};
            case kDeepLibc:
                return {frame("write", "libc.so.6"),
                        frame("_IO_file_write", "libc.so.6"),
                        frame("new_do_write", "libc.so.6"),
                        frame("fflush", "libc.so.6"),
                        frame("flush_log", "dataplane", "dataplane.cc", 45),
                        frame("main", "dataplane", "dataplane.cc", 201)};
            case kHostile:
                return {frame("evil\x1b[2J", "dataplane")};
            default:
                return {};
        }
    }
    std::vector<unwind::Frame> kernel(const cl_stack& s) const override {
        if (s.id == kUnmap)
            return {frame("smp_call_function_many_cond", "[kernel]", "", 0, true),
                    frame("flush_tlb_mm_range", "[kernel]", "", 0, true)};
        if (s.id == kThread)
            return {frame("bpf_trace_run4", "[kernel]", "", 0, true),
                    frame("smp_call_function_single", "[kernel]", "", 0, true),
                    frame("rcu_exp_sel_wait_wake", "[kernel]", "", 0, true), frame("kthread", "[kernel]", "", 0, true)};
        return {};
    }
    std::vector<unwind::Frame> user_pc(std::uint32_t, std::uint64_t pc) const override {
        if (pc == 0x4011d6) return {frame("first_touch", "dataplane", "dataplane.cc", 33)};
        return {};
    }
};

inline Row row(Cause cause, std::string detail, std::uint64_t count, std::uint64_t total, std::uint64_t max) {
    Row r;
    r.cause = cause;
    r.cls = class_of(cause);
    r.detail = std::move(detail);
    r.count = r.recorded = count;
    r.total_ns = total;
    r.max_ns = max;
    r.first_ns = kBegin + 4 * kMs;
    r.last_ns = kBegin + 998 * kMs;
    return r;
}

inline Row inside(Row r, std::string path, int depth) {
    r.inside = std::move(path);
    r.depth = depth;
    return r;
}

inline Header header() {
    Header h;
    h.command = "run";
    h.cpu = 1;
    h.isolation = "none";
    h.kernel = "6.12.0";
    h.sees = {"syscalls", "faults", "ticks", "timers", "irqs", "softirqs", "ipis", "nmis", "preemption"};
    h.blind = {{"firmware", "run has no gap detector", "cloister watch -c 1"}};
    h.target = "./dataplane --ring 4096";
    h.begin_ns = kBegin;
    h.begin_unix_ns = 1'790'000'000'000'000'000;
    h.arming_ns = 120 * kMs;
    h.arming = {"1 ipi: text patching (do_sync_core)"};
    return h;
}

inline Summary summary() {
    Summary s;
    s.header = header();

    auto tick = row(Cause::tick, "", 250, 1'020'000, 11'800);
    s.rows.push_back(tick);
    s.rows.push_back(inside(row(Cause::softirq, "TIMER", 212, 310'000, 9'100), "tick", 1));
    s.rows.push_back(inside(row(Cause::timer, "delayed_work_timer_fn", 3, 40'000, 20'000), "tick > softirq TIMER", 2));
    s.rows.push_back(inside(row(Cause::softirq, "SCHED", 1, 500, 500), "tick", 1));
    s.rows.push_back(inside(row(Cause::timer, "lies_in_a_folded_row", 1, 400, 400), "tick > softirq SCHED", 2));

    auto flush = row(Cause::ipi, "TLB flush (flush_tlb_func)", 100, 900'000, 15'000);
    flush.who = "dataplane/4411 on cpu 0";
    flush.sites[7] = {100, stack(kUnmap), 0, 4400};
    s.rows.push_back(flush);

    auto write = row(Cause::syscall, "write", 2'000'000, 800'000'000, 5'000);
    write.recorded = 40'000;
    write.sites[1] = {500'000, stack(kWriteStats), 0, 4400};
    write.sites[2] = {1'500'000, stack(kWriteLog), 0, 4400};
    s.rows.push_back(write);

    auto fault = row(Cause::fault, "minor, write", 64, 64'000, 2'000);
    fault.end_unseen = 2;
    fault.sites[0x4011d6] = {64, nullptr, 0x4011d6, 4400};
    s.rows.push_back(fault);

    auto taken = row(Cause::preempted, "by kworker/1", 2, 90'000, 50'000);
    taken.who = "kworker/1:2/88 on cpu 1";
    s.rows.push_back(taken);
    s.rows.push_back(inside(row(Cause::workqueue, "vmstat_update", 2, 80'000, 45'000), "preempted by kworker/1", 1));

    auto hog = row(Cause::preempted, "by hog", 1, 30'000, 30'000);
    hog.who = "hog/4500 on cpu 1";
    s.rows.push_back(hog);

    auto sleep = row(Cause::syscall, "nanosleep", 1, 9 * kMs, 9 * kMs);
    s.rows.push_back(sleep);
    s.rows.push_back(inside(row(Cause::blocked, "in nanosleep", 1, 8 * kMs, 8 * kMs), "syscall nanosleep", 1));
    s.rows.push_back(inside(row(Cause::irq, "irq 36 virtio1-req.0", 4, 100'000, 30'000),
                            "syscall nanosleep > blocked in nanosleep", 2));

    auto expedited = row(Cause::ipi, "RCU expedited grace period (rcu_exp_handler)", 1, 4'000, 4'000);
    expedited.who = "rcu_exp/17 on cpu 0";
    expedited.sites[9] = {1, stack(kThread), 0, 0};
    s.rows.push_back(expedited);

    auto own = row(Cause::ipi, "perf event (remote_function)", 1, 3'000, 3'000);
    own.who = "cloister itself on cpu 0";
    own.observer = true;
    s.rows.push_back(own);

    auto hostile = row(Cause::preempted, "by \x1b[31mred\xff", 1, 2'000, 2'000);
    hostile.who = "\x1b[31mred\xff/4600 on cpu 1";
    s.rows.push_back(hostile);

    auto host = row(Cause::interrupt, "HYP hypervisor callback", 3, 0, 0);
    host.known = Known::counted;
    host.first_ns = host.last_ns = 0;
    host.recorded = 0;
    s.rows.push_back(host);

    auto end = row(Cause::syscall, "exit_group", 1, 0, 0);
    end.end_unseen = 1;
    end.first_ns = end.last_ns;
    s.rows.push_back(end);

    ThreadCounts main;
    main.tid = main.tgid = 4400;
    main.comm = "dataplane";
    main.syscalls = 2'000'002;
    main.faults_minor = 60;
    main.faults_failed = 4;
    main.switches_involuntary = 4;
    ThreadCounts rest = main;
    rest.tid = 4411;
    rest.shared = true;
    rest.live = true;
    rest.signals = rest.migrations = 1;
    s.threads = {main, rest};
    s.notices = {{kBegin + 12 * kMs, "thread 4411 (dataplane) moved to cpu 0 by itself (sched_setaffinity)"}};
    s.balance.watched_ns = 1'000 * kMs;
    s.balance.explained_ns = 811'000'000;
    s.balance.breaches = 2'000'424;
    s.balance.worst_ns = 9 * kMs;
    s.balance.dropped = 12;
    s.balance.dropped_by_kind = {{"stack", 12}};
    return s;
}

// What `watch` ends with: gaps, and what is too short for one.
inline Balance watch_balance() {
    Balance b;
    b.watched_ns = 60'000'000'000;
    b.lost_ns = 168'900;
    b.explained_ns = 15'900;
    b.unexplained_ns = 153'000;
    b.inferred_ns = {{"firmware", 153'000}};
    b.breaches = 3;
    b.worst_ns = 153'000;
    b.gaps = 3;
    b.gap_threshold_ns = 1'000;
    b.kernel_gaps = 2;
    b.named_gaps = 1;
    b.below_threshold = 40;
    b.below_threshold_ns = 12'000;
    return b;
}

// A departure with all that one can have: an interrupt with a sender, something inside, an end that was not seen.
inline Breach breach() {
    Breach b;
    b.start_ns = kBegin + 12'481 * kMs;
    b.end_ns = b.start_ns + 9'000;
    b.departure_end_ns = b.start_ns + 11'800;
    b.cpu = 1;
    b.tid = b.tgid = 4400;
    b.cause = Cause::ipi;
    b.detail = "TLB flush (flush_tlb_func)";
    b.who = Party{0, 4411, 4400, "dataplane", false, 7, stack(kUnmap)};
    Breach soft;
    soft.start_ns = b.end_ns + 500;
    soft.end_ns = soft.start_ns + 2'000;
    soft.cpu = 1;
    soft.tid = soft.tgid = 4400;
    soft.cause = Cause::softirq;
    soft.detail = "TIMER";
    Breach signal = soft;
    signal.cause = Cause::signal;
    signal.detail = "SIGALRM";
    signal.end_seen = false;
    b.children = {soft, signal};
    return b;
}

inline Breach fault() {
    Breach b;
    b.start_ns = kBegin + 20 * kMs;
    b.end_ns = b.start_ns + 1'250;
    b.cpu = 1;
    b.tid = b.tgid = 4400;
    b.cause = Cause::fault;
    b.cls = Class::sync;
    b.detail = "minor, write";
    b.pc = 0x4011d6;
    b.address = 0x7fffdeadb000;
    b.start_seen = false;
    return b;
}

// Compares with golden/NAME. With CLOISTER_UPDATE_GOLDEN set, writes it instead, and fails so that nobody leaves it
// set.
inline void expect_golden(const std::string& name, const std::string& text) {
    const std::string path = std::string(CLOISTER_GOLDEN) + "/" + name;
    if (std::getenv("CLOISTER_UPDATE_GOLDEN") != nullptr) {
        std::ofstream(path, std::ios::binary) << text;
        FAIL() << path << " was written anew: look at the difference";
    }
    std::ifstream in(path, std::ios::binary);
    ASSERT_TRUE(in) << path;
    std::stringstream golden;
    golden << in.rdbuf();
    EXPECT_EQ(golden.str(), text) << path;
}

inline std::vector<std::string> lines(const std::string& text) {
    std::vector<std::string> out;
    std::stringstream in(text);
    for (std::string line; std::getline(in, line);) out.push_back(line);
    return out;
}

}  // namespace cloister::breach::sample
