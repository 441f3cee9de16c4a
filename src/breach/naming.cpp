#include "breach/naming.hpp"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "base/control_thread.hpp"
#include "breach/kernel_names.hpp"

namespace cloister::breach {

namespace {

std::string comm_of(const cl_record& record) { return {record.comm, strnlen(record.comm, sizeof record.comm)}; }

std::string by(const cl_record& record) { return fmt::format("by {}", steady_comm(comm_of(record))); }

// The kernel has no csd_function_entry for it. Others that are left over may have run unrecorded: no guess is made.
bool runs_unseen(std::string_view function) { return function == "sched_ttwu_pending"; }

bool calls_functions(const Node& node) {
    return node.kind == CL_VECTOR &&
           (node.vector == CL_VEC_CALL_FUNCTION || node.vector == CL_VEC_CALL_FUNCTION_SINGLE);
}

void take_children(std::vector<Breach>& to, Breach& from) {
    std::move(from.children.begin(), from.children.end(), std::back_inserter(to));
}

// The detail of several children of one kind: theirs when they agree.
std::string common_detail(const std::vector<Node>& children, std::uint16_t kind, const char* several) {
    const std::string* common = nullptr;
    for (const Node& child : children) {
        if (child.kind != kind) continue;
        if (common && *common != child.breach.detail) return several;
        common = &child.breach.detail;
    }
    return *common;
}

}  // namespace

bool is_interrupt(std::uint16_t kind) { return kind == CL_VECTOR || kind == CL_IRQ; }

void Stacks::add(StackPtr stack) {
    if (stack->site != 0 && sites_.size() < kMaxSites) sites_.try_emplace(stack->site, stack);
    if (stack->id == 0) return;
    if (waiting_.size() >= kMaxWaiting) waiting_.clear();  // their records were dropped: it follows its stack at once
    waiting_[stack->id] = std::move(stack);
}

StackPtr Stacks::take(std::uint32_t id) {
    if (id == 0) return {};
    const auto found = waiting_.find(id);
    if (found == waiting_.end()) return {};
    StackPtr stack = std::move(found->second);
    waiting_.erase(found);
    return stack;
}

StackPtr Stacks::of_site(std::uint64_t site) const {
    if (site == 0) return {};
    const auto found = sites_.find(site);
    return found == sites_.end() ? StackPtr() : found->second;
}

const std::string& Namer::function(std::uint64_t address) {
    constexpr std::size_t kMaxFunctions = 65536;
    if (const auto found = functions_.find(address); found != functions_.end()) return found->second;
    if (functions_.size() >= kMaxFunctions) functions_.clear();
    return functions_[address] = base_function(names_.kernel_function(address));
}

Party Namer::party(const cl_record& record, int cpu, StackPtr stack) const {
    const bool interrupt = (record.flags & CL_BY_INTERRUPT) != 0;
    std::string comm = interrupt ? "" : comm_of(record);
    // The recorder's thread in a program makes tracepoints what `cloister record` asks for: its barriers are IPIs.
    const bool observer = (record.flags & CL_BY_OBSERVER) != 0 || comm == kControlThread;
    return {.cpu = cpu,
            .tid = interrupt ? 0 : record.who_tid,
            .tgid = interrupt ? 0 : record.who_tgid,
            .comm = std::move(comm),
            .observer = observer,
            .site = record.site,
            .stack = stack ? std::move(stack) : stacks_.of_site(record.site),
            .interrupt = interrupt};
}

bool Namer::note_send(const cl_record& record, StackPtr stack) {
    Party who = party(record, record.cpu, std::move(stack));
    switch (record.kind) {
        case CL_CSD_QUEUE:
            if (runs_unseen(function(record.c)))
                unseen_calls_.sent(static_cast<int>(record.a), {record.end, record.b, record.c, who});
            calls_.sent(record.b, static_cast<int>(record.a), record.end, std::move(who));
            return true;
        case CL_RESCHED_SEND:
            wakeups_.sent(0, static_cast<int>(record.a), record.end, std::move(who));
            return true;
        case CL_WORK_QUEUE:
            works_.sent(record.b, 0, record.end, std::move(who));
            return true;
        case CL_SIGNAL_GENERATE:
            signals_.sent(record.tgid, static_cast<int>(record.a),
                          {record.end, record.c ? 0 : record.tid, std::move(who)});
            return true;
        default:
            return false;
    }
}

Node Namer::node(const cl_record& record, StackPtr stack) {
    Node node;
    node.kind = record.kind;
    node.flags = record.flags;
    node.sys_nr = record.sys_nr;
    node.sys_enter = record.sys_enter;
    node.reach_ns = record.end;
    Breach& breach = node.breach;
    breach.start_ns = record.start;
    breach.end_ns = record.end;
    breach.cpu = record.cpu;
    breach.tid = record.tid;
    breach.tgid = record.tgid;
    breach.site = record.site;
    breach.stack = stack ? std::move(stack) : stacks_.of_site(record.site);
    breach.start_seen = !(record.flags & CL_START_UNSEEN);
    breach.end_seen = !(record.flags & CL_END_UNSEEN);
    const auto is = [&](Cause cause, Class cls, std::string detail) {
        breach.cause = cause;
        breach.cls = cls;
        breach.detail = std::move(detail);
    };
    switch (record.kind) {
        case CL_SYSCALL:
            is(Cause::syscall, Class::syscall, syscall_name(record.a));
            break;
        case CL_FAULT:
            is(Cause::fault, Class::sync, fault_detail(record.c, record.d));
            breach.address = record.a;
            breach.pc = record.b;
            if (record.d & (CL_FAULT_END_UNSEEN | CL_FAULT_POINT)) breach.end_seen = false;
            break;
        case CL_OFFCPU:
            name_offcpu(breach, record);
            break;
        case CL_OTHER:
            is(Cause::preempted, Class::async, by(record));
            breach.who = party(record, record.cpu);
            break;
        case CL_VECTOR:
            name_vector(node, record);
            break;
        case CL_IRQ:
            is(Cause::irq, Class::async, fmt::format("irq {} {}", record.a, comm_of(record)));
            break;
        case CL_SOFTIRQ:
            is(Cause::softirq, Class::async, softirq_name(record.a));
            break;
        case CL_HRTIMER:
        case CL_TIMER:
            is(Cause::timer, Class::async, function(record.a));
            break;
        case CL_CSD:
            is(Cause::ipi, Class::async, ipi_detail(function(record.a)));
            breach.who = calls_.ran(record.b, record.cpu, record.start);
            unseen_calls_.ran(record.cpu, record.b);
            ++csd_;
            csd_paired_ += breach.who.has_value();
            break;
        case CL_WORK:
            is(Cause::workqueue, Class::async, function(record.a));
            breach.who = works_.ran(record.b, 0, record.start);
            break;
        case CL_NMI:
            is(Cause::nmi, Class::async, function(record.a));
            break;
        case CL_SIGNAL_DELIVER:
            name_signal(breach, record);
            break;
        case CL_MIGRATE:
            name_migration(breach, record);
            break;
        default:
            is(Cause::unseen, Class::async, fmt::format("record of kind {}", record.kind));
            break;
    }
    return node;
}

void Namer::name_vector(Node& node, const cl_record& record) {
    Breach& breach = node.breach;
    node.vector = record.a;
    breach.cls = Class::async;
    switch (record.a) {
        case CL_VEC_LOCAL_TIMER:
            breach.cause = Cause::tick;
            break;
        case CL_VEC_RESCHEDULE:
            breach.cause = Cause::ipi;
            breach.detail = "reschedule";
            breach.who = wakeups_.ran(0, record.cpu, record.start);
            break;
        case CL_VEC_CALL_FUNCTION:
        case CL_VEC_CALL_FUNCTION_SINGLE:
            breach.cause = Cause::ipi;
            breach.detail = "function call";
            break;
        default:
            breach.cause = Cause::interrupt;
            breach.detail = vector_name(record.a, record.b);
            break;
    }
}

void Namer::name_offcpu(Breach& breach, const cl_record& record) const {
    constexpr std::uint64_t kStopped = 4 | 8;  // __TASK_STOPPED, __TASK_TRACED
    // The kernel counts a yield as involuntary: the task stays runnable.
    const bool yielded = is_syscall(record.sys_nr, "sched_yield") && !(record.flags & CL_IN_FAULT);
    if (yielded || record.b != 0) {
        breach.cause = yielded ? Cause::blocked : Cause::preempted;
        breach.cls = yielded ? Class::syscall : Class::async;
        breach.detail = yielded ? "yielded" : by(record);
        if (record.who_tid != 0) breach.who = party(record, static_cast<int>(record.c));
        return;
    }
    breach.cause = Cause::blocked;
    if (record.flags & CL_IN_FAULT) {
        breach.cls = Class::sync;
        breach.detail = "in page fault";
    } else if (record.sys_nr >= 0) {
        breach.cls = Class::syscall;
        breach.detail = fmt::format("in {}", syscall_name(static_cast<std::uint64_t>(record.sys_nr)));
    } else {
        breach.cls = Class::async;
        breach.detail = record.a & kStopped ? "stopped" : "on the way back from the kernel";
    }
}

void Namer::name_signal(Breach& breach, const cl_record& record) {
    const int signal = static_cast<int>(record.a), code = static_cast<int>(record.b);
    breach.end_seen = false;  // the kernel shows the delivery, not how long it takes
    breach.who = signals_.delivered(record.tgid, record.tid, signal, record.end);
    if (breach.who && is_timer_signal(signal, code)) {  // the task that its interrupt came upon did not send it
        const int cpu = breach.who->cpu;
        breach.who.emplace().cpu = cpu;
    }
    if (std::string trap = trap_detail(signal, code); !trap.empty()) {
        breach.cause = Cause::trap;
        breach.cls = Class::sync;
        breach.detail = std::move(trap);
        breach.address = record.d;
        breach.who.reset();
        return;
    }
    breach.cause = Cause::signal;
    breach.cls = breach.who && breach.who->tid != 0 && breach.who->tgid == record.tgid ? Class::sync : Class::async;
    breach.detail = signal_name(signal);
}

void Namer::name_migration(Breach& breach, const cl_record& record) const {
    breach.cause = Cause::migrated;
    breach.detail = fmt::format("{} -> {}", record.a, record.b);
    // Whoever sets its own affinity while it runs is moved by the CPU's stopper thread.
    const bool itself = record.who_tid == record.tid ||
                        (is_syscall(record.sys_nr, "sched_setaffinity") && comm_of(record).starts_with("migration/"));
    breach.cls = itself && is_syscall(record.sys_nr, "sched_setaffinity") ? Class::syscall : Class::async;
    if (!itself) breach.who = party(record, record.cpu);
}

void Namer::adopt(Node& parent, std::vector<Node> children) {
    Breach& breach = parent.breach;
    const auto count = [&](std::uint16_t kind) { return std::ranges::count(children, kind, &Node::kind); };
    const auto is_tick = [](const Node& child) {
        return child.kind == CL_HRTIMER && is_tick_function(child.breach.detail);
    };
    std::uint16_t said = CL_NONE;  // children of this kind say nothing new
    if (parent.kind == CL_VECTOR && parent.vector == CL_VEC_LOCAL_TIMER) {
        const auto timers = count(CL_HRTIMER);
        if (timers != 0 && std::ranges::none_of(children, is_tick)) {
            breach.cause = Cause::timer;
            breach.detail = common_detail(children, CL_HRTIMER, "several functions");
            if (timers == 1) said = CL_HRTIMER;
        }
    } else if (calls_functions(parent)) {
        const auto calls = count(CL_CSD);
        if (calls > 1) breach.detail = "function calls";
        if (calls == 0) {
            if (auto call = unseen_calls_.take(breach.cpu, breach.start_ns)) {
                breach.detail = ipi_detail(function(call->function));
                breach.who = std::move(call->who);
            }
        }
        if (calls == 1) {
            auto& call = std::ranges::find(children, CL_CSD, &Node::kind)->breach;
            breach.detail = call.detail;
            breach.who = std::move(call.who);
            said = CL_CSD;
        }
    } else if (parent.kind == CL_OFFCPU && breach.who && count(CL_OTHER) == 1) {
        const auto& other = std::ranges::find(children, CL_OTHER, &Node::kind)->breach;
        if (other.who->tid == breach.who->tid) said = CL_OTHER;
    }
    for (Node& child : children) {
        if ((said != CL_NONE && child.kind == said) || (breach.cause == Cause::tick && is_tick(child)))
            take_children(breach.children, child.breach);
        else
            breach.children.push_back(std::move(child.breach));
    }
}

}  // namespace cloister::breach
