#include "breach/budget.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <limits>
#include <numeric>
#include <optional>

#include <fmt/format.h>

namespace cloister::breach {

namespace {

constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();

struct Unit {
    std::string_view name;
    std::uint64_t ns;
};
constexpr std::array<Unit, 6> kUnits{{{"ns", 1},
                                      {"us", 1'000},
                                      {"ms", 1'000'000},
                                      {"s", 1'000'000'000},
                                      {"m", 60'000'000'000},
                                      {"h", 3'600'000'000'000}}};

bool digit(char c) { return c >= '0' && c <= '9'; }
bool space(char c) { return c == ' ' || c == '\t'; }

// What is wrong at one place of a text, before it is known what text that is.
struct Wrong {
    std::size_t at = 0;
    std::string why, needs;
};

std::optional<std::uint64_t> whole_number(std::string_view text) {
    std::uint64_t value = 0;
    for (const char c : text) {
        if (__builtin_mul_overflow(value, 10U, &value) ||
            __builtin_add_overflow(value, static_cast<std::uint64_t>(c - '0'), &value))
            return std::nullopt;
    }
    return value;
}

// A decimal number at the head of a text: "12", "0.01".
struct Decimal {
    std::string_view whole, fraction;
    std::size_t size = 0;
};

std::optional<Decimal> decimal(std::string_view text) {
    const auto digits_from = [text](std::size_t from) {
        std::size_t end = from;
        while (end < text.size() && digit(text[end])) ++end;
        return text.substr(from, end - from);
    };
    Decimal d;
    d.whole = digits_from(0);
    if (d.whole.empty()) return std::nullopt;
    d.size = d.whole.size();
    if (d.size < text.size() && text[d.size] == '.') {
        d.fraction = digits_from(d.size + 1);
        if (d.fraction.empty()) return std::nullopt;
        d.size += 1 + d.fraction.size();
    }
    return d;
}

constexpr std::string_view kDurationNeeds = "a number and a unit, as in 100ns, 5us, 1.5ms, 60s, 2m or 1h";

tl::expected<std::uint64_t, Wrong> duration_at(std::string_view text) {
    const auto wrong = [](std::size_t at, std::string why) {
        return tl::unexpected<Wrong>(Wrong{at, std::move(why), std::string(kDurationNeeds)});
    };
    if (text.empty()) return wrong(0, "nothing where a duration should be");
    if (text.front() == '-') return wrong(0, "a duration cannot be negative");
    const auto number = decimal(text);
    if (!number) return wrong(0, "not a number");
    std::size_t at = number->size;
    if (at < text.size() && text[at] == ' ') ++at;
    const std::string_view name = text.substr(at);
    if (name.empty()) {
        if (text == "0") return 0;
        return wrong(number->size, "the unit is missing");
    }
    const auto* unit = std::find_if(kUnits.begin(), kUnits.end(), [name](const Unit& u) { return u.name == name; });
    if (unit == kUnits.end()) return wrong(at, fmt::format("unknown unit '{}'", name));

    const auto whole = whole_number(number->whole);
    std::uint64_t ns = 0;
    if (!whole || __builtin_mul_overflow(*whole, unit->ns, &ns))
        return wrong(0, "longer than the 584 years that 64 bits of nanoseconds hold");
    std::uint64_t place = unit->ns;
    for (const char c : number->fraction) {
        if (c != '0' && (place == 0 || place % 10 != 0)) return wrong(0, "finer than 1 ns");
        place /= 10;
        if (__builtin_add_overflow(ns, place * static_cast<std::uint64_t>(c - '0'), &ns))
            return wrong(0, "longer than the 584 years that 64 bits of nanoseconds hold");
    }
    return ns;
}

// A tab or an escape sequence in the text would move the caret away from its place.
std::string echo(std::string_view text) {
    std::string out(text);
    std::replace_if(
        out.begin(), out.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
    return out;
}

std::string all_words() {
    std::string out;
    for (int c = 0; c <= static_cast<int>(Cause::unseen); ++c) out += fmt::format("{}, ", name(static_cast<Cause>(c)));
    return out + "sync, async, max or total";
}

// The row that `i` lies directly in; rows come in the order of the report, each followed by what lies inside it.
const Row* parent_of(const std::vector<Row>& rows, std::size_t i) {
    for (std::size_t k = i; k-- > 0;)
        if (rows[k].depth < rows[i].depth) return &rows[k];
    return nullptr;
}

// An interrupt that runs several functions, or a preemption by several tasks, has rows of its own cause inside: they
// are parts of it, not further ones.
bool part_of(const Row& parent, const Row& row) {
    return parent.cause == row.cause || (parent.cause == Cause::blocked && row.cause == Cause::preempted);
}

std::optional<std::string> blind_to(const Header& header, Cause cause) {
    for (const auto& blind : header.blind) {
        std::string word;
        for (const char c : blind.what + " ") {
            if (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_') {
                word += c;
                continue;
            }
            if (cause_named(word) == cause) return fmt::format("blind: {}", blind.why);
            word.clear();
        }
    }
    return std::nullopt;
}

// `run` never has a gap detector, so time that the firmware takes is left out of limits on many causes at once; a limit
// that names it is another matter.
std::optional<std::string> blind_to_any(const Header& header, std::optional<Class> cls) {
    for (int c = 0; c <= static_cast<int>(Cause::unseen); ++c) {
        const auto cause = static_cast<Cause>(c);
        if (cause == Cause::firmware || (cls && class_of(cause) != *cls)) continue;
        if (auto why = blind_to(header, cause)) return fmt::format("not known ({} {})", name(cause), *why);
    }
    return std::nullopt;
}

// Syscalls and faults have exact counters that no full ring can harm. A kind of record whose name is not that of a
// cause may have been of any.
std::uint64_t dropped_of(const Balance& balance, std::optional<Cause> cause) {
    const auto exact = [](std::optional<Cause> c) { return c == Cause::syscall || c == Cause::fault; };
    if (exact(cause)) return 0;
    std::uint64_t dropped = 0;
    for (const auto& [kind, n] : balance.dropped_by_kind) {
        const auto of = cause_named(kind);
        if (kind != "stack" && !exact(of) && (!cause || !of || of == cause)) dropped += n;
    }
    return dropped;
}

template <class Worth>
void worst_first(std::vector<std::size_t>& rows, Worth worth) {
    std::stable_sort(rows.begin(), rows.end(), [&](std::size_t a, std::size_t b) { return worth(a) > worth(b); });
}

}  // namespace

Result<std::uint64_t> parse_duration(std::string_view text) {
    const auto ns = duration_at(text);
    if (ns) return *ns;
    return fail({fmt::format("'{}' is not a duration: {}", echo(text), ns.error().why), ns.error().needs, "", ""});
}

std::string format_duration(std::uint64_t ns) {
    if (ns < 1'000) return fmt::format("{} ns", ns);
    for (std::size_t u = 1; u <= 3; ++u) {
        const std::uint64_t unit = kUnits[u].ns, tenth = unit / 10;
        const std::uint64_t tenths = ns / tenth + (ns % tenth >= tenth / 2 ? 1 : 0);
        if (tenths < 10'000) return fmt::format("{}.{} {}", tenths / 10, tenths % 10, kUnits[u].name);
    }
    return fmt::format("{} s", ns / 1'000'000'000 + (ns % 1'000'000'000 >= 500'000'000 ? 1 : 0));
}

Result<Budget> Budget::parse(std::string_view text) {
    Budget budget;
    const auto wrong = [text](std::size_t at, std::string_view why, std::string needs) {
        // Error::text() puts "  found  " before the first line.
        return fail({fmt::format("the budget does not parse: {}", why), std::move(needs),
                     fmt::format("{}\n{:>{}}", echo(text), "^", 9 + at + 1),
                     "limits with commas between them, as in --budget 'syscall=0,tick<=10,max<=5us,total<=0.01%'"});
    };
    std::size_t at = 0;
    const auto skip_space = [&] {
        while (at < text.size() && space(text[at])) ++at;
    };
    while (true) {
        skip_space();
        const std::size_t begin = at;
        while (at < text.size() && (std::isalpha(static_cast<unsigned char>(text[at])) != 0 || text[at] == '_')) ++at;
        const std::string_view word = text.substr(begin, at - begin);
        Limit limit;
        const auto cause = cause_named(word);
        const bool is_cause = cause.has_value();
        if (is_cause) {
            limit.kind = Limit::Kind::count_of_cause;
            limit.cause = *cause;
        } else if (word == "async" || word == "sync") {
            limit.kind = Limit::Kind::count_of_class;
            limit.cls = word == "async" ? Class::async : Class::sync;
        } else if (word == "max" || word == "total") {
            limit.kind = word == "max" ? Limit::Kind::max : Limit::Kind::total;
        } else {
            return wrong(begin, word.empty() ? "a limit is missing" : fmt::format("unknown word '{}'", word),
                         all_words());
        }

        skip_space();
        const std::size_t op = at;
        if (text.substr(at).starts_with("<="))
            at += 2;
        else if (text.substr(at).starts_with("="))
            at += 1;
        else
            return wrong(at, fmt::format("'{}' has no limit", word), "<= or = and the limit");
        const bool equals = at - op == 1;
        skip_space();

        const std::size_t from = at;
        const std::size_t comma = std::min(text.find(',', from), text.size());
        std::string_view value = text.substr(from, comma - from);
        while (!value.empty() && space(value.back())) value.remove_suffix(1);

        if (limit.kind == Limit::Kind::max || limit.kind == Limit::Kind::total) {
            const bool total = limit.kind == Limit::Kind::total;
            const auto number = decimal(value);
            const std::string_view unit = number ? value.substr(number->size) : std::string_view();
            if (total && (unit == "%" || unit == "ppm")) {
                limit.kind = Limit::Kind::total_share;
                limit.share = std::stod(std::string(value.substr(0, number->size))) / (unit == "%" ? 1e2 : 1e6);
                if (limit.share > 1) return wrong(from, "a share of more than all the time", "at most 100%");
            } else {
                const auto ns = duration_at(value);
                if (!ns)
                    return wrong(from + ns.error().at, ns.error().why,
                                 ns.error().needs + (total ? ", or a share: 0.01% or 100ppm" : ""));
                limit.value = *ns;
            }
            if (equals && (limit.value != 0 || limit.share != 0))
                return wrong(op, fmt::format("'=' on {} can only be met by 0", word),
                             fmt::format("{}<={}", word, value));
        } else {
            std::size_t end = 0;
            while (end < value.size() && digit(value[end])) ++end;
            if (end == 0 || end != value.size())
                return wrong(from + end, fmt::format("{} are counted, and this is not a count", word),
                             "a whole number from 0; times are limited by max and total");
            const auto count = whole_number(value);
            if (!count) return wrong(from, "a number larger than 64 bits hold", fmt::format("at most {}", kMax));
            limit.value = *count;
        }
        limit.text = fmt::format("{}{}{}", word, equals ? "=" : "<=", value);
        budget.limits_.push_back(std::move(limit));
        if (comma == text.size()) return budget;
        at = comma + 1;
    }
}

std::vector<Budget::Violation> Budget::check(const Summary& summary) const {
    const auto& rows = summary.rows;
    const auto& balance = summary.balance;
    std::vector<Violation> violations;

    const auto count_rows = [&](auto counts, auto is_part) {
        std::vector<std::size_t> found;
        for (std::size_t i = 0; i < rows.size(); ++i) {
            const Row* parent = parent_of(rows, i);
            if (!rows[i].away && counts(rows[i]) && rows[i].count > 0 &&
                !(parent != nullptr && is_part(*parent, rows[i])))
                found.push_back(i);
        }
        worst_first(found, [&](std::size_t i) { return rows[i].count; });
        return found;
    };
    const auto check_count = [&](const Limit& limit, std::vector<std::size_t> found,
                                 const std::optional<std::string>& blind, std::uint64_t dropped) {
        const std::uint64_t count =
            std::accumulate(found.begin(), found.end(), std::uint64_t{0},
                            [&](std::uint64_t sum, std::size_t i) { return sum + rows[i].count; });
        if (count > limit.value)
            violations.push_back({limit.text, fmt::format("{}", count), std::move(found)});
        else if (blind)
            violations.push_back({limit.text, *blind, {}});
        else if (dropped > 0)
            violations.push_back(
                {limit.text, fmt::format("not known: {} seen, but {} records dropped", count, dropped), {}});
    };
    const auto departures = [&](auto chosen) {
        std::vector<std::size_t> found;
        for (std::size_t i = 0; i < rows.size(); ++i)
            if (rows[i].depth == 0 && !rows[i].away && chosen(rows[i])) found.push_back(i);
        return found;
    };
    const auto check_max = [&](const Limit& limit) {
        if (balance.worst_ns > limit.value) {
            auto found = departures([&](const Row& row) { return row.max_ns > limit.value; });
            // A departure can be longer than its first cause: a softirq after the interrupt belongs to it.
            if (found.empty()) found = departures([](const Row& row) { return row.max_ns > 0; });
            worst_first(found, [&](std::size_t i) { return rows[i].max_ns; });
            violations.push_back({limit.text, format_duration(balance.worst_ns), std::move(found)});
            return;
        }
        // A signal's delivery is a point inside a departure that is timed; interrupts that are only counted are short,
        // and the report says that they have no time. Anything else without an end could have been longer than the
        // limit.
        auto untimed = departures([](const Row& row) {
            return row.end_unseen > 0 && row.known == Known::traced && row.cause != Cause::signal &&
                   row.cause != Cause::trap && row.detail != "exit" && row.detail != "exit_group";
        });
        if (!untimed.empty())
            violations.push_back({limit.text, "not known: some breaches have no time", std::move(untimed)});
        else if (const auto blind = blind_to_any(summary.header, std::nullopt))
            violations.push_back({limit.text, *blind, {}});
        else if (const auto dropped = dropped_of(balance, std::nullopt); dropped > 0)
            violations.push_back({limit.text, fmt::format("not known: {} records dropped", dropped), {}});
    };
    const auto check_total = [&](const Limit& limit) {
        const bool share = limit.kind == Limit::Kind::total_share;
        const double allowed = share ? limit.share * static_cast<double>(balance.watched_ns) : 0;
        const auto over = [&](std::uint64_t ns) {
            return share ? static_cast<double>(ns) > allowed : ns > limit.value;
        };
        const auto amount = [&](std::uint64_t ns) {
            if (!share || balance.watched_ns == 0) return format_duration(ns);
            return fmt::format("{} ({:.4g}%)", format_duration(ns),
                               100.0 * static_cast<double>(ns) / static_cast<double>(balance.watched_ns));
        };
        auto found = departures([](const Row& row) { return row.total_ns > 0; });
        worst_first(found, [&](std::size_t i) { return rows[i].total_ns; });
        if (balance.lost_ns && over(*balance.lost_ns))
            violations.push_back({limit.text, amount(*balance.lost_ns), std::move(found)});
        else if (!balance.lost_ns && balance.explained_ns && over(*balance.explained_ns))
            violations.push_back({limit.text, "at least " + amount(*balance.explained_ns), std::move(found)});
        else if (!balance.lost_ns)
            violations.push_back({limit.text, "not known: nothing measured the time lost", {}});
        else if (share && balance.watched_ns == 0)
            violations.push_back({limit.text, "not known: nothing was watched", {}});
    };

    for (const auto& limit : limits_) {
        switch (limit.kind) {
            case Limit::Kind::count_of_cause:
                check_count(limit, count_rows([&](const Row& row) { return row.cause == limit.cause; }, part_of),
                            blind_to(summary.header, limit.cause), dropped_of(balance, limit.cause));
                break;
            case Limit::Kind::count_of_class:
                check_count(limit,
                            count_rows([&](const Row& row) { return row.cls == limit.cls; },
                                       [](const Row& parent, const Row& row) { return parent.cls == row.cls; }),
                            blind_to_any(summary.header, limit.cls),
                            dropped_of(balance, limit.cls == Class::async ? std::nullopt : std::optional(Cause::trap)));
                break;
            case Limit::Kind::max:
                check_max(limit);
                break;
            case Limit::Kind::total:
            case Limit::Kind::total_share:
                check_total(limit);
                break;
        }
    }
    return violations;
}

}  // namespace cloister::breach
