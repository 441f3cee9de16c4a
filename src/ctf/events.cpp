#include "ctf/events.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include <fmt/format.h>

namespace cloister::ctf {

void Events::limit(std::optional<std::int64_t> from, std::optional<std::int64_t> to) {
    from_ = from;
    to_ = to;
    if (from_) merge_.seek(back_ = *from_);
}

bool Events::read(Merge& merge, Fragment& fragment, FragmentKey& key, FragmentPlace& place) {
    Cursor& cursor = merge.at();
    if (!cursor.fragment(fragment, &place.context)) return false;
    key = {cursor.packet().stream, fragment.head.thread, fragment.head.instance};
    place.file = &cursor.stream();
    place.packet = cursor.packet();
    place.cycles = cursor.cycles();
    place.ns = merge.ns();
    return true;
}

// An event in the range that was begun before it: what it had by then. Each time at least twice as far back as the time
// before, so that fragments that say they are ever older cannot have a trace read over and over.
void Events::read_back(std::int64_t begun) {
    std::int64_t twice = 0;
    if (__builtin_sub_overflow(*from_, back_, &twice) || __builtin_sub_overflow(back_, twice, &twice))
        twice = std::numeric_limits<std::int64_t>::min();
    back_ = std::min(begun, twice);
    before_ = Joiner();
    Merge merge(*traces_);
    merge.seek(back_);
    Fragment fragment;
    FragmentKey key;
    for (Cursor::Step step = merge.next(); step != Cursor::Step::end; step = merge.next()) {
        if (step != Cursor::Step::event) continue;  // losses and broken packets before the range are not asked for
        if (merge.ns() >= *from_) break;
        FragmentPlace place;
        if (!merge.at().event().fragment || !read(merge, fragment, key, place)) continue;
        (void)before_.add(key, fragment, std::move(place));
        while (before_.next_ended()) continue;  // not in the range
    }
}

// The fragment that `merge_` is at.
void Events::join() {
    Fragment fragment;
    FragmentKey key;
    FragmentPlace place;
    if (!read(merge_, fragment, key, place)) return;
    if (to_ && place.ns > *to_) {
        // Behind the range only to see which of the events that are open will be as well.
        (void)joiner_.take(key);
        return;
    }
    if (from_ && fragment.head.index > 0 && !joiner_.knows(key)) {
        const std::int64_t begun = ns_of(merge_.clock(), fragment.head.begun);
        if (begun < back_) read_back(begun);
        if (auto earlier = before_.take(key)) joiner_.put(key, std::move(*earlier));
    }
    const std::uint32_t index = fragment.head.index;
    if (const std::string wrong = joiner_.add(key, fragment, std::move(place)); !wrong.empty())
        merge_.at().reject(fmt::format("fragment {} of thread {}: {}", index, key.thread, wrong),
                           "fragments as docs/format.md has them");
}

bool Events::pop_joined() {
    while (auto ended = joiner_.next_ended()) {
        if (!in_range(ended->place.ns)) continue;
        joined_ = std::move(ended);
        return true;
    }
    return false;
}

Cursor::Step Events::next() {
    joined_.reset();
    if (std::exchange(failed_, false)) return Cursor::Step::broken;
    while (true) {
        if (pop_joined()) return Cursor::Step::event;
        if (finished_) return Cursor::Step::end;
        const Cursor::Step step = merge_.next();
        const bool behind = to_ && step != Cursor::Step::end && merge_.ns() > *to_;
        if (step == Cursor::Step::end || (behind && joiner_.empty())) {
            finished_ = true;
            joiner_.end_all();
            continue;
        }
        if (step == Cursor::Step::broken) {
            if (behind) continue;
            error_ = merge_.at().error();
            return step;
        }
        if (from_ && merge_.ns() < *from_) continue;
        if (step == Cursor::Step::event && merge_.at().event().fragment)
            join();
        else if (!behind)
            return step;
    }
}

bool Events::fields(std::vector<Value>& values) {
    if (!joined_) return merge_.at().fields(values);
    const std::string wrong = joined_->fields(values, of_contexts_);
    if (wrong.empty()) return true;
    failed_ = true;
    error_ = {fmt::format("event '{}' in {} fragments that end in packet {} of {}: {}", joined_->event->name,
                          joined_->fragments, joined_->place.packet.number, joined_->place.file->name(), wrong),
              "fragments that are the event's fields together",
              fmt::format("they hold {} bytes", joined_->bytes.size()), ""};
    return false;
}

}  // namespace cloister::ctf
