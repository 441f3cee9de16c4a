// The path of an event, from its payload to the probes. No atomic read-modify-write but where an event is lost.
#include <cloister/trace.h>

#include <atomic>
#include <cerrno>

#include "tracepoint/context.hpp"
#include "tracepoint/filter.hpp"
#include "tracepoint/grace.hpp"
#include "tracepoint/probes.hpp"
#include "tracepoint/threads.hpp"

namespace cloister::tracepoint {
namespace {

std::atomic<std::uint64_t> recursions, too_deep, no_slot, clipped_fields;

__attribute__((cold, noinline)) void count(std::atomic<std::uint64_t>& losses, std::uint64_t more) {
    losses.fetch_add(more, std::memory_order_relaxed);
}

__attribute__((cold, noinline)) Thread* first_event() {
    Thread* const thread = claim();
    if (!thread) count(no_slot, 1);
    return thread;
}

__attribute__((cold, noinline)) std::uint64_t busy_tracers(Thread& thread, const Mark& mark) {
    return busy(thread, &mark);
}

void show(Entry& entry, std::uint64_t busy_word, const cloister_event& event) {
    const cloister_class& event_class = *event.event_class;
    const auto* list = static_cast<const ProbeList*>(__atomic_load_n(&event_class.probes, __ATOMIC_ACQUIRE));  // G2
    const auto* filter = static_cast<const Program*>(__atomic_load_n(&event_class.filter, __ATOMIC_ACQUIRE));  // G2
    if (!list || (filter && !holds(*filter, event))) return;
    const int saved = errno;
    for (const Probe *probe = list->probes, *end = probe + list->count; probe != end; ++probe) {
        if (busy_word & probe->tracer) [[unlikely]] {
            count(recursions, 1);
            continue;
        }
        entry.word.store(probe->tracer, std::memory_order_relaxed);
        std::atomic_signal_fence(std::memory_order_seq_cst);
        probe->call(probe->data, &event);
        std::atomic_signal_fence(std::memory_order_seq_cst);
        entry.word.store(0, std::memory_order_relaxed);
    }
    errno = saved;
}

}  // namespace
}  // namespace cloister::tracepoint

using namespace cloister::tracepoint;

extern "C" void cloister_trace_fire(cloister_class* event_class, const void* payload, std::size_t size,
                                    std::uint32_t clipped) {
    Thread* const thread = current ? current : first_event();
    if (!thread) [[unlikely]]
        return;
    Mark mark;
    std::uint64_t busy_word = 0;
    if (thread->depth.load(std::memory_order_relaxed) != 0) [[unlikely]]
        busy_word = busy_tracers(*thread, mark);
    Entry* const entry = enter(*thread, mark, period);
    if (!entry) [[unlikely]]
        return count(too_deep, 1);
    if (clipped) [[unlikely]]
        count(clipped_fields, clipped);
    show(*entry, busy_word, {event_class, payload, size, clipped, __builtin_frame_address(0)});
    leave(*thread, *entry, mark);
}

extern "C" cloister_losses cloister_trace_losses() {
    return {recursions.load(std::memory_order_relaxed), too_deep.load(std::memory_order_relaxed),
            no_slot.load(std::memory_order_relaxed), clipped_fields.load(std::memory_order_relaxed)};
}
