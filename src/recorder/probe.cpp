#include "recorder/probe.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <span>

#include "cloister/record.hpp"
#include "recorder/call_stack.hpp"
#include "recorder/recording.hpp"
#include "recorder/routes.hpp"
#include "tracepoint/probes.hpp"
#include "tracepoint/reading.hpp"

namespace cloister::recorder {
namespace {

std::atomic<std::uint64_t> visible;  // the turn of the recording that runs

// What was lost, by channel. Not part of a recording, so that it can be read at any time and in any context.
struct Counts {
    std::atomic<std::uint64_t> refused = 0, dropped = 0;
};
std::array<Counts, kMostChannels> counts;
std::atomic<std::uint64_t> unknown = 0;

// Into the channels whose bits are set. What the first of them that does not take it says.
core::Wrote write(const Route& route, std::uint32_t wanted, std::uint32_t id, const void* staged, std::size_t bytes) {
    core::Wrote all = core::Wrote::done;
    for (const Target& target : route.targets) {
        if ((wanted >> target.channel & 1) == 0) continue;
        const core::Wrote wrote =
            route.recorder->write_staged(target.channel, id, staged, static_cast<std::uint32_t>(bytes));
        if (wrote == core::Wrote::done) [[likely]]
            continue;
        Counts& lost = counts[target.channel];
        (wrote == core::Wrote::dropped ? lost.dropped : lost.refused).fetch_add(1, std::memory_order_relaxed);
        if (all == core::Wrote::done) all = wrote;
    }
    return all;
}

// The stack as a field before the others: staged once for all channels, and as small as it is, since a signal handler's
// stack may be small too.
[[gnu::noinline]] void write_with_stack(const Route& route, std::uint32_t wanted, const cloister_event& event) {
    std::array<std::uint64_t, kMostCalls> calls;
    const auto count = static_cast<std::uint32_t>(call_stack(event.frame, calls));
    const std::size_t bytes = sizeof count + count * sizeof calls[0] + event.size;
    auto* const staged = static_cast<char*>(__builtin_alloca(core::padded(static_cast<std::uint32_t>(bytes))));
    std::memcpy(staged, &count, sizeof count);
    std::memcpy(staged + sizeof count, calls.data(), count * sizeof calls[0]);
    std::memcpy(staged + bytes - event.size, event.payload, event.size);
    (void)write(route, wanted, route.id, staged, bytes);
}

// The route that a class has in the recording that runs: what its probe is handed with each event. While a Reading lives.
const Route* route_of(const cloister_class& event_class) {
    const auto* list =
        static_cast<const tracepoint::ProbeList*>(__atomic_load_n(&event_class.probes, __ATOMIC_ACQUIRE));
    for (std::uint32_t i = 0; list && i < list->count; ++i)
        if (list->probes[i].call == on_event) return static_cast<const Route*>(list->probes[i].data);
    return nullptr;
}

// A core::Sink's. `to` is a route, which is there as long as its recording is.
core::Wrote write_visible(const void* to, core::u64 turn, core::u32 id, const void* payload, core::u32 bytes) {
    const tracepoint::Reading reading;
    if (!reading || visible.load(std::memory_order_acquire) != turn) return core::Wrote::no_lane;
    return write(*static_cast<const Route*>(to), ~0U, id, payload, bytes);
}

}  // namespace

// The payload lies on the stack of who fires, so that it can be read in a restartable sequence, and some bytes beyond
// it as well.
void on_event(void* data, const cloister_event* event) {
    const auto& route = *static_cast<const Route*>(data);
    if (route.targets.empty()) {
        unknown.fetch_add(1, std::memory_order_relaxed);
        return;
    }
    std::uint32_t wanted = 0;
    for (const Target& target : route.targets)
        if (target.wants(*event)) wanted |= 1U << target.channel;
    if (wanted == 0) return;
    if (route.call_stack)
        write_with_stack(route, wanted, *event);
    else
        (void)write(route, wanted, route.id, event->payload, event->size);
}

void show(std::uint64_t turn) { visible.store(turn, std::memory_order_release); }

void clear_losses() {
    for (auto& channel : counts) {
        channel.refused.store(0, std::memory_order_relaxed);
        channel.dropped.store(0, std::memory_order_relaxed);
    }
    unknown.store(0, std::memory_order_relaxed);
}

}  // namespace cloister::recorder

namespace cloister::record {

std::optional<Target> target_of(const cloister_class& event_class) {
    const tracepoint::Reading reading;
    const std::uint64_t turn = recorder::visible.load(std::memory_order_acquire);
    if (!reading || turn == 0 || !__atomic_load_n(&event_class.on, __ATOMIC_RELAXED)) return std::nullopt;
    const auto* route = recorder::route_of(event_class);
    if (!route || route->turn != turn) return std::nullopt;
    if (route->targets.empty()) {
        recorder::unknown.fetch_add(1, std::memory_order_relaxed);
        return std::nullopt;
    }
    core::u32 largest = core::kMaxEvent;
    for (const auto& target : route->targets)
        largest = std::min(largest, route->recorder->largest(target.channel) + core::kLongHeader);
    return Target{{.write = recorder::write_visible,
                   .author = recorder::next_authorship,
                   .to = route,
                   .which = turn,
                   .largest = largest},
                  route->id,
                  route->call_stack};
}

Losses losses() {
    Losses all{.unknown = recorder::unknown.load(std::memory_order_relaxed)};
    for (std::size_t channel = 0; channel < recorder::counts.size(); ++channel) {
        const Losses one = losses(channel);
        all.refused += one.refused;
        all.dropped += one.dropped;
    }
    return all;
}

Losses losses(std::size_t channel) {
    if (channel >= recorder::counts.size()) return {};
    return {.refused = recorder::counts[channel].refused.load(std::memory_order_relaxed),
            .dropped = recorder::counts[channel].dropped.load(std::memory_order_relaxed)};
}

}  // namespace cloister::record
