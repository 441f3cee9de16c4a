#include "breach/correlate.hpp"

#include <algorithm>
#include <cstring>
#include <deque>
#include <iterator>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "breach/kernel_names.hpp"
#include "breach/naming.hpp"

namespace cloister::breach {

namespace {

// Inner and outer interval read the clock one after the other, on CPUs whose clocks may differ by this much.
constexpr std::uint64_t kSlackNs = 50;
// What follows a departure so soon happens before the thread is back in its own code: the kernel runs softirqs after
// the interrupt's exit tracepoint, and switches tasks and delivers signals on its way out.
constexpr std::uint64_t kFollowNs = 20'000;
// The same inside a syscall, which may raise softirqs of its own.
constexpr std::uint64_t kInnerFollowNs = 5'000;
constexpr std::size_t kMaxPending = 16384;  // inner intervals of one thread
constexpr std::size_t kMaxThreads = 16384;
constexpr std::size_t kMaxNotices = 1024;

constexpr std::uint32_t kInside = CL_IN_SYSCALL | CL_IN_FAULT | CL_IN_IRQ | CL_IN_OFFCPU;

// Kinds by which a thread leaves its own code; the others only happen on the way back.
bool is_entry(std::uint16_t kind) {
    return kind == CL_SYSCALL || kind == CL_FAULT || kind == CL_NMI || is_interrupt(kind);
}

bool contains(const Breach& outer, const Breach& inner) {
    if (inner.start_ns + kSlackNs < outer.start_ns || inner.end_ns > outer.end_ns + kSlackNs) return false;
    const bool point = inner.start_ns == inner.end_ns;
    return point || (inner.end_ns > outer.start_ns && inner.start_ns < outer.end_ns);
}

std::uint64_t end_of(const Node& node) { return node.breach.end_ns; }

bool follows(std::uint64_t reach_ns, std::uint64_t start_ns, std::uint64_t within_ns) {
    return start_ns + kSlackNs >= reach_ns && start_ns < reach_ns + within_ns;
}

}  // namespace

struct Correlator::Impl {
    struct Item {
        cl_record record;
        StackPtr stack;
    };
    struct Thread {
        std::vector<Node> pending;  // in order of their end
        std::optional<Node> held;   // the last departure, as long as something may follow it
        std::string comm;
    };

    Impl(const Names& names, Sink sink_, NoticeSink notices_)
        : namer(names, stacks), sink(std::move(sink_)), notices(std::move(notices_)) {}

    void advance(std::uint64_t to_ns);
    void process(const cl_record& record, StackPtr stack);
    void control(const cl_record& record);
    void interval(const cl_record& record, StackPtr stack);
    void adopt(Thread& thread, Node& node);
    void pend(Thread& thread, Node node);
    // It came late, and what it lies in or follows is still held.
    [[nodiscard]] bool belongs_late(const Thread& thread, const Node& node) const;
    void depart(Thread& thread, Node node);
    void append(Thread& thread, Node node);
    void hold(Thread& thread, Node node);
    void emit(Node node);
    void emit_held(Thread& thread);
    // Pending intervals up to `end` become departures of their own; as orphans when their outer ones are lost.
    void release(Thread& thread, std::vector<Node>::iterator end);
    void orphan(Thread& thread, std::vector<Node>::iterator end);
    void finish(Thread& thread, std::uint64_t end_ns);
    void exit(const cl_record& record);
    void notice_move(const cl_record& record, const Breach& move);
    Thread& thread_of(std::uint32_t tid);

    Stacks stacks;
    Namer namer;
    Sink sink;
    NoticeSink notices;
    int expected_cpu = -1;
    std::vector<Item> buffer;  // fed, not yet passed by the watermark
    std::uint64_t watermark = 0;
    std::unordered_map<std::uint32_t, Thread> threads;
    std::deque<std::pair<std::uint64_t, std::uint32_t>> deadlines;  // when a thread's held departure may go
    std::set<std::pair<std::uint32_t, std::uint64_t>> noticed;
    Stats stats;
};

void Correlator::Impl::advance(std::uint64_t to_ns) {
    struct Key {
        std::uint64_t end;
        std::size_t index;  // in a ring, inner intervals come before outer ones that end in the same nanosecond
        auto operator<=>(const Key&) const = default;
    };
    std::vector<Key> due;
    for (std::size_t i = 0; i < buffer.size(); ++i)
        if (buffer[i].record.end <= to_ns) due.push_back({buffer[i].record.end, i});
    std::ranges::sort(due);
    for (const Key& key : due) process(buffer[key.index].record, std::move(buffer[key.index].stack));
    std::erase_if(buffer, [&](const Item& item) { return item.record.end <= to_ns; });

    while (!deadlines.empty() && deadlines.front().first < to_ns) {
        const auto found = threads.find(deadlines.front().second);
        deadlines.pop_front();
        if (found != threads.end() && found->second.held && found->second.held->reach_ns + kHoldNs < to_ns)
            emit_held(found->second);
    }
    watermark = std::max(watermark, to_ns);
}

void Correlator::Impl::process(const cl_record& record, StackPtr stack) {
    switch (record.kind) {
        case CL_CSD_QUEUE:
        case CL_RESCHED_SEND:
        case CL_WORK_QUEUE:
        case CL_SIGNAL_GENERATE:
            namer.note_send(record, std::move(stack));
            break;
        case CL_FORK:
        case CL_EXEC:
        case CL_EXIT:
            control(record);
            break;
        default:
            interval(record, std::move(stack));
            break;
    }
}

Correlator::Impl::Thread& Correlator::Impl::thread_of(std::uint32_t tid) {
    if (threads.size() >= kMaxThreads && !threads.contains(tid)) {
        // Threads whose exit was lost; those that are alive come back with their next record.
        for (auto& [_, thread] : threads) emit_held(thread);
        std::erase_if(threads, [](const auto& entry) { return entry.second.pending.empty(); });
        if (threads.size() >= kMaxThreads)
            for (auto& [_, thread] : threads) orphan(thread, thread.pending.end());
    }
    return threads[tid];
}

void Correlator::Impl::control(const cl_record& record) {
    if (record.kind == CL_EXEC) {
        thread_of(record.tid).comm.assign(record.comm, strnlen(record.comm, sizeof record.comm));
    } else if (record.kind == CL_FORK) {
        std::string comm = thread_of(record.tid).comm;
        Thread& child = thread_of(static_cast<std::uint32_t>(record.a));
        emit_held(child);  // of an earlier thread with this id, whose exit was lost
        orphan(child, child.pending.end());
        child.comm = std::move(comm);
    } else {
        exit(record);
    }
}

void Correlator::Impl::exit(const cl_record& record) {
    if (const auto found = threads.find(record.tid); found != threads.end()) {
        Thread& thread = found->second;
        emit_held(thread);
        // What happens inside exit takes no time from a thread that never returns.
        std::erase_if(thread.pending, [](const Node& node) {
            return is_syscall(node.sys_nr, "exit") || is_syscall(node.sys_nr, "exit_group");
        });
        orphan(thread, thread.pending.end());
        threads.erase(found);
    }
    if (record.tid == record.tgid) namer.forget_process(record.tgid);
}

void Correlator::Impl::interval(const cl_record& record, StackPtr stack) {
    Node node = namer.node(record, std::move(stack));
    Thread& thread = thread_of(record.tid);
    adopt(thread, node);
    if (record.kind == CL_MIGRATE) notice_move(record, node.breach);
    if (node.flags & kInside)  // the outer interval is still to come
        pend(thread, std::move(node));
    else
        depart(thread, std::move(node));
}

void Correlator::Impl::adopt(Thread& thread, Node& node) {
    auto& pending = thread.pending;
    const auto inside = [&](const Node& inner) { return contains(node.breach, inner.breach); };
    auto first = pending.end();  // those before it ended before this began
    bool all = true;
    while (first != pending.begin() && std::prev(first)->breach.end_ns + kSlackNs >= node.breach.start_ns) {
        --first;
        all = all && inside(*first);
    }
    if (!all) first = std::stable_partition(first, pending.end(), [&](const Node& inner) { return !inside(inner); });
    std::vector<Node> children(std::make_move_iterator(first), std::make_move_iterator(pending.end()));
    pending.erase(first, pending.end());
    for (const Node& child : children) node.reach_ns = std::max(node.reach_ns, child.breach.end_ns);
    namer.adopt(node, std::move(children));
}

void Correlator::Impl::pend(Thread& thread, Node node) {
    auto& pending = thread.pending;
    if (thread.held && (node.flags & kInside) == CL_IN_SYSCALL) {
        // An interrupt between the clock and the end of a syscall's record begins after the syscall's end.
        const Node& held = *thread.held;
        if (held.kind == CL_SYSCALL && held.breach.start_ns == node.sys_enter &&
            follows(held.reach_ns, node.breach.start_ns, kFollowNs))
            return append(thread, std::move(node));
    }
    if (belongs_late(thread, node)) return append(thread, std::move(node));
    if (node.kind == CL_SOFTIRQ && !pending.empty()) {
        Node& before = pending.back();
        if (is_interrupt(before.kind) && before.breach.cpu == node.breach.cpu &&
            (before.flags & kInside) == (node.flags & kInside) &&
            follows(before.reach_ns, node.breach.start_ns, kInnerFollowNs)) {
            before.reach_ns = std::max(before.reach_ns, node.breach.end_ns);
            before.breach.children.push_back(std::move(node.breach));
            return;
        }
    }
    if (pending.size() >= kMaxPending) orphan(thread, pending.begin() + kMaxPending / 2);
    const auto after = std::ranges::upper_bound(pending, node.breach.end_ns, {}, end_of);
    pending.insert(after, std::move(node));  // at the end, but for one that came late
}

bool Correlator::Impl::belongs_late(const Thread& thread, const Node& node) const {
    return thread.held && node.breach.end_ns < watermark && node.breach.end_ns <= thread.held->reach_ns &&
           node.breach.start_ns + kSlackNs >= thread.held->breach.start_ns;
}

void Correlator::Impl::depart(Thread& thread, Node node) {
    if (belongs_late(thread, node)) return append(thread, std::move(node));
    // The thread was in its own code when this began: what ended before has lost its outer interval.
    orphan(thread, std::ranges::upper_bound(thread.pending, node.breach.end_ns, {}, end_of));
    auto& held = thread.held;
    if (held && held->breach.start_ns >= node.breach.start_ns) {
        if (held->breach.end_ns > node.breach.end_ns) return emit(std::move(node));  // it came late
        // It lies inside without a flag: it came between the clock and the flag, or ended what has no seen end.
        node.reach_ns = std::max(node.reach_ns, held->reach_ns);
        node.breach.children.push_back(std::move(held->breach));
        held.reset();
        return hold(thread, std::move(node));
    }
    if (held && !is_entry(node.kind)) {
        const bool in_time = node.breach.end_ns <= held->reach_ns + kHoldNs;
        if (in_time && follows(held->reach_ns, node.breach.start_ns, kFollowNs)) return append(thread, std::move(node));
    }
    emit_held(thread);
    hold(thread, std::move(node));
}

void Correlator::Impl::append(Thread& thread, Node node) {
    Node& held = *thread.held;
    Breach* outer = &held.breach;
    for (bool deeper = node.breach.end_ns < held.reach_ns; deeper;) {  // it came late: what follows ends later
        const auto child =
            std::ranges::find_if(outer->children, [&](const Breach& c) { return contains(c, node.breach); });
        deeper = child != outer->children.end() && child->start_ns != child->end_ns;
        if (deeper) outer = &*child;
    }
    held.reach_ns = std::max(held.reach_ns, node.reach_ns);
    const auto after = std::ranges::upper_bound(outer->children, node.breach.end_ns, {}, &Breach::end_ns);
    outer->children.insert(after, std::move(node.breach));
    deadlines.emplace_back(held.reach_ns + kHoldNs, held.breach.tid);
}

void Correlator::Impl::hold(Thread& thread, Node node) {
    deadlines.emplace_back(node.reach_ns + kHoldNs, node.breach.tid);
    thread.held = std::move(node);
}

void Correlator::Impl::emit_held(Thread& thread) {
    if (!thread.held) return;
    Node node = std::move(*thread.held);
    thread.held.reset();
    emit(std::move(node));
}

void Correlator::Impl::emit(Node node) {
    node.breach.departure_end_ns = std::max(node.reach_ns, node.breach.end_ns);
    ++stats.departures;
    sink(node.breach);
}

void Correlator::Impl::release(Thread& thread, std::vector<Node>::iterator end) {
    auto& pending = thread.pending;
    if (pending.begin() == end) return;
    emit_held(thread);
    for (auto node = pending.begin(); node != end; ++node) emit(std::move(*node));
    pending.erase(pending.begin(), end);
}

void Correlator::Impl::orphan(Thread& thread, std::vector<Node>::iterator end) {
    stats.orphans += static_cast<std::uint64_t>(end - thread.pending.begin());
    release(thread, end);
}

void Correlator::Impl::finish(Thread& thread, std::uint64_t end_ns) {
    emit_held(thread);
    auto& pending = thread.pending;
    if (pending.empty()) return;
    const Node& last = pending.back();
    if (!(last.flags & CL_IN_SYSCALL) || last.sys_enter == 0) return release(thread, pending.end());
    // The thread is still in this syscall.
    Node open;
    open.kind = CL_SYSCALL;
    open.reach_ns = std::max(end_ns, last.breach.end_ns);
    open.breach.start_ns = last.sys_enter;
    open.breach.end_ns = open.reach_ns;
    open.breach.cpu = last.breach.cpu;
    open.breach.tid = last.breach.tid;
    open.breach.tgid = last.breach.tgid;
    open.breach.cause = Cause::syscall;
    open.breach.cls = Class::syscall;
    open.breach.detail = syscall_name(static_cast<std::uint64_t>(last.sys_nr));
    open.breach.end_seen = false;
    const auto of_it =
        std::ranges::find_if(pending, [&](const Node& node) { return node.sys_enter == open.breach.start_ns; });
    orphan(thread, of_it);
    adopt(thread, open);
    release(thread, pending.end());
    emit(std::move(open));
}

void Correlator::Impl::notice_move(const cl_record& record, const Breach& move) {
    if (expected_cpu < 0 || record.b == static_cast<std::uint64_t>(expected_cpu)) return;
    if (noticed.size() > kMaxNotices || !noticed.emplace(record.tid, record.b).second) return;
    if (noticed.size() > kMaxNotices) {
        notices({record.end, fmt::format("more threads moved to other CPUs; the first {} are listed", kMaxNotices)});
        return;
    }
    const std::string& comm = threads[record.tid].comm;
    std::string mover = move.who                     ? move.who->text()
                        : move.cls == Class::syscall ? "itself (sched_setaffinity)"
                                                     : "itself";
    notices({record.end, fmt::format("thread {}{} moved to cpu {} by {}; it is watched there too", record.tid,
                                     comm.empty() ? "" : fmt::format(" ({})", comm), record.b, mover)});
}

Correlator::Correlator(const Names& names, Sink sink, NoticeSink notices)
    : impl_(std::make_unique<Impl>(names, std::move(sink), std::move(notices))) {}

Correlator::~Correlator() = default;

void Correlator::expect_cpu(int cpu) { impl_->expected_cpu = cpu; }

void Correlator::feed(const cl_record& record) {
    ++impl_->stats.records;
    if (record.end < impl_->watermark) ++impl_->stats.late;
    impl_->buffer.push_back({record, impl_->stacks.take(record.stack)});
}

void Correlator::feed(const StackPtr& stack) { impl_->stacks.add(stack); }

void Correlator::advance(std::uint64_t watermark_ns) { impl_->advance(watermark_ns); }

void Correlator::finish(std::uint64_t end_ns) {
    // Everything that was fed counts, also what ended after the end of the watch.
    std::uint64_t last = end_ns;
    for (const auto& item : impl_->buffer) last = std::max(last, item.record.end);
    impl_->advance(last);
    std::vector<std::uint32_t> tids;
    for (const auto& [tid, _] : impl_->threads) tids.push_back(tid);
    std::ranges::sort(tids);
    for (const std::uint32_t tid : tids) impl_->finish(impl_->threads[tid], end_ns);
    impl_->threads.clear();
}

StackPtr Correlator::stack_of_site(std::uint64_t site) const { return impl_->stacks.of_site(site); }

const Correlator::Stats& Correlator::stats() const {
    impl_->stats.csd = impl_->namer.csd();
    impl_->stats.csd_paired = impl_->namer.csd_paired();
    return impl_->stats;
}

}  // namespace cloister::breach
