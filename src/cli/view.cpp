// cloister view DIR [--from T --to T --event GLOB --where EXPR --last N --stats --json]
#include <fmt/format.h>
#include <fnmatch.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "breach/budget.hpp"
#include "cli/call_stacks.hpp"
#include "cli/commands.hpp"
#include "cli/progress.hpp"
#include "ctf/events.hpp"
#include "ctf/query.hpp"
#include "ctf/show.hpp"

namespace cloister::cli {

namespace {

using ctf::Cursor;

constexpr int kVersion = 1;  // of the JSON

struct ViewOptions {
    std::string directory, from, to, event, where;
    std::uint64_t last = 0;
    bool stats = false, json = false, wall = false;
};

int failed(const Error& error) {
    std::fputs(error.text().c_str(), stderr);
    return kError;
}

// Lines, on their way to stdout in large pieces.
class Lines {
public:
    std::string& text() { return text_; }
    // False once the reader is gone: there is no use in going on.
    bool flush(bool all) {
        if (text_.size() < (all ? 1 : kPiece)) return !error_;
        if (std::fwrite(text_.data(), 1, text_.size(), stdout) != text_.size() || (all && std::fflush(stdout) != 0))
            error_ = errno;
        text_.clear();
        return !error_;
    }
    [[nodiscard]] std::optional<Error> error() const {
        if (!error_) return std::nullopt;
        return Error{.what = "the events could not be written to standard output",
                     .needs = "room on the file system, and a reader on a pipe",
                     .found = std::strerror(error_),
                     .set = "--to T or --last N, where only some of them are wanted"};
    }

private:
    static constexpr std::size_t kPiece = std::size_t{1} << 16U;
    std::string text_;
    int error_ = 0;
};

class View {
public:
    View(const ViewOptions& options, std::vector<ctf::Trace> traces, std::optional<ctf::Query> query)
        : options_(options), traces_(std::move(traces)), query_(std::move(query)), stacks_(traces_) {}

    int run() {
        {
            const ctf::Merge merge(traces_);
            begin_ = merge.begin().value_or(0);
        }
        for (const auto* text : {&options_.from, &options_.to}) {
            if (text->empty()) continue;
            const auto time = moment(*text);
            if (!time) return failed(time.error());
            (text == &options_.from ? from_ : to_) = *time;
        }
        if (const auto unknown = unknown_field()) return failed(*unknown);
        if (options_.json) json_header();
        const bool filtered = from_ || to_ || query_ || !options_.event.empty();
        if (options_.stats && !filtered)
            count_all();
        else if (options_.last)
            show_last();
        else
            walk([this](ctf::Events& events, Cursor::Step step) {
                options_.stats ? tally(events, step) : show(events, step);
            });
        progress_.clear();
        if (options_.stats) stats();
        lines_.flush(true);
        if (const auto error = lines_.error()) return failed(*error);
        if (seen_ == 0 && !broken_) std::fputs(why_nothing(filtered).c_str(), stderr);
        return broken_ ? kError : 0;
    }

private:
    struct Row {
        std::uint64_t count = 0;
        std::optional<std::int64_t> first, last;  // ns
    };

    // A moment on the command line: since the begin of the trace, or of the day.
    [[nodiscard]] Result<std::int64_t> moment(const std::string& text) const {
        if (const auto wall = ctf::parse_wall_clock(text)) return *wall;
        const auto since = breach::parse_duration(text);
        std::int64_t out = 0;
        if (since && !__builtin_add_overflow(begin_, *since, &out)) return out;
        if (since) return std::numeric_limits<std::int64_t>::max();
        return fail({fmt::format("'{}' is no time of the trace", text),
                     since.error().needs + ", since its begin; or a time of day, as in " + ctf::wall_clock(begin_),
                     since.error().what, ""});
    }

    // A name that no event has is a mistake, not a condition that is never met.
    [[nodiscard]] std::optional<Error> unknown_field() const {
        if (!query_) return std::nullopt;
        std::set<std::string> known{"cpu_id"};
        for (const auto& trace : traces_)
            for (const auto& name : trace.layout().names)
                if (name.own && !name.name.empty()) known.insert(name.name);
        for (const auto& path : query_->fields()) {
            const std::string first = path.substr(0, path.find('.'));
            if (known.contains(first)) continue;
            return Error{.what = fmt::format("no event has a field '{}'", first),
                         .needs = fmt::format("one of: {}", fmt::join(known, ", ")),
                         .found = fmt::format("--where '{}'", options_.where)};
        }
        return std::nullopt;
    }

    [[nodiscard]] bool wanted(const ctf::EventLayout& event) const {
        return options_.event.empty() || fnmatch(options_.event.c_str(), event.name.c_str(), 0) == 0;
    }

    // Every event and loss that is asked for, in order of time. Stops when the reader is gone.
    template <class Handle>
    void walk(Handle handle) {
        ctf::Events events(traces_);
        events.limit(from_, to_);
        std::map<const ctf::EventLayout*, bool> wanted_classes;
        for (Cursor::Step step = events.next(); step != Cursor::Step::end; step = events.next()) {
            // Where the events themselves go to the terminal, they are the progress.
            if (constexpr unsigned kOften = 4096; ++steps_ % kOften == 0 && quiet_output_ && progress_.due())
                progress_.show(fmt::format("{} events read", grouped(looked_at_)));
            if (step == Cursor::Step::broken) {
                report(events.error());
                continue;
            }
            if (step == Cursor::Step::event) {
                ++looked_at_;
                const auto* event = &events.event();
                auto found = wanted_classes.find(event);
                if (found == wanted_classes.end()) found = wanted_classes.emplace(event, wanted(*event)).first;
                if (!found->second) continue;
                if (query_) {
                    if (!events.fields(values_)) continue;  // the next step says that it is broken
                    if (!query_->matches(values_, events.packet().cpu)) continue;
                }
                ++seen_;
            }
            handle(events, step);
            if (!lines_.flush(false)) break;
        }
    }

    void show_last() {
        // Once to count them, once to show: nothing has to be kept that might not be shown.
        walk([](ctf::Events&, Cursor::Step) {});
        std::uint64_t skip = seen_ - std::min(seen_, options_.last);
        const bool was_broken = std::exchange(broken_, false);
        seen_ = looked_at_ = 0;
        quiet_ = was_broken;
        walk([&](ctf::Events& events, Cursor::Step step) {
            if (seen_ > skip) show(events, step);
        });
    }

    void report(const Error& error) {
        broken_ = true;
        if (quiet_) return;
        progress_.clear();
        lines_.flush(true);  // what lies before it, before it
        std::fputs(error.text().c_str(), stderr);
    }

    void show(ctf::Events& events, Cursor::Step step) {
        if (step == Cursor::Step::loss) return show_loss(events);
        if (!query_ && !events.fields(values_)) {
            --seen_;
            return;
        }
        const auto context = std::span(values_).first(events.of_contexts());
        const auto fields = std::span(values_).subspan(events.of_contexts());
        const auto stack = stacks_.of(events, fields);
        const ctf::JoinedEvent* const incomplete = events.incomplete();
        std::string& out = lines_.text();
        if (!options_.json) {
            stamp(events.ns(), events.packet());
            out += events.event().name;
            // The addresses of a stack that has names are left out.
            for (const auto part : {context, stack.empty() ? fields : fields.subspan(stack.end)}) {
                if (part.empty()) continue;
                out += "  ";
                ctf::append_text(out, part);
            }
            if (incomplete) ctf::append_text(out += "  ", *incomplete);
            if (!stack.empty()) out += fmt::format("  at {}", fmt::join(stack.calls, " < "));
            out += '\n';
            return;
        }
        json_begin("event", events);
        out += ",\"event\":";
        ctf::append_json(out, events.event().name);
        out += ",\"context\":";
        ctf::append_json(out, context);
        out += ",\"fields\":";
        ctf::append_json(out, fields);
        if (incomplete) ctf::append_json(out += ",\"incomplete\":", *incomplete);
        if (!stack.empty()) {
            out += ",\"stack\":[";
            for (const auto& call : stack.calls) {
                if (&call != stack.calls.data()) out += ',';
                ctf::append_json(out, call);
            }
            out += ']';
        }
        out += "}\n";
    }

    void show_loss(ctf::Events& events) {
        const ctf::Loss& loss = events.loss();
        const std::int64_t to = ctf::ns_of(events.clock(), loss.to);
        std::string& out = lines_.text();
        if (options_.json) {
            json_begin("lost", events);
            out +=
                fmt::format(",\"to_ns\":{},\"events\":{},\"packets\":{}}}\n", to - begin_, loss.events, loss.packets);
            return;
        }
        stamp(events.ns(), events.packet());
        out += "lost:";
        if (loss.events) out += fmt::format(" {} event{}", loss.events, loss.events == 1 ? "" : "s");
        if (loss.packets)
            out += fmt::format("{} {} packet{}", loss.events ? "," : "", loss.packets, loss.packets == 1 ? "" : "s");
        out += fmt::format(" of {} until ", events.stream().name());
        time(to);
        out += '\n';
    }

    void time(std::int64_t ns) {
        if (options_.wall)
            lines_.text() += ctf::wall_clock(ns);
        else
            ctf::append_seconds(lines_.text(), ns - begin_);
    }

    void stamp(std::int64_t ns, const ctf::Packet& packet) {
        std::string& out = lines_.text();
        const std::size_t from = out.size();
        time(ns);
        constexpr std::size_t kWidth = 14;
        if (out.size() - from < kWidth) out.insert(from, kWidth - (out.size() - from), ' ');
        if (packet.cpu) {
            out += "  cpu ";
            out += fmt::format_int(*packet.cpu).c_str();
        }
        out += "  ";
    }

    void json_begin(const char* type, const ctf::Events& events) {
        std::string& out = lines_.text();
        out += fmt::format("{{\"type\":\"{}\",\"v\":{},\"t_ns\":{},\"cpu\":", type, kVersion, events.ns() - begin_);
        out += events.packet().cpu ? fmt::format("{}", *events.packet().cpu) : "null";
        out += ",\"stream\":";
        ctf::append_json(out, events.stream().name());
    }

    void json_header() {
        std::string& out = lines_.text();
        out += fmt::format("{{\"type\":\"trace\",\"v\":{},\"begin_unix_ns\":{},\"directories\":[", kVersion, begin_);
        for (const auto& trace : traces_) {
            if (&trace != &traces_.front()) out += ',';
            ctf::append_json(out, trace.directory());
        }
        out += "]}\n";
    }

    void tally(ctf::Events& events, Cursor::Step step) {
        if (step == Cursor::Step::loss) {
            lost_events_ += events.loss().events;
            lost_packets_ += events.loss().packets;
            return;
        }
        extend(events.ns(), events.ns());
        incomplete_ += events.incomplete() != nullptr;
        ++rows_[events.event().name];
    }

    void extend(std::int64_t first, std::int64_t last) {
        first_ = first_ ? std::min(*first_, first) : first;
        last_ = last_ ? std::max(*last_, last) : last;
    }

    // Without a filter no order is needed: stream after stream.
    void count_all() {
        for (const auto& trace : traces_) {
            std::vector<std::uint64_t> events(trace.layout().events);
            ctf::FragmentCounts joined;
            for (const auto& stream : trace.streams()) {
                if (progress_.due()) progress_.show(fmt::format("counting the events of {}", stream.name()));
                Cursor cursor(stream);
                ctf::Counts counts;
                if (!cursor.count(counts, joined)) report(cursor.error());
                lost_events_ += counts.lost_events;
                lost_packets_ += counts.lost_packets;
                for (std::size_t i = 0; i < counts.events.size(); ++i) events[i] += counts.events[i];
                if (!counts.first) continue;
                const auto& clock = trace.layout().clocks[cursor.packet().stream->clock];
                extend(ctf::ns_of(clock, *counts.first), ctf::ns_of(clock, *counts.last));
            }
            joined.end_all();
            incomplete_ += joined.incomplete;
            if (joined.first) extend(*joined.first, *joined.last);
            for (const auto& [event, count] : joined.events) rows_[event->name] += count;
            for (const auto& stream : trace.layout().streams)
                for (const auto& event : stream.events)
                    if (events[event.number] && !event.fragment) rows_[event.name] += events[event.number];
        }
        for (const auto& [name, count] : rows_) seen_ += count;
        looked_at_ = seen_;
    }

    void stats() {
        std::vector<std::pair<std::string, std::uint64_t>> rows(rows_.begin(), rows_.end());
        std::stable_sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
        std::uint64_t bytes = 0, streams = 0;
        for (const auto& trace : traces_)
            for (const auto& stream : trace.streams()) {
                bytes += stream.size();
                ++streams;
            }
        std::string& out = lines_.text();
        if (options_.json) {
            for (const auto& [name, count] : rows) {
                out += fmt::format("{{\"type\":\"count\",\"v\":{},\"event\":", kVersion);
                ctf::append_json(out, name);
                out += fmt::format(",\"count\":{}}}\n", count);
            }
            const auto relative = [&](std::optional<std::int64_t> ns) {
                return ns ? fmt::format("{}", *ns - begin_) : std::string("null");
            };
            out += fmt::format(
                "{{\"type\":\"stats\",\"v\":{},\"events\":{},\"incomplete_events\":{},\"lost_events\":{},\"lost_"
                "packets\":{},"
                "\"first_ns\":{},\"last_ns\":{},\"streams\":{},\"bytes\":{}}}\n",
                kVersion, seen_, incomplete_, lost_events_, lost_packets_, relative(first_), relative(last_), streams,
                bytes);
            return;
        }
        if (!rows.empty()) out += fmt::format("{:>15}  EVENT\n", "COUNT");
        for (const auto& [name, count] : rows) out += fmt::format("{:>15}  {}\n", grouped(count), name);
        out += fmt::format("{} events", grouped(seen_));
        if (incomplete_) out += fmt::format(" ({} of them incomplete)", grouped(incomplete_));
        out += fmt::format(", lost {} events and {} packets; ", grouped(lost_events_), grouped(lost_packets_));
        if (first_) {
            time(*first_);
            out += " to ";
            time(*last_);
            if (!options_.wall) out += fmt::format(" s (begin {})", ctf::wall_clock(begin_));
            out += "; ";
        }
        out += fmt::format("{} bytes in {} streams\n", grouped(bytes), streams);
    }

    [[nodiscard]] static std::string grouped(std::uint64_t value) {
        std::string out = fmt::format("{}", value);
        for (std::size_t i = out.size(); i > 3; i -= 3) out.insert(i - 3, ",");
        return out;
    }

    // An empty result explains itself.
    [[nodiscard]] std::string why_nothing(bool filtered) const {
        std::size_t streams = 0;
        std::set<std::string> classes;
        for (const auto& trace : traces_) {
            streams += trace.streams().size();
            for (const auto& stream : trace.layout().streams)
                for (const auto& event : stream.events)
                    if (!event.fragment) classes.insert(event.name);
        }
        const bool any = !options_.event.empty() && std::none_of(classes.begin(), classes.end(), [&](const auto& name) {
            return fnmatch(options_.event.c_str(), name.c_str(), 0) == 0;
        });
        std::string names;
        for (const auto& name : classes) names += (names.empty() ? "" : ", ") + name;
        if (any)
            return fmt::format("cloister: no event is named '{}'; there are: {}\n", options_.event,
                               names.empty() ? "none" : names);
        if (!filtered)
            return fmt::format("cloister: no events in {}: {} stream files with packets, {} event classes declared\n",
                               options_.directory, streams, classes.size());
        return fmt::format(
            "cloister: no event matches; {} {} looked at{}\n", looked_at_, looked_at_ == 1 ? "was" : "were",
            from_ || to_ ? fmt::format(" in the time given, the trace begins at {}", ctf::wall_clock(begin_))
                         : std::string());
    }

    const ViewOptions& options_;
    Progress progress_;
    const bool quiet_output_ = options_.stats || options_.last != 0 || isatty(STDOUT_FILENO) == 0;
    std::uint64_t steps_ = 0;
    std::vector<ctf::Trace> traces_;
    std::optional<ctf::Query> query_;
    CallStacks stacks_;
    Lines lines_;
    std::vector<ctf::Value> values_;
    std::int64_t begin_ = 0;  // of all traces, ns
    std::optional<std::int64_t> from_, to_;
    std::map<std::string, std::uint64_t> rows_;
    std::optional<std::int64_t> first_, last_;
    std::uint64_t incomplete_ = 0, lost_events_ = 0, lost_packets_ = 0;
    std::uint64_t seen_ = 0, looked_at_ = 0;  // events that are shown; that were read in the time given
    bool broken_ = false, quiet_ = false;
};

int view(const ViewOptions& options) {
    explain_bus_errors();
    std::optional<ctf::Query> query;
    if (!options.where.empty()) {
        auto parsed = ctf::Query::parse(options.where);
        if (!parsed) return failed(parsed.error());
        query = std::move(*parsed);
    }
    auto traces = ctf::Trace::open_all(options.directory);
    if (!traces) return failed(traces.error());
    return View(options, std::move(*traces), std::move(query)).run();
}

}  // namespace

Action add_view(CLI::App& parser) {
    auto options = std::make_shared<ViewOptions>();
    parser.add_option("DIR", options->directory, "The trace: a directory with CTF 1.8 metadata in it or below it")
        ->required();
    parser
        .add_option("--from", options->from, "Begin there: 1.5s since the begin of the trace, or 2026-11-24T16:44:35Z")
        ->type_name("TIME");
    parser.add_option("--to", options->to, "End there")->type_name("TIME");
    parser.add_option("--event", options->event, "Only events whose name fits, as in 'book:*'")->type_name("GLOB");
    parser
        .add_option("--where", options->where,
                    "Only events whose fields fit, as in 'price >= 100.5 && !(venue == \"X\")'")
        ->type_name("EXPR");
    auto* stats = parser.add_flag("--stats", options->stats, "Count the events of each class instead of showing them");
    parser.add_option("--last", options->last, "Only the last so many")
        ->type_name("N")
        ->check(CLI::PositiveNumber)
        ->excludes(stats);
    parser.add_flag("--wall", options->wall, "Show the time of day (UTC) instead of the time since the trace began");
    parser.add_flag("--json", options->json, "Write one JSON object a line (see docs/view.md)");
    parser.footer("Exit status: 0; 2 error, such as a trace that is broken (what lies before that is shown).");
    return [options] { return view(*options); };
}

}  // namespace cloister::cli
