#include "tracepoint/patch.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include "tracepoint/membarrier.hpp"
#include "tracepoint/trap.hpp"

namespace cloister::tracepoint {
namespace {

using Bytes = std::array<unsigned char, 5>;

constexpr Bytes kNop = {0x0f, 0x1f, 0x44, 0x00, 0x00};  // nopl 0x0(%rax,%rax,1)
constexpr unsigned char kBreakpoint = 0xcc;             // int3
constexpr unsigned char kJump = 0xe9;                   // jmp rel32

Bytes bytes_at(const unsigned char* at) {
    Bytes bytes;
    std::memcpy(bytes.data(), at, bytes.size());
    return bytes;
}

Result<void> in_each(const Text& text, std::span<const Change> changes, auto bytes_of, std::size_t from) {
    for (const Change& one : changes) {
        const auto bytes = bytes_of(one);
        if (auto ok = text.write(one.at + from, bytes); !ok) return ok;
    }
    return {};
}

Result<void> by_breakpoints(const Text& text, std::span<const Change> changes) {
    using Phase = Result<void> (*)(const Text&, std::span<const Change>);
    for (const Phase phase : {write_breakpoints, write_tails, write_first_bytes}) {
        if (auto ok = phase(text, changes); !ok) return ok;
        if (auto ok = barrier(Barrier::instruction); !ok) return ok;  // P-c
    }
    return {};
}

Result<Way> change_all(std::span<const Change> changes) {
    auto text = Text::open();
    // Not even a first byte is written before it is known that all barriers will be there, and the handler.
    if (auto ok = barrier(Barrier::instruction); !ok) return fail(ok.error());
    if (text && traps_are_safe()) {
        if (auto ok = take_traps(); !ok) return fail(ok.error());
        // Whether the kernel lets us write shows without changing anything.
        if (auto ok = text->write(changes[0].at, {changes[0].at, 1}); ok) {
            if (auto done = by_breakpoints(*text, changes); !done) return fail(done.error());
            return Way::breakpoints;
        }
    }
    if (auto ok = exchange_pages(changes); !ok) return fail(ok.error());
    if (auto ok = barrier(Barrier::instruction); !ok) return fail(ok.error());  // P-c
    return Way::pages;
}

}  // namespace

Change change(const cloister_site& site, bool on) {
    if (!on) return {site.nop, kNop};
    Bytes bytes = {kJump};
    // Both are in the text of one module: the linker would have refused it if they were further apart.
    const auto distance = static_cast<std::int32_t>(site.on - (site.nop + 5));
    std::memcpy(bytes.data() + 1, &distance, sizeof distance);
    return {site.nop, bytes};
}

bool is_on(const cloister_site& site) { return bytes_at(site.nop) == change(site, true).bytes; }

Result<void> write_breakpoints(const Text& text, std::span<const Change> changes) {
    return in_each(
        text, changes, [](const Change&) { return std::array{kBreakpoint}; }, 0);
}

Result<void> write_tails(const Text& text, std::span<const Change> changes) {
    return in_each(
        text, changes, [](const Change& one) { return std::span(one.bytes).subspan<1>(); }, 1);
}

Result<void> write_first_bytes(const Text& text, std::span<const Change> changes) {
    return in_each(
        text, changes, [](const Change& one) { return std::span(one.bytes).first<1>(); }, 0);
}

Result<Way> apply(std::span<const cloister_site* const> sites) {
    std::vector<Change> changes;
    for (const cloister_site* site : sites) {
        const Bytes now = bytes_at(site->nop);
        const Change wanted = change(*site, site->event_class->on), other = change(*site, !site->event_class->on);
        if (now == wanted.bytes) continue;
        // A breakpoint byte is what a batch that failed may have left.
        if (now != other.bytes && now[0] != kBreakpoint)
            return fail({.what = "cannot patch a tracepoint of " + std::string(site->event_class->provider) + ":" +
                                 site->event_class->name,
                         .needs = "the instruction that the compiler has put there",
                         .found = "other bytes: someone else patches this program's text too",
                         .set = "use one such tool at a time"});
        changes.push_back(wanted);
    }
    if (changes.empty()) return Way::breakpoints;
    std::sort(changes.begin(), changes.end(), [](const Change& a, const Change& b) { return a.at < b.at; });
    return change_all(changes);
}

}  // namespace cloister::tracepoint
