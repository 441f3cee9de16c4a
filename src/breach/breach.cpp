#include "breach/breach.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>

namespace cloister::breach {

namespace {

struct CauseWord {
    Cause cause;
    Class cls;
    std::string_view name;
    // What else people and headers call it; the plural with "s" needs no mention.
    std::string_view also;
};

constexpr std::array<CauseWord, 18> kCauses{{
    {Cause::syscall, Class::syscall, "syscall", ""},
    {Cause::fault, Class::sync, "fault", "pagefault"},
    {Cause::trap, Class::sync, "trap", "exception"},
    {Cause::signal, Class::async, "signal", ""},
    {Cause::tick, Class::async, "tick", ""},
    {Cause::timer, Class::async, "timer", "hrtimer"},
    {Cause::irq, Class::async, "irq", ""},
    {Cause::softirq, Class::async, "softirq", ""},
    {Cause::ipi, Class::async, "ipi", ""},
    {Cause::nmi, Class::async, "nmi", ""},
    {Cause::preempted, Class::async, "preempted", "preemption"},
    {Cause::blocked, Class::syscall, "blocked", ""},
    {Cause::workqueue, Class::async, "workqueue", ""},
    {Cause::migrated, Class::async, "migrated", "migration"},
    {Cause::interrupt, Class::async, "interrupt", ""},
    {Cause::firmware, Class::async, "firmware", "hypervisor"},
    {Cause::entry, Class::async, "entry", ""},
    {Cause::unseen, Class::async, "unseen", ""},
}};

const CauseWord& word(Cause cause) {
    return *std::find_if(kCauses.begin(), kCauses.end(), [cause](const CauseWord& w) { return w.cause == cause; });
}

}  // namespace

std::string_view name(Class cls) {
    switch (cls) {
        case Class::syscall:
            return "syscall";
        case Class::sync:
            return "sync";
        case Class::async:
            return "async";
    }
    return "async";
}

std::string_view name(Known known) {
    switch (known) {
        case Known::traced:
            return "traced";
        case Known::counted:
            return "counted";
        case Known::inferred:
            return "inferred";
    }
    return "inferred";
}

std::string_view name(Cause cause) { return word(cause).name; }

Class class_of(Cause cause) { return word(cause).cls; }

std::optional<Cause> cause_named(std::string_view text) {
    const auto named = [](std::string_view t) -> std::optional<Cause> {
        if (t.empty()) return std::nullopt;
        const auto* it = std::find_if(kCauses.begin(), kCauses.end(),
                                      [t](const CauseWord& w) { return w.name == t || w.also == t; });
        return it == kCauses.end() ? std::nullopt : std::optional(it->cause);
    };
    if (const auto exact = named(text)) return exact;
    if (!text.empty() && text.back() == 's') return named(text.substr(0, text.size() - 1));
    return std::nullopt;
}

std::string Party::text() const {
    std::string out = observer    ? "cloister itself"
                      : interrupt ? "an interrupt"
                      : tid == 0  ? "kernel"
                                  : fmt::format("{}/{}", comm, tid);
    if (cpu >= 0) out += fmt::format(" on cpu {}", cpu);
    return out;
}

}  // namespace cloister::breach
