// The words that every report speaks: a breach, what is inside it, who caused it, how it is known.
//
// One breach is one departure of a watched thread from its own code. What happens inside it is its children; a softirq
// or a switch to another task that follows an interrupt before the thread runs again belongs to the same departure.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "breach/probe/record.h"

namespace cloister::breach {

// Whose doing it is: syscall and sync are the program's own, async the machine's and other tasks'.
enum class Class : std::uint8_t { syscall, sync, async };

// traced: entry and exit were seen; counted: a counter says that it happened; inferred: only its absence elsewhere
// does.
enum class Known : std::uint8_t { traced, counted, inferred };

enum class Cause : std::uint8_t {
    syscall,    // detail: name
    fault,      // "minor, write" ...
    trap,       // a signal that an exception of the thread's own raised: "SIGFPE, integer divide by zero"
    signal,     // delivered: "SIGALRM"
    tick,       // local timer interrupt that ran the scheduler tick
    timer,      // local timer interrupt for another timer: detail = function; also a timer inside a softirq
    irq,        // "irq 36 virtio1-req.0"
    softirq,    // "TIMER"
    ipi,        // "TLB flush (flush_tlb_func)", "reschedule", "function call: ipi_mb"
    nmi,        // handler
    preempted,  // runnable but switched out: by whom
    blocked,    // gave the CPU up itself: inside a syscall or fault, "in nanosleep"
    workqueue,  // work item's function
    migrated,   // moved to another CPU: "1 -> 0"
    interrupt,  // another APIC vector: "thermal", "irq_work", "HYP hypervisor callback"
    firmware,   // time lost with no kernel entry: hypervisor or firmware
    entry,      // time at the edges of traced breaches: entry, exit and what the processor does around them
    unseen,     // a gap with kernel activity that no tracepoint names
};

[[nodiscard]] std::string_view name(Class);
[[nodiscard]] std::string_view name(Known);
[[nodiscard]] std::string_view name(Cause);
[[nodiscard]] std::optional<Cause> cause_named(std::string_view);
// The class a cause has when nothing else is known of it.
[[nodiscard]] Class class_of(Cause);

using StackPtr = std::shared_ptr<const cl_stack>;

// Who sent an IPI or a signal, queued a work item, or took the CPU.
struct Party {
    int cpu = -1;  // -1: not known
    std::uint32_t tid = 0, tgid = 0;
    std::string comm;
    bool observer = false;   // cloister itself
    std::uint64_t site = 0;  // the code that did it, 0 if not known
    StackPtr stack;          // of this very event, or of another from the same site; may be null
    bool interrupt = false;  // an interrupt or softirq there: no task's doing (tid and tgid 0, comm empty)

    // "logger/4411 on cpu 0"; "kernel" when tid is 0 (idle or interrupt context).
    [[nodiscard]] std::string text() const;
};

struct Breach {
    std::uint64_t start_ns = 0, end_ns = 0;  // CLOCK_MONOTONIC, this node's own interval
    std::uint64_t departure_end_ns = 0;      // root only: when the thread was back in its own code (>= end_ns)
    int cpu = -1;
    std::uint32_t tid = 0, tgid = 0;  // the thread that lost the time
    Cause cause = Cause::unseen;
    Class cls = Class::async;
    Known known = Known::traced;
    std::string detail;
    std::optional<Party> who;           // sender, preemptor, signal's origin
    std::uint64_t pc = 0, address = 0;  // faults: the instruction and the address; else 0
    std::uint64_t site = 0;
    StackPtr stack;  // where in the program it happened
    bool end_seen = true, start_seen = true;
    std::vector<Breach> children;

    [[nodiscard]] std::uint64_t duration_ns() const { return end_ns - start_ns; }
    [[nodiscard]] std::uint64_t departure_ns() const {
        return (departure_end_ns ? departure_end_ns : end_ns) - start_ns;
    }
};

// One line of the closing table: everything that had the same cause, offender and place in the tree.
struct Row {
    Cause cause = Cause::unseen;
    Class cls = Class::async;
    Known known = Known::traced;
    std::string detail;
    std::string who;     // Party::text() of the offender; empty if none
    std::string inside;  // path of what it lies in: "tick", "tick > softirq TIMER"; empty for a departure's first cause
    int depth = 0;
    bool away = false;  // happened to a thread of the task on another CPU than the watched one
    bool observer = false;
    std::uint64_t count = 0, total_ns = 0, max_ns = 0;  // of the own intervals, children included
    std::uint64_t first_ns = 0, last_ns = 0;            // CLOCK_MONOTONIC
    std::uint64_t end_unseen = 0;                       // how many have no seen end (their time is not in total_ns)
    std::uint64_t recorded = 0;  // how many of count were recorded one by one (the rest only counted)
    // Where it came from: sites, most frequent first when reported; bounded.
    struct Site {
        std::uint64_t count = 0;
        StackPtr stack;  // the program's for syscall and sync, the sender's for async; may be null
        std::uint64_t pc = 0;
        std::uint32_t tgid = 0;
    };
    std::map<std::uint64_t, Site> sites;
    std::uint64_t sites_over = 0;  // events at sites that found no room here
};

// A thread's exact counters.
struct ThreadCounts {
    std::uint32_t tid = 0, tgid = 0;
    std::string comm;
    bool shared = false;  // holds more than one thread
    bool live = false;
    std::uint64_t syscalls = 0, faults_minor = 0, faults_major = 0, faults_failed = 0;
    std::uint64_t switches_voluntary = 0, switches_involuntary = 0, migrations = 0, signals = 0;
};

struct Balance {
    std::uint64_t watched_ns = 0;
    std::optional<std::uint64_t> lost_ns;  // empty: not known
    std::optional<std::uint64_t> explained_ns;
    std::optional<std::uint64_t> unexplained_ns;       // empty: unknown (no gap detector)
    std::map<std::string, std::uint64_t> inferred_ns;  // parts of unexplained under their likely names
    std::uint64_t breaches = 0, worst_ns = 0;          // departures
    std::uint64_t dropped = 0;                         // records
    std::map<std::string, std::uint64_t> dropped_by_kind;
    std::uint64_t gaps = 0, gap_threshold_ns = 0;   // watch only
    std::uint64_t kernel_gaps = 0, named_gaps = 0;  // gaps in which the kernel was entered; those explained by name
    std::uint64_t below_threshold = 0, below_threshold_ns = 0;  // departures too short for a gap; not part of lost_ns
};

struct Header {
    std::string command;  // "run" or "watch"
    int cpu = -1;
    std::string isolation;  // "nohz_full, domain-isolated" or "none"
    std::string kernel;
    std::vector<std::string> sees;  // names of causes
    struct Blind {
        std::string what, why, lift;  // lift: the command that would lift it; may be empty
    };
    std::vector<Blind> blind;
    std::string target;          // "CMD ARGS", "pid 4711", or "built-in spinner"
    std::uint64_t begin_ns = 0;  // CLOCK_MONOTONIC of t = 0
    std::int64_t begin_unix_ns = 0;
    std::uint64_t gap_threshold_ns = 0;
    std::uint64_t arming_ns = 0;      // from start to armed
    std::vector<std::string> arming;  // what arming cost on the watched CPU, cloister's own
};

struct Notice {  // something that the reader must know: "thread 4711 moved itself to cpu 0"
    std::uint64_t t_ns = 0;
    std::string text;
};

// What a watch ends with; everything that a report needs.
struct Summary {
    Header header;
    std::vector<Row> rows;
    std::vector<ThreadCounts> threads;
    std::vector<Notice> notices;
    Balance balance;
};

}  // namespace cloister::breach
