#include "tracepoint/registry.hpp"

#include <fnmatch.h>
#include <pthread.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "tracepoint/filter.hpp"
#include "tracepoint/grace.hpp"
#include "tracepoint/patch.hpp"
#include "tracepoint/probes.hpp"
#include "tracepoint/threads.hpp"
#include "tracepoint/trap.hpp"

namespace cloister::tracepoint {
namespace {

struct Rule {
    std::uint64_t number;  // never used twice
    std::string glob;
    bool on = false;
    int level = CLOISTER_DEBUG;
    Parsed filter = {};
    int owner = 0;  // 0: the program itself; see enable_for
};

struct Attachment {
    int id;
    std::string glob;
    Probe probe;
    decltype(cloister_tracer::bind) bind =
        nullptr;  // of a tracer, whose owner is the probe's data; null: the same for all
};

struct Known {
    cloister_class* event_class;
    std::string name;                               // provider:name
    std::uint64_t rule = 0;                         // that it follows; 0: off
    std::uint64_t unfit = 0;                        // the rule whose filter does not fit it, so that it is off
    std::vector<std::pair<int, void*>> bound = {};  // by attachment: what its tracer has answered
};

bool matches(const std::string& glob, const std::string& name) { return fnmatch(glob.c_str(), name.c_str(), 0) == 0; }

std::string_view trimmed(std::string_view text) {
    while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
    while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
    return text;
}

// GLOB[@LEVEL][ if FILTER]
Result<Rule> parse_entry(std::string_view entry) {
    const std::string whole(trimmed(entry));
    std::string_view filter;
    if (const auto at = entry.find(" if "); at != std::string_view::npos) {
        filter = entry.substr(at + 4);
        entry = entry.substr(0, at);
    }
    entry = trimmed(entry);
    Rule rule{.number = 0, .glob = {}, .on = true};
    if (const auto at = entry.rfind('@'); at != std::string_view::npos) {
        const std::string_view digits = entry.substr(at + 1);
        if (digits.size() != 1 || digits[0] < '0' || digits[0] > '7')
            return fail({.what = "cannot understand which tracepoints '" + whole + "' is",
                         .needs = "GLOB@LEVEL, with a level of 0 to 7",
                         .found = "level " + std::string(digits)});
        rule.level = digits[0] - '0';
        entry = entry.substr(0, at);
    }
    if (entry.empty())
        return fail({.what = "cannot understand which tracepoints '" + whole + "' is",
                     .needs = "GLOB[@LEVEL][ if FILTER], as in 'book:*@6 if price > 10'",
                     .found = "no glob"});
    auto parsed = parse_filter(filter);
    if (!parsed) return fail(parsed.error());
    rule.glob = entry;
    rule.filter = *parsed;
    return rule;
}

// Entries separated by ";"; one in a filter's string does not end the entry.
std::vector<std::string_view> split_entries(std::string_view text) {
    std::vector<std::string_view> out;
    while (!text.empty()) {
        std::size_t end = 0;
        for (bool quoted = false; end < text.size() && (quoted || text[end] != ';'); ++end)
            if (text[end] == '"') quoted = !quoted;
        if (const auto entry = trimmed(text.substr(0, end)); !entry.empty()) out.push_back(entry);
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return out;
}

class Registry {
public:
    Registry();

    std::mutex lock;

    void enter(cloister_module& module);
    void leave(cloister_module& module);
    Result<int> change(std::string_view glob, std::optional<Rule> rule);
    Result<int> enable_all(std::vector<Rule> rules);
    Result<int> release(int owner);
    Result<int> add(std::string_view glob, const Probe& probe, decltype(cloister_tracer::bind) bind = nullptr);
    Result<int> remove(int id);
    int visit(int (*visitor)(void*, const cloister_class*), void* data);
    std::string load_errors;

private:
    [[nodiscard]] const Rule* rule_for(const Known& known) const;
    [[nodiscard]] std::vector<const cloister_site*> sites() const;
    Result<void> follow_rules(bool loading = false);
    Result<void> replace_rules(std::vector<Rule> rules);
    static std::string bind(Known& known, const Attachment& to);  // what went wrong
    void rebuild_probes(const Known& known) const;
    void read_environment();

    std::vector<cloister_module*> modules_;
    std::vector<Known> classes_;
    std::vector<Rule> rules_;
    std::vector<Attachment> attachments_;
    std::uint64_t rules_made_ = 0;
    int probes_made_ = 0;
};

// Made by the first module that registers, and never destroyed: the last one leaves after static destructors have run.
Registry& registry() {
    static auto* const one = new Registry;
    return *one;
}

Registry::Registry() {
    pthread_atfork([] { registry().lock.lock(); }, [] { registry().lock.unlock(); },
                   [] {
                       forget_other_threads();
                       forget_other_handlers();
                       registry().lock.unlock();
                   });
    read_environment();
}

void Registry::read_environment() {
    const char* const value = secure_getenv("CLOISTER_TRACE");
    for (const auto entry : split_entries(value ? value : "")) {
        auto rule = parse_entry(entry);
        if (!rule) {
            load_errors += rule.error().text();
            continue;
        }
        rules_.push_back(std::move(*rule));
        rules_.back().number = ++rules_made_;
    }
}

const Rule* Registry::rule_for(const Known& known) const {
    for (auto rule = rules_.rbegin(); rule != rules_.rend(); ++rule)
        if (matches(rule->glob, known.name) && known.event_class->level <= rule->level)
            return rule->on ? &*rule : nullptr;
    return nullptr;
}

std::vector<const cloister_site*> Registry::sites() const {
    std::vector<const cloister_site*> all;
    for (const cloister_module* module : modules_)
        for (const cloister_site* site = module->start; site != module->stop; ++site) all.push_back(site);
    return all;
}

// Makes every class what its rule says. Either all of it happens, or nothing; but a class that is being loaded and that
// a filter does not fit just stays off, as nobody is there who could choose another.
Result<void> Registry::follow_rules(bool loading) {
    struct Step {
        Known* known;
        std::uint64_t rule;
        const Program* filter;
    };
    std::vector<Step> steps;
    for (Known& known : classes_) {
        const Rule* const rule = rule_for(known);
        const std::uint64_t number = rule ? rule->number : 0;
        if (number == known.rule || (number != 0 && number == known.unfit)) continue;
        auto filter = compile_filter(rule ? rule->filter : Parsed(), *known.event_class);
        if (!filter && loading) {
            known.unfit = number;
            load_errors += filter.error().text();
            continue;
        }
        if (!filter) {
            for (const Step& step : steps) std::free(const_cast<Program*>(step.filter));
            return fail(filter.error());
        }
        steps.push_back({&known, number, *filter});
    }
    if (steps.empty()) return {};
    for (const Step& step : steps) {
        // The filter of a class that goes off stays: events that are under way would pass unfiltered.
        if (step.rule) publish(step.known->event_class->filter, step.filter);
        __atomic_store_n(&step.known->event_class->on, step.rule != 0, __ATOMIC_RELEASE);  // P-a
    }
    const auto all = sites();
    auto done = apply(all);
    if (!done) {
        for (const Step& step : steps)
            __atomic_store_n(&step.known->event_class->on, step.known->rule != 0, __ATOMIC_RELEASE);
        (void)apply(all);
        return fail(done.error());
    }
    for (const Step& step : steps) step.known->rule = step.rule;
    return {};
}

// All of it, or nothing.
Result<void> Registry::replace_rules(std::vector<Rule> rules) {
    std::swap(rules, rules_);
    auto ok = follow_rules();
    if (!ok) std::swap(rules, rules_);
    return ok;
}

Result<int> Registry::change(std::string_view glob, std::optional<Rule> rule) {
    std::vector<Rule> rules = rules_;
    const bool all_off = glob == "*" && !rule;
    std::erase_if(rules, [&](const Rule& old) { return old.owner == 0 && (old.glob == glob || all_off); });
    // "*" off leaves nothing to remember, unless others want something: off is what everything is by itself.
    if (!all_off || !rules.empty()) {
        rules.push_back(rule ? *rule : Rule{.number = 0, .glob = std::string(glob)});
        rules.back().number = ++rules_made_;
    }
    if (auto ok = replace_rules(std::move(rules)); !ok) return fail(ok.error());
    int count = 0;
    for (const Known& known : classes_)
        count += matches(std::string(glob), known.name) && (!rule || known.event_class->level <= rule->level);
    return count;
}

Result<int> Registry::enable_all(std::vector<Rule> wanted) {
    std::vector<Rule> rules = rules_;
    for (Rule& rule : wanted) {
        rule.number = ++rules_made_;
        rules.push_back(rule);
    }
    if (auto ok = replace_rules(std::move(rules)); !ok) return fail(ok.error());
    int count = 0;
    for (const Known& known : classes_)
        count += std::any_of(wanted.begin(), wanted.end(), [&](const Rule& rule) {
            return matches(rule.glob, known.name) && known.event_class->level <= rule.level;
        });
    return count;
}

Result<int> Registry::release(int owner) {
    std::vector<Rule> rules = rules_;
    const auto released = std::erase_if(rules, [&](const Rule& rule) { return rule.owner == owner; });
    if (auto ok = replace_rules(std::move(rules)); !ok) return fail(ok.error());
    return static_cast<int>(released);
}

void Registry::rebuild_probes(const Known& known) const {
    std::vector<Probe> probes;
    for (const Attachment& one : attachments_) {
        if (!matches(one.glob, known.name)) continue;
        Probe probe = one.probe;
        if (one.bind) {
            const auto bound = std::ranges::find(known.bound, one.id, &std::pair<int, void*>::first);
            probe.data = bound != known.bound.end() ? bound->second : nullptr;
            if (!probe.data) continue;
        }
        probes.push_back(probe);
    }
    ProbeList* list = nullptr;
    if (!probes.empty()) {
        const std::size_t size = probes.size() * sizeof(Probe);
        list = static_cast<ProbeList*>(std::malloc(sizeof(ProbeList) + size));
        list->count = static_cast<std::uint32_t>(probes.size());
        std::memcpy(list->probes, probes.data(), size);
    }
    publish(known.event_class->probes, list);
}

std::string Registry::bind(Known& known, const Attachment& to) {
    if (!to.bind) return {};
    std::array<char, 2048> error{};
    known.bound.emplace_back(to.id, to.bind(to.probe.data, known.event_class, error.data(), error.size()));
    return error.data();
}

Result<int> Registry::add(std::string_view glob, const Probe& probe, decltype(cloister_tracer::bind) bind_class) {
    attachments_.push_back({++probes_made_, std::string(glob), probe, bind_class});
    for (Known& known : classes_)
        if (auto error = bind(known, attachments_.back()); !error.empty()) {
            (void)remove(probes_made_);
            return fail({.what = std::move(error)});
        }
    for (const Known& known : classes_)
        if (matches(attachments_.back().glob, known.name)) rebuild_probes(known);
    return probes_made_;
}

Result<int> Registry::remove(int id) {
    const auto found =
        std::find_if(attachments_.begin(), attachments_.end(), [id](const Attachment& one) { return one.id == id; });
    if (found == attachments_.end())
        return fail({.what = "cannot remove probe " + std::to_string(id),
                     .needs = "the id of a probe that was added, and not yet removed",
                     .found = "none"});
    const std::string glob = found->glob;
    attachments_.erase(found);
    for (Known& known : classes_) {
        std::erase_if(known.bound, [id](const auto& bound) { return bound.first == id; });
        if (matches(glob, known.name)) rebuild_probes(known);
    }
    return 0;
}

void Registry::enter(cloister_module& module) {
    if (module.state) return;
    module.state = this;
    modules_.push_back(&module);
    know_sites(sites());
    for (const cloister_site* site = module.start; site != module.stop; ++site) {
        const auto is_it = [site](const Known& known) { return known.event_class == site->event_class; };
        if (std::any_of(classes_.begin(), classes_.end(), is_it)) continue;
        classes_.push_back(
            {site->event_class, std::string(site->event_class->provider) + ":" + site->event_class->name});
        for (const Attachment& one : attachments_) load_errors += bind(classes_.back(), one);
        rebuild_probes(classes_.back());
    }
    if (auto ok = follow_rules(true); !ok) load_errors += ok.error().text();
}

void Registry::leave(cloister_module& module) {
    if (!module.state) return;
    module.state = nullptr;
    std::erase(modules_, &module);
    know_sites(sites());
    for (const cloister_site* site = module.start; site != module.stop; ++site) {
        publish(site->event_class->probes, nullptr);
        publish(site->event_class->filter, nullptr);
        std::erase_if(classes_, [site](const Known& known) { return known.event_class == site->event_class; });
    }
}

int Registry::visit(int (*visitor)(void*, const cloister_class*), void* data) {
    int result = 0;
    for (auto known = classes_.begin(); result == 0 && known != classes_.end(); ++known)
        result = visitor(data, known->event_class);
    return result;
}

}  // namespace

std::mutex& writers() { return registry().lock; }

namespace {

// A program that never synchronizes does not keep all that it has ever replaced. Not under the lock.
void free_some(std::size_t count) {
    constexpr std::size_t kMany = 1000;
    constexpr std::uint64_t kSoonNs = 1'000'000;
    if (count > kMany) (void)synchronize(kSoonNs);
}

template <class Change>
Result<int> locked(Change change) {
    std::unique_lock lock(writers());
    auto result = change(registry());
    const std::size_t count = retired();
    lock.unlock();
    free_some(count);
    return result;
}

Result<int> add(std::string_view glob, const cloister_tracer& tracer) {
    if (tracer.tracer < 0 || tracer.tracer > 63)
        return fail({.what = "cannot add a probe for tracer " + std::to_string(tracer.tracer),
                     .needs = "a tracer of 0 to 63",
                     .found = std::to_string(tracer.tracer)});
    return locked([&](Registry& all) {
        return all.add(glob, {tracer.probe, tracer.owner, std::uint64_t{1} << tracer.tracer}, tracer.bind);
    });
}

}  // namespace

Result<int> enable(std::string_view glob, int level, std::string_view filter) {
    if (level < CLOISTER_EMERGENCY || level > CLOISTER_DEBUG)
        return fail({.what = "no log level " + std::to_string(level),
                     .needs = "0 (CLOISTER_EMERGENCY) to 7 (CLOISTER_DEBUG)",
                     .found = std::to_string(level)});
    auto parsed = parse_filter(filter);
    if (!parsed) return fail(parsed.error());
    return locked([&](Registry& all) { return all.change(glob, Rule{0, std::string(glob), true, level, *parsed}); });
}

Result<int> disable(std::string_view glob) {
    return locked([&](Registry& all) { return all.change(glob, std::nullopt); });
}

Result<int> enable_for(int owner, std::string_view entries) {
    std::vector<Rule> rules;
    for (const auto entry : split_entries(entries)) {
        auto rule = parse_entry(entry);
        if (!rule) return fail(rule.error());
        rule->owner = owner;
        rules.push_back(std::move(*rule));
    }
    return locked([&](Registry& all) { return all.enable_all(std::move(rules)); });
}

Result<int> release(int owner) {
    return locked([&](Registry& all) { return all.release(owner); });
}

Result<void> check_entries(std::string_view entries) {
    for (const auto entry : split_entries(entries))
        if (auto rule = parse_entry(entry); !rule) return fail(rule.error());
    return {};
}

Result<int> add_tracer(const cloister_tracer& tracer) { return add("*", tracer); }

Result<int> add_probe(std::string_view glob, cloister_probe probe, void* data, int tracer) {
    return add(glob, {probe, tracer, nullptr, data});
}

Result<int> remove_probe(int id) {
    return locked([&](Registry& all) { return all.remove(id); });
}

std::string load_errors() {
    const std::lock_guard lock(writers());
    return registry().load_errors;
}

}  // namespace cloister::tracepoint

using cloister::tracepoint::registry;
using cloister::tracepoint::writers;

// The linker takes from an archive only what is asked for. A program that does nothing but fire events has the control
// all the same, for a recorder that is loaded into it.
[[gnu::used]] static const auto control = &cloister_trace_add_probe;

extern "C" void cloister_trace_register(cloister_module* module) {
    const std::lock_guard lock(writers());
    registry().enter(*module);
}

extern "C" void cloister_trace_unregister(cloister_module* module) {
    const std::lock_guard lock(writers());
    registry().leave(*module);
}

extern "C" int cloister_trace_classes(int (*visit)(void*, const cloister_class*), void* data) {
    const std::lock_guard lock(writers());
    return registry().visit(visit, data);
}
