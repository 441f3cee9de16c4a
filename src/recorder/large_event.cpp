// Events of any size: include/cloister/record.hpp.
#include <array>
#include <cstdint>
#include <span>

#include "cloister/record.hpp"
#include "recorder/call_stack.hpp"
#include "recorder/recording.hpp"

namespace cloister::record {
namespace {

// Where the events go that nobody records.
core::Wrote refuse(const void*, core::u64, core::u32, const void*, core::u32) { return core::Wrote::no_lane; }
core::Authorship nobody() { return {}; }

Target target_or_none(const cloister_class& event_class) {
    return target_of(event_class).value_or(Target{{.write = refuse, .author = nobody}, core::kFragmentId, false});
}

}  // namespace

LargeEvent::LargeEvent(const cloister_class& event_class) noexcept
    : LargeEvent(target_or_none(event_class), __builtin_frame_address(0), __builtin_return_address(0)) {}

LargeEvent::LargeEvent(const Target& target, const void* frame, const void* site) noexcept
    : wanted_(target.id != core::kFragmentId), event_(target.sink, target.id) {
    if (!target.call_stack) return;
    std::array<std::uint64_t, recorder::kMostCalls> calls;
    calls[0] = reinterpret_cast<std::uintptr_t>(site);
    const auto count = static_cast<std::uint32_t>(1 + recorder::call_stack(frame, std::span(calls).subspan(1)));
    (void)event_.append(&count, sizeof count);
    (void)event_.append(calls.data(), count * sizeof calls[0]);
}

bool LargeEvent::append(const void* data, std::size_t bytes) noexcept {
    return wanted_ && event_.append(data, bytes) == core::Wrote::done;
}

bool LargeEvent::commit() noexcept { return wanted_ && event_.commit() == core::Wrote::done; }

}  // namespace cloister::record
