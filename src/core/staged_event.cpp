// Events of any size. Freestanding. fragment.hpp is the specification; its ids stand at the code.
#include "cloister/core/staged_event.hpp"

namespace cloister::core {
namespace {

Wrote write_to_view(const void* view, u64, u32 id, const void* payload, u32 bytes) {
    return write_staged(*static_cast<const View*>(view), id, payload, bytes);
}

Wrote put(const Sink& to, u32 id, u8* payload, u32 bytes) {
    // A sequence copies whole words: no scraps of the stack in the lane.
    for (u32 i = bytes; i < padded(bytes); ++i) payload[i] = 0;
    return to.write(to.to, to.which, id, payload, bytes);
}

}  // namespace

Sink sink_of(const View& view, Authorship (*author)()) {
    const Shape shape{.slots = view.slots, .size = static_cast<u32>(view.size), .mode = static_cast<Mode>(view.mode)};
    return {.write = write_to_view, .author = author, .to = &view, .which = 0, .largest = shape.largest()};
}

void StagedEvent::put_fragment(FragmentEnd end, u32 bytes) {
    if (index_ == 0) {
        author_ = to_.author();
        begun_ = __builtin_ia32_rdtsc();
    }
    const bool lost_before = wrote_ != Wrote::done;
    if (!lost_before || (end != FragmentEnd::more && in_lanes_)) {  // P1
        const FragmentHead head{author_.instance, begun_, author_.thread, id_, index_, static_cast<u32>(end), bytes};
        __builtin_memcpy(stage_, &head, kFragmentHead);
        const Wrote wrote = put(to_, kFragmentId, stage_, kFragmentHead + bytes);
        if (wrote == Wrote::done)
            in_lanes_ = true;
        else if (!lost_before)
            wrote_ = wrote;
    }
    ++index_;
}

Wrote StagedEvent::append(const void* data, u64 bytes) noexcept {
    const u8* from = static_cast<const u8*>(data);
    u8* const stage = stage_ + kFragmentHead;
    while (bytes > 0 && !ended_) {
        const u32 most = index_ == 0 ? whole() : part();
        if (staged_ == most) {
            // It will not be an ordinary event. A head takes room, so the end of what was staged stays behind, once.
            put_fragment(FragmentEnd::more, part());
            staged_ = most - part();
            __builtin_memcpy(stage, stage + part(), staged_);
            continue;
        }
        const u64 now = bytes < most - staged_ ? bytes : most - staged_;
        __builtin_memcpy(stage + staged_, from, now);
        staged_ += static_cast<u32>(now);
        from += now;
        bytes -= now;
    }
    return wrote_;
}

Wrote StagedEvent::commit() noexcept {
    if (ended_) return wrote_;
    ended_ = true;
    if (index_ == 0)
        wrote_ = put(to_, id_, stage_ + kFragmentHead, staged_);
    else
        put_fragment(FragmentEnd::last, staged_);
    return wrote_;
}

void StagedEvent::drop() noexcept {
    if (ended_) return;
    ended_ = true;
    if (in_lanes_) put_fragment(FragmentEnd::abandoned, 0);  // P3
}

}  // namespace cloister::core
