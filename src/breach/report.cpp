#include "breach/report.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "breach/catalog.hpp"

namespace cloister::breach {

namespace {

constexpr int kLabelEnd = 27, kTextColumn = 29;  // of the lines below a row: "fix  what to do"
constexpr int kTail = 28;                        // known, first, last
constexpr int kNarrowestCause = 42;
constexpr std::size_t kTopDepartures = 25, kTopAway = 6, kTopInside = 4, kTopSites = 2, kSitesLooked = 32,
                      kTopFrames = 4, kTopOffenders = 5;
constexpr int kDeepest = 3;

// Names come from programs: an escape sequence in one must not reach the terminal.
std::string clean(std::string_view text) {
    std::string out(text);
    std::replace_if(
        out.begin(), out.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
    return out;
}

std::string paint(const TextStyle& style, std::string_view code, std::string_view text) {
    return style.colour && !code.empty() ? fmt::format("\x1b[{}m{}\x1b[0m", code, text) : std::string(text);
}

std::string_view colour_of(Class cls) {
    switch (cls) {
        case Class::syscall:
            return "36";
        case Class::sync:
            return "33";
        case Class::async:
            return "31";
    }
    return "0";
}

std::size_t characters(std::string_view text) {
    return static_cast<std::size_t>(std::count_if(
        text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0U) != 0x80U; }));
}

// At most `width` characters, never half of one.
std::string cut(std::string_view text, int width) {
    const auto fits = static_cast<std::size_t>(std::max(width, 4));
    if (characters(text) <= fits) return std::string(text);
    std::size_t at = 0;
    for (std::size_t n = 0; at < text.size(); ++at)
        if ((static_cast<unsigned char>(text[at]) & 0xc0U) != 0x80U && n++ == fits - 3) break;
    return fmt::format("{}...", text.substr(0, at));
}

std::string padded(std::string_view text, int width) {
    const int missing = width - static_cast<int>(characters(text));
    return std::string(text) + std::string(static_cast<std::size_t>(std::max(missing, 0)), ' ');
}

int cause_width(const TextStyle& style) { return std::clamp(style.width - kTextColumn - kTail, kNarrowestCause, 72); }

// A line below a row. It is broken, not cut, at the terminal's edge: half a remedy is none.
std::string note(std::string_view label, std::string_view text, const TextStyle& style, bool dim = false) {
    std::string out;
    const auto room = static_cast<std::size_t>(style.width > 0 ? std::max(style.width - kTextColumn, 30) : 1 << 20);
    while (!text.empty() || out.empty()) {
        std::size_t end = text.size();
        if (end > room) {
            end = text.rfind(' ', room);
            if (end == std::string_view::npos || end == 0) end = std::min(text.find(' '), text.size());
        }
        out += fmt::format("{:>{}}  {}\n", out.empty() ? label : "", kLabelEnd,
                           paint(style, dim ? "2" : "", text.substr(0, end)));
        text.remove_prefix(end);
        while (text.starts_with(' ')) text.remove_prefix(1);
    }
    return out;
}

std::string grouped(std::uint64_t n) {
    const std::string digits = fmt::format("{}", n);
    std::string out;
    for (std::size_t i = 0; i < digits.size(); ++i) {
        if (i > 0 && (digits.size() - i) % 3 == 0) out += ',';
        out += digits[i];
    }
    return out;
}

std::string seconds(std::uint64_t t_ns, std::uint64_t begin_ns) {
    const auto relative = static_cast<double>(static_cast<std::int64_t>(t_ns - begin_ns)) / 1e9;
    return fmt::format("{:.3f} s", relative);
}

std::string share(std::uint64_t part, std::uint64_t whole) {
    const double ppm = whole == 0 ? 0 : 1e6 * static_cast<double>(part) / static_cast<double>(whole);
    return ppm < 10'000 ? fmt::format("{:.1f} ppm", ppm) : fmt::format("{:.1f}%", ppm / 1e4);
}

// What the row is about, and the other party if the words do not name it already.
struct Words {
    std::string cause, by;
};

Words words(Cause cause, std::string_view detail, std::string who, bool observer) {
    // Some details begin with the cause: "irq 36 virtio1", "syscall 999".
    const auto with = [detail](std::string_view prefix, std::string_view joint = " ") {
        if (detail.starts_with(fmt::format("{} ", prefix))) return std::string(detail);
        return detail.empty() ? std::string(prefix) : fmt::format("{}{}{}", prefix, joint, detail);
    };
    Words out;
    switch (cause) {
        case Cause::fault:
        case Cause::trap:
        case Cause::ipi:
        case Cause::interrupt:
            out.cause = with(name(cause), ": ");
            break;
        case Cause::preempted: {
            const std::string_view taker = detail.starts_with("by ") ? detail.substr(3) : detail;
            if (taker.size() == detail.size()) {  // only counted: by whom is not known
                out.cause = with("preempted");
                break;
            }
            out.cause = fmt::format("preempted by {}", taker);
            if (who.starts_with(fmt::format("{} on cpu", taker))) who.clear();  // a pool of kernel threads
            if (!taker.empty() && who.starts_with(fmt::format("{}/", taker))) {
                // The CPU is this one; the exact name says the rest.
                out.cause = fmt::format("preempted by {}", who.substr(0, who.find(" on cpu ")));
                who.clear();
            }
            break;
        }
        case Cause::firmware:
            out.cause = detail.empty() ? "no kernel entry: firmware or hypervisor"
                                       : fmt::format("firmware or hypervisor, {}", detail);
            break;
        case Cause::entry:
            out.cause = with("way into the kernel and back", ": ");
            break;
        case Cause::unseen:
            out.cause = with("kernel, but no tracepoint says what", ": ");
            break;
        default:
            out.cause = with(name(cause));
            break;
    }
    out.cause = clean(out.cause);
    out.by = clean(who);
    if (observer && out.by.find("cloister itself") == std::string::npos && !out.by.empty())
        out.by += " (cloister itself)";
    if (observer && out.by.empty()) out.by = "cloister itself";
    return out;
}

bool of_system(const unwind::Frame& frame) {
    constexpr auto kSystem =
        std::to_array<std::string_view>({"libc.so", "libc-", "ld-linux", "ld-2", "libpthread", "[vdso]"});
    return std::any_of(kSystem.begin(), kSystem.end(), [&](auto name) { return frame.module.starts_with(name); });
}

// Of the kernel's side only what sent, not how sending and tracing work.
bool of_plumbing(const unwind::Frame& frame) {
    constexpr auto kPlumbing =
        std::to_array<std::string_view>({"bpf_", "__bpf_", "__traceiter_", "smp_call_function", "on_each_cpu",
                                         "generic_exec_single", "arch_send_call"});
    return std::any_of(kPlumbing.begin(), kPlumbing.end(), [&](auto name) { return frame.function.starts_with(name); });
}

std::string chain(std::vector<unwind::Frame> frames) {
    // What called main is the same in every program.
    const auto main = std::find_if(frames.begin(), frames.end(), [](const auto& f) { return f.function == "main"; });
    if (main != frames.end()) frames.erase(main + 1, frames.end());
    std::vector<std::string> shown;
    const auto mine = std::find_if_not(frames.begin(), frames.end(), of_system);
    auto from = frames.begin();
    if (mine != frames.end() && mine - frames.begin() >= static_cast<std::ptrdiff_t>(kTopFrames)) {
        shown = {clean(frames.front().text()), "..."};
        from = mine;
    }
    for (; from != frames.end() && shown.size() < kTopFrames; ++from) shown.push_back(clean(from->text()));
    return fmt::format("{}", fmt::join(shown, " < "));
}

// Whether the kernel was interrupting the program: then the program's stack is only where it stood.
bool of_interrupt(const unwind::Frame& frame) {
    constexpr auto kEntries = std::to_array<std::string_view>({"asm_sysvec_", "asm_common_interrupt", "asm_exc_nmi"});
    return std::any_of(kEntries.begin(), kEntries.end(), [&](auto name) { return frame.function.starts_with(name); });
}

// The program's side; where the kernel acted by itself (a kernel thread, an interrupt), the kernel's.
std::string place(const cl_stack* stack, std::uint32_t tgid, std::uint64_t pc, const Resolver& resolver) {
    if (stack != nullptr) {
        auto kernel = resolver.kernel(*stack);
        const bool interrupt = std::any_of(kernel.begin(), kernel.end(), of_interrupt);
        if (!interrupt)
            if (const auto user = resolver.user(*stack); !user.empty()) return chain(user);
        const auto sender = std::find_if_not(kernel.begin(), kernel.end(), of_plumbing);
        if (sender != kernel.end()) kernel.erase(kernel.begin(), sender);
        if (!kernel.empty()) return chain(kernel);
    }
    return pc == 0 ? std::string() : chain(resolver.user_pc(tgid, pc));
}

class Table {
public:
    Table(const Summary& summary, const Resolver& resolver, const TextStyle& style, bool all)
        : summary_(summary), resolver_(resolver), style_(style), all_(all) {}

    std::string text() {
        out_ = fmt::format("{:>9}{:>9}{:>9}  {}{}{:>9}{:>9}\n", "COUNT", "TOTAL", "WORST",
                           padded("CAUSE", cause_width(style_)), "  KNOWN   ", "FIRST", "LAST");
        part(false, kTopDepartures);
        if (std::any_of(summary_.rows.begin(), summary_.rows.end(), [](const Row& row) { return row.away; })) {
            out_ += fmt::format("elsewhere: threads of this task on other cpus than {}\n", summary_.header.cpu);
            part(true, kTopAway);
        }
        return out_;
    }

private:
    // The rows of the watched CPU, or those of the task's threads elsewhere.
    void part(bool away, std::size_t most) {
        std::size_t departures = 0, left_out = 0;
        path_.clear();
        for (const Row& row : summary_.rows) {
            if (row.away != away) continue;
            if (row.depth == 0) {
                fold_note();
                ++departures;
            }
            if (!all_ && departures > most)
                ++left_out;
            else
                add(row);
        }
        fold_note();
        if (left_out > 0) out_ += fmt::format("... and {} more rows (--json - has all; --all shows them)\n", left_out);
    }

    const Summary& summary_;
    const Resolver& resolver_;
    const TextStyle& style_;
    bool all_;
    std::string out_, last_fix_;
    std::vector<const Row*> path_;         // the rows that the next one may lie in, outermost first
    std::size_t folded_ = 0, inside_ = 0;  // of the departure that is being shown

    bool hidden(const Row& row) const {
        if (all_ || path_.empty()) return false;
        const Row& parent = *path_.back();
        const bool small = row.end_unseen == 0 && row.total_ns * 100 < parent.total_ns;
        return row.depth > (row.away ? 1 : kDeepest) || small || inside_ >= kTopInside;
    }

    void add(const Row& row) {
        const auto depth = static_cast<std::size_t>(std::max(row.depth, 0));
        if (path_.size() > depth) path_.resize(depth);
        // What lies in a row that is not shown is not shown either.
        if (path_.size() < depth) {
            ++folded_;
            return;
        }
        if (depth == 0) inside_ = 0;
        if (hidden(row)) {
            ++folded_;
            return;
        }
        if (depth > 0) ++inside_;
        line(row);
        path_.push_back(&row);
    }

    void fold_note() {
        if (folded_ > 0)
            out_ += note(
                "", fmt::format("  and {} smaller row{} inside (--all shows them)", folded_, folded_ == 1 ? "" : "s"),
                style_, true);
        folded_ = 0;
    }

    void line(const Row& row) {
        const auto text = words(row.cause, row.detail, row.who, row.observer);
        const std::string cause = std::string(2 * path_.size(), ' ') + text.cause;
        const int width = cause_width(style_);
        const std::string shown = padded(style_.width > 0 ? cut(cause, width) : cause, width);
        std::string times;
        if (row.known == Known::counted && row.total_ns == 0)
            times = fmt::format("{:>18}", "not timed");
        else if (row.end_unseen > 0 && row.end_unseen >= row.count)
            times = fmt::format("{:>18}", "end not seen");
        else
            times = fmt::format("{:>9}{:>9}", format_duration(row.total_ns), format_duration(row.max_ns));
        const auto when = [&](std::uint64_t t) { return t == 0 ? "-" : seconds(t, summary_.header.begin_ns); };
        out_ += fmt::format("{:>9}{}  {}  {:<8}{:>9}{:>9}\n", grouped(row.count), times,
                            paint(style_, colour_of(row.cls), shown), name(row.known), when(row.first_ns),
                            when(row.last_ns));

        if (row.end_unseen > 0 && row.end_unseen < row.count)
            out_ += note("", fmt::format("{} x end not seen", grouped(row.end_unseen)), style_, true);
        if (row.recorded < row.count && row.known == Known::traced)
            out_ += note("",
                         fmt::format("(recorded {} of {}; counts and times are exact)", grouped(row.recorded),
                                     grouped(row.count)),
                         style_, true);
        if (!text.by.empty()) out_ += note("by", text.by, style_);
        sites(row);
        fix(row);
    }

    void sites(const Row& row) {
        std::vector<const Row::Site*> sorted;
        for (const auto& [key, site] : row.sites)
            if (site.stack || site.pc != 0) sorted.push_back(&site);
        std::stable_sort(sorted.begin(), sorted.end(), [](auto* a, auto* b) { return a->count > b->count; });
        const bool several = row.sites.size() > 1 || row.sites_over > 0;
        // Different instructions of one line are one place to a reader.
        if (sorted.size() > kSitesLooked) sorted.resize(kSitesLooked);
        std::vector<std::pair<std::string, std::uint64_t>> places;
        for (const auto* site : sorted) {
            const auto where = place(site->stack.get(), site->tgid, site->pc, resolver_);
            if (where.empty()) continue;
            const auto same =
                std::find_if(places.begin(), places.end(), [&](const auto& p) { return p.first == where; });
            if (same == places.end())
                places.emplace_back(where, site->count);
            else
                same->second += site->count;
        }
        std::stable_sort(places.begin(), places.end(), [](auto& a, auto& b) { return a.second > b.second; });
        if (places.size() > kTopSites) places.resize(kTopSites);
        for (const auto& [where, count] : places)
            out_ += note("at", several ? fmt::format("{} x {}", grouped(count), where) : where, style_);
    }

    // Waiting is what its syscall does, and has that one's remedy. What runs while the task is off the CPU costs it
    // nothing more, but a worker's function is why the worker ran.
    bool implied(const Row& row) const {
        if (row.cause == Cause::workqueue) return false;
        return std::any_of(path_.begin(), path_.end(), [&row](const Row* outer) {
            return outer->cause == Cause::blocked || outer->cause == Cause::preempted ||
                   (outer->cause == Cause::syscall && row.cause == Cause::blocked);
        });
    }

    void fix(const Row& row) {
        if (implied(row)) return;
        const auto text = clean(remedy(row, summary_.header.cpu));
        if (text != last_fix_) out_ += note("fix", text, style_, true);
        last_fix_ = text;
    }
};

std::string class_totals(const Summary& summary) {
    std::array<std::uint64_t, 3> count{}, total{};
    for (const auto& row : summary.rows) {
        if (row.depth != 0 || row.away) continue;
        count.at(static_cast<std::size_t>(row.cls)) += row.count;
        total.at(static_cast<std::size_t>(row.cls)) += row.total_ns;
    }
    std::vector<std::string> parts;
    for (const auto cls : {Class::syscall, Class::sync, Class::async}) {
        const auto i = static_cast<std::size_t>(cls);
        if (count.at(i) > 0)
            parts.push_back(fmt::format("{} {} ({})", name(cls), grouped(count.at(i)),
                                        total.at(i) == 0 ? "not timed" : format_duration(total.at(i))));
    }
    return parts.size() < 2 ? std::string() : fmt::format("classes  {}\n", fmt::join(parts, ", "));
}

std::string threads_text(const Summary& summary, bool all) {
    if (summary.threads.empty() || (summary.threads.size() == 1 && !all)) return {};
    std::string out = fmt::format("{:<24}{:>12}{:>9}{:>9}{:>9}{:>10}{:>10}{:>9}{:>9}\n", "THREAD", "SYSCALLS", "MINOR",
                                  "MAJOR", "FAILED", "YIELDED", "PREEMPTED", "MOVED", "SIGNALS");
    for (const auto& t : summary.threads) {
        const auto who = t.shared ? std::string("(several threads)") : clean(fmt::format("{}/{}", t.comm, t.tid));
        out += fmt::format("{}{:>12}{:>9}{:>9}{:>9}{:>10}{:>10}{:>9}{:>9}\n", padded(who, 24), grouped(t.syscalls),
                           grouped(t.faults_minor), grouped(t.faults_major), grouped(t.faults_failed),
                           grouped(t.switches_voluntary), grouped(t.switches_involuntary), grouped(t.migrations),
                           grouped(t.signals));
    }
    return out;
}

std::string nothing_found(const Summary& summary) {
    const auto& balance = summary.balance;
    if (balance.watched_ns == 0) return "no breach, because nothing was watched: the watch ended before it began\n";
    if (summary.header.sees.empty())
        return "no breach was seen, which says nothing: every cause is blind here (see above)\n";
    std::string out =
        fmt::format("no breach in {}: the task ran nothing but its own code, as far as these causes go: {}",
                    format_duration(balance.watched_ns), fmt::join(summary.header.sees, " "));
    if (!summary.header.blind.empty()) {
        std::vector<std::string> names;
        for (const auto& blind : summary.header.blind) names.push_back(blind.what);
        out += fmt::format("; not seen: {}", fmt::join(names, ", "));
    }
    if (balance.dropped > 0) out += fmt::format("; and {} records were dropped", grouped(balance.dropped));
    return clean(out) + "\n";
}

std::string balance_text(const Header& header, const Balance& balance) {
    std::string lost = "time lost unknown";
    const auto watched = format_duration(balance.watched_ns);
    if (balance.lost_ns)
        lost = fmt::format("{} lost ({} of {})", format_duration(*balance.lost_ns),
                           share(*balance.lost_ns, balance.watched_ns), watched);
    else if (balance.explained_ns)
        lost = fmt::format("at least {} lost ({} of {})", format_duration(*balance.explained_ns),
                           share(*balance.explained_ns, balance.watched_ns), watched);
    else
        lost += fmt::format(" of {}", watched);

    std::string unexplained;
    if (!balance.unexplained_ns) {
        const bool run = header.command == "run";
        unexplained = fmt::format("unknown ({})",
                                  run ? "run has no gap detector; `cloister watch` has one" : "no gap detector ran");
    } else {
        unexplained = format_duration(*balance.unexplained_ns);
        std::vector<std::string> parts;
        for (const auto& [what, ns] : balance.inferred_ns)
            parts.push_back(fmt::format("{} {}", clean(what), format_duration(ns)));
        if (!parts.empty()) unexplained += fmt::format(" (inferred: {})", fmt::join(parts, ", "));
    }
    std::string out = fmt::format("{} breach{}, {}, worst {}; explained {}, unexplained {}; records dropped {}",
                                  grouped(balance.breaches), balance.breaches == 1 ? "" : "es", lost,
                                  balance.breaches == 0 ? "-" : format_duration(balance.worst_ns),
                                  balance.explained_ns ? format_duration(*balance.explained_ns) : "unknown",
                                  unexplained, grouped(balance.dropped));
    if (!balance.dropped_by_kind.empty()) {
        std::vector<std::string> parts;
        for (const auto& [kind, n] : balance.dropped_by_kind) parts.push_back(fmt::format("{} {}", kind, grouped(n)));
        out += fmt::format(" ({})", fmt::join(parts, ", "));
    }
    if (balance.gap_threshold_ns > 0) {
        out += fmt::format("\n{} gap{} over {}: {} with kernel entries, {} of them named", grouped(balance.gaps),
                           balance.gaps == 1 ? "" : "s", format_duration(balance.gap_threshold_ns),
                           grouped(balance.kernel_gaps), grouped(balance.named_gaps));
        if (balance.below_threshold > 0)
            out += fmt::format("; {} departure{} too short for a gap took {} more", grouped(balance.below_threshold),
                               balance.below_threshold == 1 ? "" : "s", format_duration(balance.below_threshold_ns));
    }
    return out + "\n";
}

void log_node(std::string& out, const Header& header, const Breach& b, const Resolver& resolver, const TextStyle& style,
              int depth) {
    const auto text = words(b.cause, b.detail, b.who ? b.who->text() : "", b.who && b.who->observer);
    const std::string cause = std::string(2 * static_cast<std::size_t>(depth), ' ') + text.cause;
    const int width = cause_width(style) + kTail - 10;
    const std::string shown = style.width > 0 ? cut(cause, width) : cause;
    const auto lost =
        !b.end_seen ? std::string("end not seen")
                    : (b.start_seen ? "" : "> ") + format_duration(depth == 0 ? b.departure_ns() : b.duration_ns());
    out += fmt::format("{:>14} {:>12}  {}  {}\n", seconds(b.start_ns, header.begin_ns), lost,
                       paint(style, colour_of(b.cls), padded(shown, width)), name(b.known));
    if (!text.by.empty()) out += note("by", text.by, style);
    // Of what another CPU did, the sender's code matters, not where the task happened to be.
    const cl_stack* stack = b.cls == Class::async && b.who ? b.who->stack.get() : b.stack.get();
    if (const auto where = place(stack, b.tgid, b.pc, resolver); !where.empty()) out += note("at", where, style);
    for (const auto& child : b.children) log_node(out, header, child, resolver, style, depth + 1);
}

}  // namespace

TextStyle style_for(std::FILE* out) {
    TextStyle style{false, 0};
    const int fd = fileno(out);
    if (isatty(fd) == 0) return style;
    winsize size{};
    style.width = ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 100;
    const char* no_colour = std::getenv("NO_COLOR");
    const char* term = std::getenv("TERM");
    style.colour = (no_colour == nullptr || *no_colour == 0) && term != nullptr && std::string_view(term) != "dumb";
    return style;
}

std::string text_header(const Header& h, const TextStyle& style) {
    std::vector<std::string> parts{
        fmt::format("cpu {}   {}", h.cpu, h.isolation == "none" ? "no isolation" : h.isolation),
        fmt::format("kernel {}", h.kernel)};
    if (!h.target.empty()) parts.push_back(h.command == "run" ? fmt::format("cmd {}", h.target) : h.target);
    if (h.gap_threshold_ns > 0) parts.push_back(fmt::format("threshold {}", format_duration(h.gap_threshold_ns)));
    std::string out = clean(fmt::format("{}", fmt::join(parts, "     "))) + "\n";
    out +=
        clean(fmt::format("sees    {}", h.sees.empty() ? "nothing" : fmt::format("{}", fmt::join(h.sees, " ")))) + "\n";
    // Causes that are blind for the same reason share a line.
    for (std::size_t i = 0; i < h.blind.size();) {
        std::vector<std::string> same;
        const auto& first = h.blind[i];
        for (; i < h.blind.size() && h.blind[i].why == first.why && h.blind[i].lift == first.lift; ++i)
            same.push_back(h.blind[i].what);
        out += clean(fmt::format("blind   {}: {}", fmt::join(same, " "), first.why)) + "\n";
        if (!first.lift.empty()) out += clean(fmt::format("  lift  {}", first.lift)) + "\n";
    }
    if (h.arming_ns > 0 || !h.arming.empty()) {
        std::string line = fmt::format("armed   in {}", format_duration(h.arming_ns));
        if (!h.arming.empty()) line += fmt::format("; on cpu {} that cost {}", h.cpu, fmt::join(h.arming, ", "));
        out += paint(style, "2", clean(line)) + "\n";
    }
    return out;
}

std::string text_breach(const Header& header, const Breach& breach, const Resolver& resolver, const TextStyle& style) {
    std::string out;
    log_node(out, header, breach, resolver, style, 0);
    return out + note("fix", clean(remedy(breach)), style, true);
}

std::string text_summary(const Summary& summary, const Resolver& resolver, const TextStyle& style, bool all_rows) {
    std::string out;
    if (summary.rows.empty())
        out += nothing_found(summary) + "\n";
    else
        out += Table(summary, resolver, style, all_rows).text() + "\n" + class_totals(summary);
    out += threads_text(summary, all_rows);
    for (const auto& n : summary.notices)
        out += fmt::format("note    {}{}\n", n.t_ns == 0 ? "" : seconds(n.t_ns, summary.header.begin_ns) + "  ",
                           clean(n.text));
    return out + balance_text(summary.header, summary.balance);
}

std::string text_violations(const Summary& summary, const std::vector<Budget::Violation>& violations,
                            const TextStyle& style) {
    std::string out;
    for (const auto& violation : violations) {
        out += paint(style, "31", clean(fmt::format("budget {} not met: {}", violation.limit, violation.found))) + "\n";
        for (std::size_t k = 0; k < std::min(violation.rows.size(), kTopOffenders); ++k) {
            const Row& row = summary.rows.at(violation.rows[k]);
            const auto text = words(row.cause, row.detail, row.who, row.observer);
            std::string line = fmt::format("{} x {}", grouped(row.count), text.cause);
            if (!text.by.empty()) line += fmt::format(", by {}", text.by);
            if (!row.inside.empty()) line += fmt::format(", inside {}", clean(row.inside));
            if (row.total_ns > 0)
                line += fmt::format("; {}, worst {}", format_duration(row.total_ns), format_duration(row.max_ns));
            out += fmt::format("       {}\n", line);
        }
        if (violation.rows.size() > kTopOffenders)
            out += fmt::format("       ... and {} more rows\n", violation.rows.size() - kTopOffenders);
    }
    return out;
}

}  // namespace cloister::breach
