#include "breach/tally.hpp"

#include <algorithm>
#include <iterator>
#include <map>
#include <optional>
#include <tuple>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "breach/kernel_names.hpp"

namespace cloister::breach {

namespace {

constexpr std::size_t kMaxRows = 4096;
constexpr std::size_t kMaxSites = 64;       // of one row
constexpr std::size_t kMaxThreads = 65536;  // whose last departure is remembered
constexpr int kMaxDepth = 4;
constexpr const char* kMore = "(more)";

// What exact counters count: all rows of a cause and detail, on the watched CPU or away from it.
struct What {
    Cause cause;
    std::string detail;
    bool away = false;

    auto operator<=>(const What&) const = default;
    [[nodiscard]] bool is(const Row& row) const {
        return row.cause == cause && row.detail == detail && row.away == away;
    }
};

struct Node {
    Row row;
    std::uint64_t away_ns = 0;  // with what followed before the thread was back
    std::optional<Party> who;
    std::map<std::string, std::unique_ptr<Node>> nested;
};
using Level = std::map<std::string, std::unique_ptr<Node>>;

// Who it was, apart from which of its threads or instances.
std::string identity(const Party& who) {
    if (who.interrupt) return "an interrupt";
    if (is_pooled(who.comm)) return std::string(steady_comm(who.comm));
    return fmt::format("{}/{}", who.comm, who.tgid);
}

std::string key_of(const Breach& breach) {
    const std::string who = breach.who ? identity(*breach.who) : "";
    return fmt::format("{}/{}/{}/{}/{}", static_cast<int>(breach.cause), static_cast<int>(breach.cls),
                       breach.who && breach.who->observer, breach.detail, who);
}

// How a row is called in the path of those inside it.
std::string label(const Row& row) {
    const std::string_view cause = name(row.cause);
    if (row.detail.empty()) return std::string(cause);
    if (row.detail.starts_with(fmt::format("{} ", cause))) return row.detail;  // "irq 36 virtio1-req.0"
    return fmt::format("{} {}", cause, row.detail);
}

// One party stands for all of a row: what differs between them goes.
void merge(Party& into, const Party& other) {
    if (into.cpu != other.cpu) into.cpu = -1;
    if (into.tid != other.tid) into.tid = into.tgid;
}

std::string text(const Party& who) {
    if (who.observer || !is_pooled(who.comm)) return who.text();
    return fmt::format("{}{}", steady_comm(who.comm), who.cpu >= 0 ? fmt::format(" on cpu {}", who.cpu) : "");
}

void add_site(Row& row, const Breach& breach) {
    const bool own = breach.cls != Class::async;
    if (!own && !breach.who) return;
    const std::uint64_t pc = own ? breach.pc : 0;
    const std::uint64_t site = own ? breach.site : breach.who->site;
    const StackPtr& stack = own ? breach.stack : breach.who->stack;
    const std::uint64_t key = site ? site : pc;
    if (key == 0) return;
    auto found = row.sites.find(key);
    if (found == row.sites.end()) {
        if (row.sites.size() >= kMaxSites) {
            ++row.sites_over;
            return;
        }
        found = row.sites.try_emplace(key).first;
        found->second.pc = pc;
        found->second.tgid = own ? breach.tgid : breach.who->tgid;
    }
    ++found->second.count;
    if (!found->second.stack) found->second.stack = stack;
}

enum class Offender { told, summed };

void add_to(Node& node, const Breach& breach, Offender offender) {
    Row& row = node.row;
    row.first_ns = row.count == 0 ? breach.start_ns : std::min(row.first_ns, breach.start_ns);
    row.last_ns = std::max(row.last_ns, breach.end_ns);
    ++row.count;
    ++row.recorded;
    if (breach.end_seen) {
        row.total_ns += breach.duration_ns();
        row.max_ns = std::max(row.max_ns, breach.duration_ns());
        node.away_ns += breach.departure_ns();
    } else {
        ++row.end_unseen;
    }
    if (breach.who && offender == Offender::told) {
        if (node.who)
            merge(*node.who, *breach.who);
        else
            node.who = *breach.who;
    }
    add_site(row, breach);
}

// Sums over all places in the tree.
struct Sum {
    std::uint64_t count = 0, total_ns = 0, max_ns = 0, end_unseen = 0;
};

void sum(const Level& level, const What& what, Sum& into) {
    for (const auto& [_, node] : level) {
        const Row& row = node->row;
        if (what.is(row)) {
            into.count += row.count;
            into.total_ns += row.total_ns;
            into.max_ns = std::max(into.max_ns, row.max_ns);
            into.end_unseen += row.end_unseen;
        }
        sum(node->nested, what, into);
    }
}

// What exact counters know beyond the records.
struct Excess {
    std::uint64_t count = 0, total_ns = 0, max_ns = 0;
};

Excess beyond(const Level& level, const What& what, const cl_cell& cell) {
    Sum seen;
    sum(level, what, seen);
    // A syscall counts when it returns; one that was seen open at the end has not.
    const std::uint64_t count = cell.count + (what.cause == Cause::syscall ? seen.end_unseen : 0);
    return {.count = count - std::min(count, seen.count),
            .total_ns = cell.total - std::min(cell.total, seen.total_ns),
            .max_ns = count > seen.count ? std::min(cell.max, cell.total) : 0};
}

// A fault in the kernel lies inside a syscall, whose own counter has its time.
bool is_inside_counted(const What& what) { return what.cause == Cause::fault && what.detail.ends_with(", in kernel"); }

void keep_most_frequent(Row& row) {
    if (row.sites.size() <= kMaxSites) return;
    std::vector<std::pair<std::uint64_t, std::uint64_t>> by_count;  // count, site
    for (const auto& [site, counts] : row.sites) by_count.emplace_back(counts.count, site);
    std::ranges::sort(by_count, std::greater());
    for (auto rest = by_count.begin() + kMaxSites; rest != by_count.end(); ++rest) {
        row.sites_over += rest->first;
        row.sites.erase(rest->second);
    }
}

struct Line {
    Row row;
    std::uint64_t away_ns = 0;
    const Level* nested = nullptr;
};

bool before(const Line& a, const Line& b) {
    const auto rank = [](const Line& line) {
        const Row& row = line.row;
        return std::tuple(~line.away_ns, ~row.count, row.cause, std::string_view(row.detail), row.cls,
                          std::string_view(row.who));
    };
    return rank(a) < rank(b);
}

std::vector<Line> lines_of(const Level& level) {
    std::vector<Line> lines;
    for (const auto& [_, node] : level) {
        Line& line = lines.emplace_back(Line{node->row, node->away_ns, &node->nested});
        if (node->who) line.row.who = text(*node->who);
    }
    return lines;
}

void flatten(std::vector<Line> lines, std::vector<Row>& into) {
    std::ranges::sort(lines, before);
    for (Line& line : lines) {
        if (line.row.count != 0) into.push_back(std::move(line.row));
        if (line.nested) flatten(lines_of(*line.nested), into);
    }
}

Line& line_of(std::vector<Line>& lines, const What& what) {
    const auto found = std::ranges::find_if(lines, [&](const Line& line) { return what.is(line.row); });
    if (found != lines.end()) return *found;
    Line& line = lines.emplace_back();
    line.row.cause = what.cause;
    line.row.cls = class_of(what.cause);
    line.row.known = Known::counted;
    line.row.detail = what.detail;
    line.row.away = what.away;
    return line;
}

}  // namespace

struct Tally::Impl {
    [[nodiscard]] bool away(const Breach& departure) const {
        return cpu >= 0 && departure.cpu >= 0 && departure.cpu != cpu;
    }
    void add(Level& level, const Breach& breach, int depth, const Node* outer);
    void add_more(const Breach& breach, int depth, bool elsewhere);
    void lose(std::uint32_t tid, std::uint64_t start_ns, std::uint64_t end_ns);
    Node& make(Level& level, std::string key, const Breach& breach, std::string detail, int depth, const Node* outer);

    int cpu = -1;
    Level rows, more, more_inside;
    std::size_t row_count = 0;
    std::uint64_t departures = 0, worst_ns = 0, lost_ns = 0;
    std::unordered_map<std::uint32_t, std::uint64_t> back_at;  // by thread: the end of its last departure
    std::map<What, cl_cell> exact;
    std::map<What, std::map<std::uint64_t, Row::Site>> exact_sites;
    std::map<What, std::uint64_t> counted;
};

Node& Tally::Impl::make(Level& level, std::string key, const Breach& breach, std::string detail, int depth,
                        const Node* outer) {
    auto& node = level[std::move(key)] = std::make_unique<Node>();
    Row& row = node->row;
    row.cause = breach.cause;
    row.cls = breach.cls;
    row.known = breach.known;
    row.detail = std::move(detail);
    row.depth = depth;
    row.observer = breach.who && breach.who->observer;
    row.away = outer ? outer->row.away : away(breach);
    if (outer) row.inside = outer->row.inside + (outer->row.inside.empty() ? "" : " > ") + label(outer->row);
    return *node;
}

void Tally::Impl::add(Level& level, const Breach& breach, int depth, const Node* outer) {
    std::string key = key_of(breach);
    if (!outer && away(breach)) key += "/away";
    auto found = level.find(key);
    if (found == level.end() && row_count >= kMaxRows)
        return add_more(breach, depth, outer ? outer->row.away : away(breach));
    if (found == level.end()) ++row_count;
    Node& node =
        found != level.end() ? *found->second : make(level, std::move(key), breach, breach.detail, depth, outer);
    add_to(node, breach, Offender::told);
    for (const Breach& child : breach.children) {
        if (depth < kMaxDepth)
            add(node.nested, child, depth + 1, &node);
        else
            add(level, child, depth, outer);  // the path ends here
    }
}

void Tally::Impl::add_more(const Breach& breach, int depth, bool elsewhere) {
    Level& level = depth == 0 ? more : more_inside;
    std::string key = fmt::format("{}{}", static_cast<int>(breach.cause), elsewhere ? "/away" : "");
    auto found = level.find(key);
    if (found == level.end()) {
        Row& row = make(level, std::move(key), breach, kMore, std::min(depth, 1), nullptr).row;
        if (depth != 0) row.inside = kMore;
        row.observer = false;
        row.away = elsewhere;
        return add_more(breach, depth, elsewhere);
    }
    add_to(*found->second, breach, Offender::summed);
    for (const Breach& child : breach.children) add_more(child, depth + 1, elsewhere);
}

void Tally::Impl::lose(std::uint32_t tid, std::uint64_t start_ns, std::uint64_t end_ns) {
    if (back_at.size() >= kMaxThreads) back_at.clear();  // each remembers only what a later one might overlap
    std::uint64_t& back = back_at[tid];
    start_ns = std::max(start_ns, back);
    if (end_ns <= start_ns) return;
    lost_ns += end_ns - start_ns;
    back = end_ns;
}

Tally::Tally(int cpu) : impl_(std::make_unique<Impl>()) { impl_->cpu = cpu; }
Tally::~Tally() = default;
Tally::Tally(Tally&&) noexcept = default;
Tally& Tally::operator=(Tally&&) noexcept = default;

void Tally::add(const Breach& departure) {
    impl_->add(impl_->rows, departure, 0, nullptr);
    if (impl_->away(departure)) return;
    ++impl_->departures;
    if (departure.end_seen) {
        impl_->worst_ns = std::max(impl_->worst_ns, departure.departure_ns());
        impl_->lose(departure.tid, departure.start_ns, departure.start_ns + departure.departure_ns());
        return;
    }
    // Its end is only when the thread was seen again; what lies inside it is certain.
    for (const Breach& child : departure.children) {
        if (!child.end_seen) continue;
        impl_->worst_ns = std::max(impl_->worst_ns, child.duration_ns());
        impl_->lose(departure.tid, child.start_ns, child.end_ns);
    }
}

void Tally::exact(Cause cause, const std::string& detail, const cl_cell& cell, bool away) {
    if (cell.count == 0) return;
    auto [found, fresh] = impl_->exact.try_emplace({cause, detail, away}, cell);
    if (fresh) return;
    cl_cell& all = found->second;
    all.count += cell.count;
    all.total += cell.total;
    all.max = std::max(all.max, cell.max);
    all.first = std::min(all.first, cell.first);
    all.last = std::max(all.last, cell.last);
    all.recorded += cell.recorded;
}

void Tally::exact_site(Cause cause, const std::string& detail, std::uint64_t site, const cl_site& counts,
                       StackPtr stack, bool away) {
    Row::Site& exact = impl_->exact_sites[{cause, detail, away}][site];
    exact.count += counts.count;
    exact.pc = cause == Cause::fault ? counts.ip : 0;
    exact.tgid = counts.tgid;
    if (stack) exact.stack = std::move(stack);
}

void Tally::counted(Cause cause, const std::string& detail, std::uint64_t count) {
    if (count != 0) impl_->counted[{cause, detail, false}] += count;
}

std::vector<Row> Tally::rows() const {
    std::vector<Line> lines = lines_of(impl_->rows);
    for (const auto& [what, cell] : impl_->exact) {
        const Excess excess = beyond(impl_->rows, what, cell);
        if (excess.count == 0 && excess.total_ns == 0) continue;
        Line& line = line_of(lines, what);
        line.away_ns += excess.total_ns;
        Row& row = line.row;
        row.first_ns = row.count == 0 ? cell.first : std::min(row.first_ns, cell.first);
        row.last_ns = std::max(row.last_ns, cell.last);
        row.count += excess.count;
        row.total_ns += excess.total_ns;
        row.max_ns = std::max(row.max_ns, excess.max_ns);
    }
    for (const auto& [what, sites] : impl_->exact_sites) {
        Row& row = line_of(lines, what).row;
        row.sites_over = 0;  // they are all here
        for (const auto& [id, exact] : sites) {
            Row::Site& site = row.sites[id];
            StackPtr stack = exact.stack ? exact.stack : std::move(site.stack);
            site = exact;
            site.stack = std::move(stack);
        }
        keep_most_frequent(row);
    }
    for (const auto& [what, count] : impl_->counted) {
        Row& row = line_of(lines, what).row;
        if (count <= row.count) continue;
        row.end_unseen += count - row.count;
        row.count = count;
    }
    std::vector<Row> rows;
    flatten(std::move(lines), rows);
    flatten(lines_of(impl_->more), rows);
    flatten(lines_of(impl_->more_inside), rows);
    return rows;
}

std::uint64_t Tally::departures() const {
    std::uint64_t count = impl_->departures;
    for (const auto& [what, cell] : impl_->exact)
        if (!what.away && !is_inside_counted(what)) count += beyond(impl_->rows, what, cell).count;
    return count;
}

std::uint64_t Tally::worst_ns() const {
    std::uint64_t worst = impl_->worst_ns;
    for (const auto& [what, cell] : impl_->exact)
        if (!what.away) worst = std::max(worst, cell.max);
    return worst;
}

std::uint64_t Tally::lost_ns() const {
    std::uint64_t lost = impl_->lost_ns;
    for (const auto& [what, cell] : impl_->exact)
        if (!what.away && !is_inside_counted(what)) lost += beyond(impl_->rows, what, cell).total_ns;
    return lost;
}

}  // namespace cloister::breach
