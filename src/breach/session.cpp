#include "breach/session.hpp"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <map>
#include <set>

#include "breach/correlate.hpp"
#include "breach/gap_watch.hpp"
#include "breach/kernel_names.hpp"
#include "breach/mappings.hpp"
#include "breach/probe/probe.hpp"
#include "breach/soft_events.hpp"
#include "breach/tally.hpp"
#include "system/clock.hpp"
#include "system/files.hpp"
#include "system/proc.hpp"
#include "unwind/symbols.hpp"

namespace cloister::breach {

namespace {

// A record is written at most this long after the time it carries, unless the CPU was taken away in between (then the
// correlator sees it as late).
constexpr std::uint64_t kSettleNs = 2'000'000;

// How often it is looked whether the watched CPU is still online.
constexpr std::uint64_t kLookNs = 100'000'000;

// What each piece of kernel evidence shows, as the header's `sees` says it.
const std::vector<std::pair<Cause, const char*>> kTraced = {
    {Cause::syscall, "syscalls"},  {Cause::fault, "faults"},         {Cause::trap, "traps"},
    {Cause::signal, "signals"},    {Cause::tick, "ticks"},           {Cause::timer, "timers"},
    {Cause::irq, "irqs"},          {Cause::softirq, "softirqs"},     {Cause::ipi, "ipis"},
    {Cause::nmi, "nmis"},          {Cause::preempted, "preemption"}, {Cause::workqueue, "workqueues"},
    {Cause::migrated, "migration"}};

// Lines of /proc/interrupts that the probe's tracepoints show anyway. Numbered lines are device interrupts: traced too.
bool shown_by_tracepoint(const std::string& line) {
    static const std::set<std::string> shown = {"LOC", "RES", "CAL", "TLB", "IWI", "NMI",
                                                "SPU", "TRM", "THR", "DFR", "PLT"};
    return shown.contains(line) || line.find_first_not_of("0123456789") == std::string::npos;
}

Cause cause_of_line(const std::string& line) {
    if (line == "LOC") return Cause::tick;
    if (line == "RES" || line == "CAL" || line == "TLB") return Cause::ipi;
    if (line == "NMI" || line == "PMI") return Cause::nmi;
    return line.find_first_not_of("0123456789") == std::string::npos ? Cause::irq : Cause::interrupt;
}

std::string detail_of_line(const system::InterruptLine& line) {
    if (line.name == "LOC") return "local timer interrupt";
    if (line.name == "RES") return "reschedule";
    if (line.name == "CAL") return "function call";
    if (line.name == "TLB") return "TLB flush";
    return cause_of_line(line.name) == Cause::irq ? fmt::format("irq {} {}", line.name, line.description)
                                                  : fmt::format("{} {}", line.name, line.description);
}

cl_cell& operator+=(cl_cell& sum, const cl_site& site) {
    sum.first = sum.count ? std::min(sum.first, site.first) : site.first;
    sum.count += site.count;
    sum.total += site.total;
    sum.max = std::max(sum.max, site.max);
    sum.last = std::max(sum.last, site.last);
    return sum;
}

}  // namespace

std::uint64_t monotonic_ns() { return system::clock_ns(CLOCK_MONOTONIC); }

namespace {

class SessionImpl final : public Session, private RecordSink, private Names, private Resolver {
public:
    SessionImpl(SessionOptions options, SessionSinks sinks)
        : options_(std::move(options)),
          sinks_(std::move(sinks)),
          symbols_(spaces_),
          correlator_(
              *this, [this](const Breach& breach) { departed(breach); },
              [this](const Notice& notice) { tell(notice); }) {
        correlator_.expect_cpu(options_.cpu);
        header_.command = options_.command;
        header_.target = options_.target;
        header_.cpu = options_.cpu;
        header_.isolation = options_.topology.isolation_of(options_.cpu);
        header_.kernel = options_.topology.kernel;
        header_.gap_threshold_ns = options_.gap_ns;
    }

    void load() {
        const std::uint64_t start = monotonic_ns();
        const auto before = system::read_interrupts(options_.cpu);
        auto probe = Probe::load(options_.cpu, {});
        if (probe)
            probe_.emplace(std::move(*probe));
        else
            no_probe_ = probe.error();
        describe();
        header_.arming_ns = monotonic_ns() - start;
        for (const auto& line : system::rise(before, system::read_interrupts(options_.cpu)))
            if (line.name == "CAL" || line.name == "RES")
                header_.arming.push_back(fmt::format("{} {} interrupts", line.count, line.name));
    }

    Result<void> follow(pid_t tgid, bool drops_events) override {
        auto mappings = Mappings::follow(tgid, spaces_);
        if (mappings)
            mappings_.emplace(std::move(*mappings));
        else
            tell({0, "code mapped from now on is not followed: " + mappings.error().what + ": " +
                         mappings.error().found + (mappings.error().set.empty() ? "" : "; " + mappings.error().set)});
        spaces_.snapshot(static_cast<std::uint32_t>(tgid));
        if (!probe_) {
            Result<SoftEvents> soft = fail({.what = "the command changes its privileges when it starts",
                                            .found = "the kernel takes an ordinary user's perf events away then",
                                            .set = "run cloister as root"});
            if (!drops_events) soft = SoftEvents::follow(tgid);
            if (soft) {
                soft_.emplace(std::move(*soft));
                for (auto& blind : SoftEvents::blind()) header_.blind.push_back(std::move(blind));
            } else {
                blind_to_faults(soft.error());
            }
            return {};
        }
        // A thread made while they are being listed shows up in the next listing.
        std::set<pid_t> seen;
        for (bool more = true; more;) {
            more = false;
            for (const pid_t tid : system::threads_of(tgid)) {
                if (!seen.insert(tid).second) continue;
                more = true;
                const auto counters = system::read_task(tid);
                if (!counters) continue;  // gone again
                if (auto ok = probe_->add_thread(static_cast<std::uint32_t>(tid), static_cast<std::uint32_t>(tgid),
                                                 counters->comm);
                    !ok)
                    return ok;
            }
        }
        if (seen.empty())
            return fail({.what = fmt::format("cannot watch process {}", tgid),
                         .needs = "a process that is there",
                         .found = "no such process"});
        return {};
    }

    Result<void> follow_spinner() override {
        auto gaps = GapWatch::start(options_.cpu, options_.gap_ns, probe_.has_value(),
                                    [this](const Breach& breach) { inferred(breach); });
        if (!gaps) return fail(gaps.error());
        gaps_ = std::move(*gaps);
        if (!probe_) return {};
        const auto pid = static_cast<std::uint32_t>(gaps_->pid());
        return probe_->add_thread(pid, pid, "cloister-spin");
    }

    bool begin_on_exec(pid_t tid) override {
        if (probe_) probe_->begin_on_exec(static_cast<std::uint32_t>(tid));
        return probe_.has_value();
    }

    void begin() override {
        const std::uint64_t now = monotonic_ns();
        if (probe_) probe_->begin(now);
        if (gaps_) gaps_->go();
        note_begin(now);
    }

    [[nodiscard]] bool began() const override { return header_.begin_ns != 0; }

    bool poll() override {
        const std::uint64_t now = monotonic_ns();
        if (!began() && probe_ && probe_->began()) note_begin(probe_->began());
        drain();
        correlator_.advance(now - kSettleNs);
        if (gaps_) gaps_->advance(now - kSettleNs);
        const bool ended = gaps_ && !gaps_->why_ended().empty();
        if (ended || now - looked_ns_ >= kLookNs) look_at_cpu(now);
        if (ended && why_ended_.empty()) why_ended_ = gaps_->why_ended();
        return why_ended_.empty();
    }

    [[nodiscard]] const std::string& why_ended() const override { return why_ended_; }
    [[nodiscard]] const Header& header() const override { return header_; }
    [[nodiscard]] const Resolver& resolver() const override { return *this; }
    [[nodiscard]] std::vector<ThreadCounts> threads() const override {
        return probe_ ? probe_->threads() : std::vector<ThreadCounts>{};
    }

    [[nodiscard]] Summary finish(const std::optional<Usage>& usage) override {
        const std::uint64_t end = monotonic_ns();
        if (!began() && probe_ && probe_->began()) note_begin(probe_->began());
        if (probe_ && began()) probe_->end(end);
        if (gaps_) gaps_->stop();
        while (drain() > 0) correlator_.advance(end);
        if (probe_ && began()) probe_->open(*this);
        correlator_.finish(end);
        if (gaps_) gaps_->finish();

        Summary summary;
        if (probe_) exact_counters();
        machine_counters();
        if (soft_) {
            (void)soft_->totals();  // settles lost(); where a counter cannot be read, that stays a lower bound
            tally_.counted(Cause::fault, "of which there is no record", soft_->lost());
        }
        if (!probe_ && usage) task_counters(*usage);
        summary.header = header_;
        summary.rows = tally_.rows();
        if (probe_) summary.threads = probe_->threads();
        balance(summary.balance, end);
        summary.notices = std::move(notices_);
        return summary;
    }

private:
    // ---- RecordSink, Names, Resolver ----
    void record(const cl_record& record) override { correlator_.feed(record); }
    void stack(StackPtr stack) override {
        // The sender of an IPI may be any process: its mappings are read when it is first seen, while it is still
        // there.
        if (stack->ip && !spaces_.knows(stack->tgid)) spaces_.snapshot(stack->tgid);
        correlator_.feed(stack);
    }
    [[nodiscard]] std::string kernel_function(std::uint64_t address) const override {
        return symbols_.kernel_function(address);
    }
    [[nodiscard]] std::vector<unwind::Frame> user(const cl_stack& stack) const override { return symbols_.user(stack); }
    [[nodiscard]] std::vector<unwind::Frame> kernel(const cl_stack& stack) const override {
        return symbols_.kernel(stack);
    }
    [[nodiscard]] std::vector<unwind::Frame> user_pc(std::uint32_t tgid, std::uint64_t pc) const override {
        return symbols_.user(tgid, pc, false);
    }

    std::size_t drain() {
        if (mappings_) mappings_->drain();
        const std::size_t n = probe_ ? probe_->drain(*this) : 0;
        if (soft_)
            soft_->drain(
                [this](const cl_record& r) {
                    if (began()) correlator_.feed(r);
                },
                [this](const StackPtr& s) {
                    if (began()) correlator_.feed(s);
                });
        return n;
    }

    void departed(const Breach& breach) {
        tally_.add(breach);
        if (gaps_) gaps_->departure(breach);
        if (sinks_.breach) sinks_.breach(breach);
    }

    // What the gap detector infers: not a departure of its own, but it is a row and a line.
    void inferred(const Breach& breach) {
        tally_.add(breach);
        if (sinks_.breach) sinks_.breach(breach);
    }

    void tell(Notice notice) {
        if (!notice.t_ns) notice.t_ns = monotonic_ns();
        notices_.push_back(notice);
        if (sinks_.notice) sinks_.notice(notice);
    }

    // The list is read from memory: nothing reaches the watched CPU. One that cannot be read says nothing.
    void look_at_cpu(std::uint64_t now) {
        looked_ns_ = now;
        const auto online = system::parse_cpu_list(system::read_word("/sys/devices/system/cpu/online"));
        if (!why_ended_.empty() || !online || online->empty() || online->has(options_.cpu)) return;
        why_ended_ = fmt::format(
            "cpu {0} was taken offline (echo 1 | sudo tee /sys/devices/system/cpu/cpu{0}/online brings it back)",
            options_.cpu);
        tell({now, why_ended_});
    }

    void note_begin(std::uint64_t ns) {
        header_.begin_ns = ns;
        header_.begin_unix_ns = static_cast<std::int64_t>(system::clock_ns(CLOCK_REALTIME)) -
                                static_cast<std::int64_t>(monotonic_ns() - ns);
        interrupts_before_ = system::read_interrupts(options_.cpu);
    }

    // What can be seen with these privileges, what not, why, and the command that lifts it.
    void describe() {
        if (options_.gap_ns == 0)
            header_.blind.push_back({"firmware and hypervisor", "run has no gap detector",
                                     fmt::format("{} watch -c {}", options_.self, options_.cpu)});
        if (probe_) {
            std::set<Cause> lost;
            std::map<std::string, std::string> missing;  // what is not seen -> the tracepoints that it takes
            for (const auto& [cause, tracepoint] : probe_->missing()) {
                const bool sender = tracepoint == "csd_queue_cpu" || tracepoint == "ipi_send_cpu";
                const bool function = tracepoint == "csd_function_entry";
                if (!sender && !function) lost.insert(cause);
                std::string& names = missing[sender     ? "senders of ipis"
                                             : function ? "functions of ipis"
                                                        : std::string(name(cause))];
                names += (names.empty() ? "" : ", ") + tracepoint;
            }
            for (const auto& [what, tracepoints] : missing)
                header_.blind.push_back({what, "this kernel has no tracepoint " + tracepoints, ""});
            for (const auto& [cause, text] : kTraced)
                if (!lost.contains(cause)) header_.sees.emplace_back(text);
            return;
        }
        header_.sees = {"interrupts of the cpu (counted)"};
        if (options_.command == "run") header_.sees.emplace_back("context switches of the task (counted)");
        const std::string why = no_probe_.what + ": " + no_probe_.found + " (needs " + no_probe_.needs + ")";
        header_.blind.push_back(
            {"syscalls, traps, signals, timers, softirqs, preemption, workqueues, migration, senders of ipis; ticks, "
             "irqs, ipis "
             "and nmis are only counted",
             why, no_probe_.set});
        const auto counting = system::probe_counting();
        if (!counting.page_faults) header_.blind.push_back({"faults one by one", counting.page_faults_why, ""});
        if (!counting.context_switches)
            header_.blind.push_back({"switches one by one", counting.context_switches_why, ""});
        if (counting.page_faults && options_.gap_ns == 0) header_.sees.insert(header_.sees.begin(), "faults");
        if (options_.gap_ns) header_.sees.emplace_back("gaps");
    }

    void blind_to_faults(const Error& error) {
        std::erase(header_.sees, "faults");
        header_.blind.push_back({"faults one by one", error.what + ": " + error.found, error.set});
    }

    // The probe's counters are exact also where records were thinned out or dropped.
    void exact_counters() {
        for (const bool away : {false, true})
            for (const auto& [nr, cell] : probe_->syscalls(away))
                tally_.exact(Cause::syscall, syscall_name(nr), cell, away);
        std::map<std::pair<std::string, bool>, cl_cell> faults;
        std::uint64_t in_sites = 0;
        const auto sites = probe_->sites();
        for (const auto& [key, site] : sites) {
            if ((site.kind & ~CL_AWAY) != CL_FAULT) continue;
            faults[{fault_detail(site.aux & 0xffff, site.aux >> 16), (site.kind & CL_AWAY) != 0}] += site;
            in_sites += site.count;
        }
        for (const auto& [row, cell] : faults) tally_.exact(Cause::fault, row.first, cell, row.second);
        for (const auto& [key, site] : sites) {
            const bool away = (site.kind & CL_AWAY) != 0, fault = (site.kind & ~CL_AWAY) == CL_FAULT;
            if (!fault && (site.kind & ~CL_AWAY) != CL_SYSCALL) continue;
            tally_.exact_site(fault ? Cause::fault : Cause::syscall,
                              fault ? fault_detail(site.aux & 0xffff, site.aux >> 16) : syscall_name(site.aux), key,
                              site, correlator_.stack_of_site(key), away);
        }
        std::uint64_t all = 0;
        for (const auto& thread : probe_->threads())
            all += thread.faults_minor + thread.faults_major + thread.faults_failed;
        if (all > in_sites) tally_.counted(Cause::fault, "at places that found no room in the table", all - in_sites);
        const auto drops = probe_->drops();
        if (drops.threads_unwatched)
            tell({0, fmt::format("{} threads were not watched: more than {} were alive at a time",
                                 drops.threads_unwatched, static_cast<int>(CL_SLOTS) - 1)});
        if (correlator_.stats().orphans)
            tell({0, fmt::format("{} inner events stand alone: what they happened in was not recorded",
                                 correlator_.stats().orphans)});
    }

    void machine_counters() {
        if (!began()) return;
        for (const auto& line : system::rise(interrupts_before_, system::read_interrupts(options_.cpu))) {
            if (line.name == "ERR" || line.name == "MIS") continue;  // not per CPU
            if (probe_ && shown_by_tracepoint(line.name)) continue;
            tally_.counted(cause_of_line(line.name), detail_of_line(line), line.count);
        }
    }

    void task_counters(const Usage& usage) {
        tally_.counted(Cause::blocked, "(voluntary context switches)", usage.voluntary);
        tally_.counted(Cause::preempted, "(involuntary context switches)", usage.involuntary);
        if (!soft_) {
            tally_.counted(Cause::fault, "minor", usage.minor_faults);
            tally_.counted(Cause::fault, "major", usage.major_faults);
        }
    }

    void balance(Balance& balance, std::uint64_t end) {
        balance.watched_ns = began() && end > header_.begin_ns ? end - header_.begin_ns : 0;
        balance.breaches = tally_.departures();
        balance.worst_ns = tally_.worst_ns();
        if (probe_) {
            const auto drops = probe_->drops();
            balance.dropped = drops.total;
            balance.dropped_by_kind = drops.by_kind;
        }
        if (const std::uint64_t lost = soft_ ? soft_->lost() : 0) {
            balance.dropped += lost;
            balance.dropped_by_kind["fault"] += lost;
        }
        if (gaps_) {
            gaps_->fill(balance);
            return;
        }
        if (!probe_ || !began()) return;
        // The probe adds up the time in which a watched thread ran its own code, whatever was recorded; the rest was
        // lost, and every way out of that code was traced. Time lost without any kernel entry stays unknown.
        const std::uint64_t kept = std::min(probe_->kept_ns(options_.cpu, end), balance.watched_ns);
        balance.lost_ns = balance.watched_ns - kept;
        balance.explained_ns = balance.lost_ns;
    }

    SessionOptions options_;
    SessionSinks sinks_;
    Header header_;
    std::optional<Probe> probe_;
    Error no_probe_;
    unwind::AddressSpaces spaces_;
    unwind::Symbols symbols_;
    std::optional<Mappings> mappings_;
    std::optional<SoftEvents> soft_;
    std::unique_ptr<GapWatch> gaps_;
    Correlator correlator_;
    Tally tally_{options_.cpu};
    std::vector<Notice> notices_;
    std::vector<system::InterruptLine> interrupts_before_;
    std::string why_ended_;
    std::uint64_t looked_ns_ = 0;
};

}  // namespace

Result<std::unique_ptr<Session>> Session::arm(SessionOptions options, SessionSinks sinks) {
    auto session = std::make_unique<SessionImpl>(std::move(options), std::move(sinks));
    session->load();
    return session;
}

}  // namespace cloister::breach
