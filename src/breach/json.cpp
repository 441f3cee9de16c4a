#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "breach/catalog.hpp"
#include "breach/report.hpp"

namespace cloister::breach {

namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 1;

Json object(const char* type) { return {{"type", type}, {"v", kVersion}}; }

// Names of tasks and files are any bytes: what is not UTF-8 is replaced, not thrown about.
std::string line(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

Json text_or_null(const std::string& text) { return text.empty() ? Json() : Json(text); }

// Addresses are text: readers that keep numbers as doubles would round them.
Json address_or_null(std::uint64_t address) { return address == 0 ? Json() : Json(fmt::format("{:#x}", address)); }

template <class T>
Json or_null(const std::optional<T>& value) {
    return value ? Json(*value) : Json();
}

std::int64_t relative(const Header& header, std::uint64_t t_ns) {
    return static_cast<std::int64_t>(t_ns - header.begin_ns);
}

void append(Json& array, const std::vector<unwind::Frame>& frames) {
    for (const auto& f : frames)
        array.push_back({{"function", text_or_null(f.function)},
                         {"file", text_or_null(f.file)},
                         {"line", f.line > 0 ? Json(f.line) : Json()},
                         {"module", text_or_null(f.module)},
                         {"pc", fmt::format("{:#x}", f.pc)},
                         {"kernel", f.kernel},
                         {"guessed", f.guessed}});
}

Json frames(const cl_stack* stack, std::uint32_t tgid, std::uint64_t pc, const Resolver& resolver) {
    Json array = Json::array();
    if (stack != nullptr) {
        append(array, resolver.kernel(*stack));
        append(array, resolver.user(*stack));
    }
    if (array.empty() && pc != 0) append(array, resolver.user_pc(tgid, pc));
    return array;
}

Json party(const Party& p, const Resolver& resolver) {
    return {{"cpu", p.cpu >= 0 ? Json(p.cpu) : Json()},
            {"tid", p.tid},
            {"tgid", p.tgid},
            {"comm", p.comm},
            {"observer", p.observer},
            {"stack", frames(p.stack.get(), p.tgid, 0, resolver)}};
}

void put_breach(Json& out, const Header& header, const Breach& b, const Resolver& resolver, bool root) {
    out["t_ns"] = relative(header, b.start_ns);
    out["cpu"] = b.cpu >= 0 ? Json(b.cpu) : Json();
    out["tid"] = b.tid;
    out["class"] = name(b.cls);
    out["cause"] = name(b.cause);
    out["detail"] = b.detail;
    out["duration_ns"] = b.end_seen ? Json(root ? b.departure_ns() : b.duration_ns()) : Json();
    out["own_ns"] = b.end_seen ? Json(b.duration_ns()) : Json();
    out["start_seen"] = b.start_seen;
    out["known"] = name(b.known);
    out["pc"] = address_or_null(b.pc);
    out["address"] = b.cause == Cause::fault ? Json(fmt::format("{:#x}", b.address)) : Json();
    out["stack"] = frames(b.stack.get(), b.tgid, b.pc, resolver);
    out["sender"] = b.who ? party(*b.who, resolver) : Json();
    Json children = Json::array();
    for (const auto& child : b.children) {
        Json node = Json::object();
        put_breach(node, header, child, resolver, false);
        children.push_back(std::move(node));
    }
    out["children"] = std::move(children);
    out["fix"] = remedy(b);
}

Json sites(const Row& row, const Resolver& resolver) {
    std::vector<const Row::Site*> sorted;
    for (const auto& [key, site] : row.sites) sorted.push_back(&site);
    std::stable_sort(sorted.begin(), sorted.end(), [](auto* a, auto* b) { return a->count > b->count; });
    Json array = Json::array();
    for (const auto* site : sorted)
        array.push_back({{"count", site->count},
                         {"pc", address_or_null(site->pc)},
                         {"stack", frames(site->stack.get(), site->tgid, site->pc, resolver)}});
    return array;
}

Json row_json(const Header& header, const Row& row, const Resolver& resolver) {
    const bool timed = row.total_ns > 0 || (row.known != Known::counted && row.end_unseen < row.count);
    const auto when = [&](std::uint64_t t) { return t == 0 ? Json() : Json(relative(header, t)); };
    Json out = object("row");
    out["class"] = name(row.cls);
    out["cause"] = name(row.cause);
    out["detail"] = row.detail;
    out["count"] = row.count;
    out["total_ns"] = timed ? Json(row.total_ns) : Json();
    out["max_ns"] = timed ? Json(row.max_ns) : Json();
    out["known"] = name(row.known);
    out["fix"] = remedy(row, header.cpu);
    out["who"] = text_or_null(row.who);
    out["inside"] = row.inside;
    out["depth"] = row.depth;
    out["first_ns"] = when(row.first_ns);
    out["last_ns"] = when(row.last_ns);
    out["end_unseen"] = row.end_unseen;
    out["recorded"] = row.recorded;
    out["away"] = row.away;
    out["observer"] = row.observer;
    out["sites"] = sites(row, resolver);
    out["sites_over"] = row.sites_over;
    return out;
}

Json thread_json(const ThreadCounts& t) {
    Json out = object("thread");
    out["tid"] = t.tid;
    out["tgid"] = t.tgid;
    out["comm"] = t.comm;
    out["shared"] = t.shared;
    out["live"] = t.live;
    out["syscalls"] = t.syscalls;
    out["faults_minor"] = t.faults_minor;
    out["faults_major"] = t.faults_major;
    out["faults_failed"] = t.faults_failed;
    out["switches_voluntary"] = t.switches_voluntary;
    out["switches_involuntary"] = t.switches_involuntary;
    out["migrations"] = t.migrations;
    out["signals"] = t.signals;
    return out;
}

Json violation_json(const Summary& summary, const Budget::Violation& violation) {
    Json rows = Json::array();
    for (const auto i : violation.rows) {
        const Row& row = summary.rows.at(i);
        rows.push_back({{"row", i},
                        {"cause", name(row.cause)},
                        {"detail", row.detail},
                        {"who", text_or_null(row.who)},
                        {"count", row.count},
                        {"total_ns", row.total_ns},
                        {"max_ns", row.max_ns}});
    }
    Json out = object("violation");
    out["limit"] = violation.limit;
    out["found"] = violation.found;
    out["rows"] = std::move(rows);
    return out;
}

Json balance_json(const Balance& b) {
    Json out = object("balance");
    out["watched_ns"] = b.watched_ns;
    out["lost_ns"] = or_null(b.lost_ns);
    out["explained_ns"] = or_null(b.explained_ns);
    out["unexplained_ns"] = or_null(b.unexplained_ns);
    out["dropped"] = b.dropped;
    out["inferred_ns"] = b.inferred_ns;
    out["breaches"] = b.breaches;
    out["worst_ns"] = b.worst_ns;
    out["dropped_by_kind"] = b.dropped_by_kind;
    out["gaps"] = b.gaps;
    out["gap_threshold_ns"] = b.gap_threshold_ns > 0 ? Json(b.gap_threshold_ns) : Json();
    out["kernel_gaps"] = b.kernel_gaps;
    out["named_gaps"] = b.named_gaps;
    out["below_threshold"] = b.below_threshold;
    out["below_threshold_ns"] = b.below_threshold_ns;
    return out;
}

}  // namespace

std::string json_header(const Header& h) {
    Json blind = Json::array();
    for (const auto& b : h.blind) blind.push_back({{"what", b.what}, {"why", b.why}, {"lift", text_or_null(b.lift)}});
    Json out = object("header");
    out["command"] = h.command;
    out["target"] = h.target;
    out["cpu"] = h.cpu;
    out["isolation"] = h.isolation;
    out["kernel"] = h.kernel;
    out["sees"] = h.sees;
    out["blind"] = std::move(blind);
    out["begin_ns"] = h.begin_ns;
    out["begin_unix_ns"] = h.begin_unix_ns;
    out["gap_threshold_ns"] = h.gap_threshold_ns > 0 ? Json(h.gap_threshold_ns) : Json();
    out["arming_ns"] = h.arming_ns;
    out["arming"] = h.arming;
    return line(out);
}

std::string json_breach(const Header& header, const Breach& breach, const Resolver& resolver) {
    Json out = object("breach");
    put_breach(out, header, breach, resolver, true);
    return line(out);
}

std::vector<std::string> json_summary(const Summary& summary, const Resolver& resolver,
                                      const std::vector<Budget::Violation>& violations) {
    std::vector<std::string> lines;
    for (const auto& row : summary.rows) lines.push_back(line(row_json(summary.header, row, resolver)));
    for (const auto& thread : summary.threads) lines.push_back(line(thread_json(thread)));
    for (const auto& n : summary.notices) {
        Json out = object("notice");
        out["t_ns"] = relative(summary.header, n.t_ns);
        out["text"] = n.text;
        lines.push_back(line(out));
    }
    for (const auto& violation : violations) lines.push_back(line(violation_json(summary, violation)));
    lines.push_back(line(balance_json(summary.balance)));
    return lines;
}

}  // namespace cloister::breach
