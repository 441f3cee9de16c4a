#include "stream.hpp"

#include <array>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace cloister::breach::testing {

namespace {

using Words = std::vector<std::string>;

template <class T>
struct Word {
    T value;
    std::string_view name;
};

constexpr Word<std::uint16_t> kKinds[] = {
    {CL_SYSCALL, "syscall"},
    {CL_FAULT, "fault"},
    {CL_OFFCPU, "offcpu"},
    {CL_OTHER, "other"},
    {CL_VECTOR, "vector"},
    {CL_IRQ, "irq"},
    {CL_SOFTIRQ, "softirq"},
    {CL_HRTIMER, "hrtimer"},
    {CL_TIMER, "timer"},
    {CL_CSD, "csd"},
    {CL_WORK, "work"},
    {CL_NMI, "nmi"},
    {CL_SIGNAL_GENERATE, "signal_generate"},
    {CL_SIGNAL_DELIVER, "signal_deliver"},
    {CL_CSD_QUEUE, "csd_queue"},
    {CL_RESCHED_SEND, "resched_send"},
    {CL_WORK_QUEUE, "work_queue"},
    {CL_MIGRATE, "migrate"},
    {CL_FORK, "fork"},
    {CL_EXEC, "exec"},
    {CL_EXIT, "exit"},
};

constexpr Word<std::uint32_t> kFlags[] = {
    {CL_IN_SYSCALL, "in_syscall"}, {CL_IN_FAULT, "in_fault"},         {CL_IN_IRQ, "in_irq"},
    {CL_IN_OFFCPU, "in_offcpu"},   {CL_START_UNSEEN, "start_unseen"}, {CL_BY_OBSERVER, "by_observer"},
};

// The plain numbers of a record; the rest has a form of its own.
template <class Record, class Visit>
void fields(Record& r, Visit visit) {
    visit("cpu", r.cpu);
    visit("tid", r.tid);
    visit("tgid", r.tgid);
    visit("a", r.a);
    visit("b", r.b);
    visit("c", r.c);
    visit("d", r.d);
    visit("who_tid", r.who_tid);
    visit("who_tgid", r.who_tgid);
    visit("stack", r.stack);
    visit("site", r.site);
}

[[noreturn]] void bad(const std::string& what) { throw std::runtime_error(what); }

std::uint64_t number(std::string_view text) {
    const bool negative = text.starts_with('-');
    std::string_view digits = text.substr(negative ? 1 : 0);
    const bool hex = digits.starts_with("0x");
    if (hex) digits.remove_prefix(2);
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, hex ? 16 : 10);
    if (error != std::errc() || end != digits.data() + digits.size()) bad(fmt::format("not a number: {}", text));
    return negative ? ~value + 1 : value;
}

Words split(const std::string& line) {
    Words words;
    std::string word;
    bool quoted = false, any = false;
    for (const char c : line) {
        if (c == '"') {
            quoted = !quoted;
            any = true;
        } else if (c == '#' && !quoted) {
            break;
        } else if (c == ' ' && !quoted) {
            if (any) words.push_back(std::exchange(word, ""));
            any = false;
        } else {
            word += c;
            any = true;
        }
    }
    if (any) words.push_back(word);
    return words;
}

std::pair<std::string, std::string> key_value(const std::string& word) {
    const auto equals = word.find('=');
    if (equals == std::string::npos) bad(fmt::format("not key=value: {}", word));
    return {word.substr(0, equals), word.substr(equals + 1)};
}

std::uint32_t flags_of(const std::string& text) {
    std::uint32_t flags = 0;
    std::istringstream words(text);
    for (std::string word; std::getline(words, word, '|');) {
        std::uint32_t bit = 0;
        for (const auto& flag : kFlags)
            if (flag.name == word) bit = flag.value;
        if (bit == 0) bad(fmt::format("unknown flag: {}", word));
        flags |= bit;
    }
    return flags;
}

cl_record record_with(cl_record record, const Words& words) {
    for (const auto& kind : kKinds)
        if (kind.name == words[0]) record.kind = kind.value;
    if (record.kind == CL_NONE && words[0] != "default") bad(fmt::format("unknown kind: {}", words[0]));
    for (std::size_t i = 1; i < words.size(); ++i) {
        const auto [key, value] = key_value(words[i]);
        bool known = false;
        fields(record, [&, k = std::string_view(key), v = std::string_view(value)](std::string_view name, auto& field) {
            if (name != k) return;
            field = static_cast<std::remove_reference_t<decltype(field)>>(number(v));
            known = true;
        });
        if (known) continue;
        if (key == "start") {
            record.start = number(value);
        } else if (key == "end") {
            record.end = number(value);
        } else if (key == "t") {
            record.start = record.end = number(value);
        } else if (key == "flags") {
            record.flags = flags_of(value);
        } else if (key == "comm") {
            if (value.size() >= sizeof record.comm) bad(fmt::format("name too long: {}", value));
            std::memcpy(record.comm, value.c_str(), value.size() + 1);
        } else if (key == "sys") {  // NR@ENTER
            const auto at = value.find('@');
            if (at == std::string::npos) bad(fmt::format("not NR@ENTER: {}", value));
            record.sys_nr = static_cast<std::int32_t>(number(value.substr(0, at)));
            record.sys_enter = number(value.substr(at + 1));
        } else {
            bad(fmt::format("unknown field: {}", key));
        }
    }
    return record;
}

cl_record blank() {
    cl_record record{};
    record.sys_nr = -1;
    return record;
}

struct FixtureNames final : Names {
    std::map<std::uint64_t, std::string> functions;
    [[nodiscard]] std::string kernel_function(std::uint64_t address) const override {
        const auto found = functions.find(address);
        return found == functions.end() ? fmt::format("{:#x}", address) : found->second;
    }
};

std::map<std::string, std::uint64_t> numbers(const Words& words, std::size_t from) {
    std::map<std::string, std::uint64_t> values;
    for (std::size_t i = from; i < words.size(); ++i) {
        const auto [key, value] = key_value(words[i]);
        values[key] = number(value);
    }
    return values;
}

Cause cause_of(const std::string& word) {
    const auto cause = cause_named(word);
    if (!cause) bad(fmt::format("unknown cause: {}", word));
    return *cause;
}

std::string text_of(const Party& who) {
    return fmt::format("{}{}{}", who.text(), who.site ? fmt::format(" site {:#x}", who.site) : "",
                       who.stack ? fmt::format(" stack {}", who.stack->id) : "");
}

std::string text_of(const Row& row) {
    std::string out = fmt::format("{:{}}{}", "", row.depth * 2, name(row.cause));
    if (!row.detail.empty()) out += fmt::format(" '{}'", row.detail);
    out += fmt::format(" {} {}", name(row.cls), name(row.known));
    if (!row.who.empty()) out += fmt::format(", by {}", row.who);
    if (!row.inside.empty()) out += fmt::format(", inside '{}'", row.inside);
    out +=
        fmt::format(": {} x, total {}, max {}, {}..{}", row.count, row.total_ns, row.max_ns, row.first_ns, row.last_ns);
    if (row.recorded != row.count) out += fmt::format(", recorded {}", row.recorded);
    if (row.end_unseen) out += fmt::format(", {} end unseen", row.end_unseen);
    if (row.observer) out += ", observer";
    for (const auto& [id, site] : row.sites)
        out += fmt::format(", site {:#x} {} x{}", id, site.count,
                           site.stack ? fmt::format(" stack {}", site.stack->id) : "");
    if (row.sites_over) out += fmt::format(", {} elsewhere", row.sites_over);
    return out + "\n";
}

class Replay {
public:
    void line(const Words& words);
    [[nodiscard]] std::string report() const;

private:
    void record(const cl_record& record) { correlator_.feed(record); }

    FixtureNames names_;
    Tally tally_;
    std::string departures_, notices_;
    Correlator correlator_{names_,
                           [this](const Breach& breach) {
                               departures_ += testing::text_of(breach);
                               tally_.add(breach);
                           },
                           [this](const Notice& n) { notices_ += fmt::format("{} {}\n", n.t_ns, n.text); }};
    cl_record default_ = blank();
};

void Replay::line(const Words& words) {
    const std::string& verb = words[0];
    if (verb == "name") {
        names_.functions[number(words.at(1))] = words.at(2);
    } else if (verb == "expect_cpu") {
        correlator_.expect_cpu(static_cast<int>(number(words.at(1))));
    } else if (verb == "default") {
        default_ = record_with(blank(), words);
    } else if (verb == "advance") {
        correlator_.advance(number(words.at(1)));
    } else if (verb == "finish") {
        correlator_.finish(number(words.at(1)));
    } else if (verb == "stack") {
        auto values = numbers(words, 1);
        auto stack = std::make_shared<cl_stack>();
        stack->kind = CL_STACK;
        stack->id = static_cast<std::uint32_t>(values["id"]);
        stack->tid = stack->tgid = static_cast<std::uint32_t>(values["tid"]);
        stack->site = values["site"];
        correlator_.feed(std::move(stack));
    } else if (verb == "exact") {
        auto values = numbers(words, 3);
        tally_.exact(cause_of(words.at(1)), words.at(2),
                     {values["count"], values["total"], values["max"], values["first"], values["last"], 0});
    } else if (verb == "exact_site") {
        auto values = numbers(words, 3);
        cl_site site{};
        site.count = values["count"];
        site.ip = values["ip"];
        tally_.exact_site(cause_of(words.at(1)), words.at(2), values["site"], site, nullptr);
    } else if (verb == "counted") {
        tally_.counted(cause_of(words.at(1)), words.at(2), number(words.at(3)));
    } else {
        record(record_with(default_, words));
    }
}

std::string Replay::report() const {
    std::string out = "departures\n" + departures_;
    if (!notices_.empty()) out += "\nnotices\n" + notices_;
    out += "\nrows\n";
    for (const Row& row : tally_.rows()) out += text_of(row);
    const auto& s = correlator_.stats();
    out +=
        fmt::format("\ndepartures {}, lost {}, worst {}\n", tally_.departures(), tally_.lost_ns(), tally_.worst_ns());
    out += fmt::format("records {}, late {}, orphans {}, functions called {}, with sender {}\n", s.records, s.late,
                       s.orphans, s.csd, s.csd_paired);
    return out;
}

}  // namespace

std::string text_of(const cl_record& record) {
    std::string out;
    for (const auto& kind : kKinds)
        if (kind.value == record.kind) out = kind.name;
    if (record.start == record.end)
        out += fmt::format(" t={}", record.end);
    else
        out += fmt::format(" start={} end={}", record.start, record.end);
    fields(record, [&](std::string_view name, auto field) {
        if (field != 0) out += fmt::format(" {}={}", name, field);
    });
    std::string flags;
    for (const auto& flag : kFlags)
        if (record.flags & flag.value) flags += fmt::format("{}{}", flags.empty() ? "" : "|", flag.name);
    if (!flags.empty()) out += fmt::format(" flags={}", flags);
    if (record.comm[0]) out += fmt::format(" \"comm={}\"", record.comm);
    if (record.sys_nr >= 0) out += fmt::format(" sys={}@{}", record.sys_nr, record.sys_enter);
    return out;
}

cl_record record_of(const std::string& line) { return record_with(blank(), split(line)); }

std::string text_of(const Breach& breach, int depth) {
    std::string out = fmt::format("{:{}}{}..{}", "", depth * 2, breach.start_ns, breach.end_ns);
    if (depth == 0 && breach.departure_end_ns != breach.end_ns) out += fmt::format(" back {}", breach.departure_end_ns);
    out += fmt::format(" cpu {} tid {} {}", breach.cpu, breach.tid, name(breach.cause));
    if (!breach.detail.empty()) out += fmt::format(" '{}'", breach.detail);
    out += fmt::format(" {}", name(breach.cls));
    if (breach.who) out += fmt::format(", by {}", text_of(*breach.who));
    if (breach.pc || breach.address) out += fmt::format(", pc {:#x} address {:#x}", breach.pc, breach.address);
    if (breach.site) out += fmt::format(", site {:#x}", breach.site);
    if (breach.stack) out += fmt::format(", stack {}", breach.stack->id);
    if (!breach.start_seen) out += ", start unseen";
    if (!breach.end_seen) out += ", end unseen";
    out += "\n";
    for (const Breach& child : breach.children) out += text_of(child, depth + 1);
    return out;
}

std::string replay(const std::string& stream) {
    auto state = std::make_unique<Replay>();
    std::istringstream lines(stream);
    int n = 0;
    for (std::string line; std::getline(lines, line);) {
        ++n;
        const Words words = split(line);
        if (words.empty()) continue;
        try {
            state->line(words);
        } catch (const std::exception& error) {
            bad(fmt::format("line {}: {}: {}", n, error.what(), line));
        }
    }
    return state->report();
}

}  // namespace cloister::breach::testing
