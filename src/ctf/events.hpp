// All events of several traces in the order of time, with those that were written in fragments as one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/error.hpp"
#include "ctf/fragments.hpp"
#include "ctf/trace.hpp"

namespace cloister::ctf {

// What next() comes to is an event as Merge has it; or one that was put together from its fragments, at the time and in
// the stream of the newest of these, which is its commit. One that is incomplete but has ended (its last fragment is
// there, or it was abandoned) stands there as well. One whose last fragment is missing is known as that only when
// everything was read: those stand at the end, among them in the order of time.
class Events {
public:
    explicit Events(const std::vector<Trace>& traces) : traces_(&traces), merge_(traces) {}

    // Only what lies in [from, to], in ns, and no earlier packets are read than are needed for that: those from `from`
    // on, and where an event was begun before it, those since. Before the first next() only.
    void limit(std::optional<std::int64_t> from, std::optional<std::int64_t> to);

    // As Merge::next(). After broken, error() says what cannot be read; the others go on.
    Cursor::Step next();

    // The event: valid until the next next().
    [[nodiscard]] const EventLayout& event() const { return joined_ ? *joined_->event : merge_.at().event(); }
    [[nodiscard]] std::int64_t ns() const { return joined_ ? joined_->place.ns : merge_.ns(); }
    [[nodiscard]] const Packet& packet() const { return joined_ ? joined_->place.packet : merge_.at().packet(); }
    [[nodiscard]] const StreamFile& stream() const { return joined_ ? *joined_->place.file : merge_.at().stream(); }
    [[nodiscard]] const Clock& clock() const { return merge_.clock(); }
    [[nodiscard]] const Loss& loss() const { return merge_.at().loss(); }
    // As Cursor::fields(): at most once, and false where they are broken, which the next step says. Of an incomplete
    // event those that are there; the last of them may be cut short.
    [[nodiscard]] bool fields(std::vector<Value>& values);
    [[nodiscard]] std::size_t of_contexts() const { return joined_ ? of_contexts_ : merge_.at().of_contexts(); }
    // Null where all of the event is there.
    [[nodiscard]] const JoinedEvent* incomplete() const {
        return joined_ && !joined_->complete() ? &*joined_ : nullptr;
    }

    [[nodiscard]] const Error& error() const { return error_; }

private:
    [[nodiscard]] bool in_range(std::int64_t ns) const { return (!from_ || ns >= *from_) && (!to_ || ns <= *to_); }
    [[nodiscard]] bool pop_joined();
    void join();
    void read_back(std::int64_t begun);
    // Of the fragment that `merge` is at. False where it is broken: then the next step says so.
    static bool read(Merge& merge, Fragment& fragment, FragmentKey& key, FragmentPlace& place);

    const std::vector<Trace>* traces_;
    Merge merge_;
    Joiner joiner_;
    Joiner before_;  // what was begun before `from_`, of which it knows all since `back_`
    std::int64_t back_ = 0;
    std::optional<std::int64_t> from_, to_;
    bool finished_ = false, failed_ = false;
    std::optional<JoinedEvent> joined_;
    std::size_t of_contexts_ = 0;
    Error error_;
};

}  // namespace cloister::ctf
