// Events of any size: include/cloister/record.hpp.
#include "cloister/record.hpp"
#include "recorder/recording.hpp"

namespace cloister::record {
namespace {

// Where the events go that nobody records.
core::Wrote refuse(const void*, core::u64, core::u32, const void*, core::u32) { return core::Wrote::no_lane; }
core::Authorship nobody() { return {}; }

Target target_or_none(const cloister_class& event_class) {
    return target_of(event_class).value_or(Target{{.write = refuse, .author = nobody}, core::kFragmentId});
}

}  // namespace

LargeEvent::LargeEvent(const cloister_class& event_class) noexcept : LargeEvent(target_or_none(event_class)) {}

LargeEvent::LargeEvent(const Target& target) noexcept
    : wanted_(target.id != core::kFragmentId), event_(target.sink, target.id) {}

bool LargeEvent::append(const void* data, std::size_t bytes) noexcept {
    return wanted_ && event_.append(data, bytes) == core::Wrote::done;
}

bool LargeEvent::commit() noexcept { return wanted_ && event_.commit() == core::Wrote::done; }

}  // namespace cloister::record
