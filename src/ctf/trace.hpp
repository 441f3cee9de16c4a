// Traces in a directory, and all their events in the order of time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "ctf/cursor.hpp"
#include "ctf/stream_file.hpp"
#include "ctf/time.hpp"

namespace cloister::ctf {

// A trace: a directory with a file `metadata`; every other regular file in it, hidden ones apart, is a stream.
class Trace {
public:
    [[nodiscard]] static Result<Trace> open(const std::string& directory);
    // The same for every directory below `directory` that has metadata, itself included: LTTng nests them by user and
    // process. At least one; in the order of their names.
    [[nodiscard]] static Result<std::vector<Trace>> open_all(const std::string& directory);

    [[nodiscard]] const std::string& directory() const { return directory_; }
    [[nodiscard]] const TraceLayout& layout() const { return *layout_; }
    [[nodiscard]] const std::vector<StreamFile>& streams() const { return streams_; }

private:
    std::string directory_;
    std::shared_ptr<const TraceLayout> layout_;
    std::vector<StreamFile> streams_;
};

// The events of several traces, merged by time; those of the same time in the order of the streams.
class Merge {
public:
    explicit Merge(const std::vector<Trace>& traces);

    // When the first packet of any stream begins, in ns; nothing where there is none.
    [[nodiscard]] std::optional<std::int64_t> begin() const { return begin_; }
    // To the first packet of every stream that does not end before that time. Before the first next() only.
    void seek(std::int64_t ns);

    // To the next event or loss. end: there is no more. broken: the stream that at() is of cannot be read on; the next
    // call goes on with the others.
    Cursor::Step next();

    [[nodiscard]] Cursor& at() { return *current_->cursor; }
    [[nodiscard]] const Cursor& at() const { return *current_->cursor; }
    [[nodiscard]] const Trace& trace() const { return *current_->trace; }
    [[nodiscard]] const Clock& clock() const { return *current_->clock; }
    [[nodiscard]] std::int64_t ns() const { return current_->ns; }  // of the event, or of the begin of the loss

private:
    struct Lane {
        const Trace* trace;
        std::unique_ptr<Cursor> cursor;
        const Clock* clock = nullptr;
        std::int64_t ns = 0;
        std::uint64_t cycles = 0;
        std::size_t order = 0;
        Cursor::Step step = Cursor::Step::end;
    };
    void advance(Lane& lane);
    void push(Lane* lane);
    static bool later(const Lane* a, const Lane* b);

    std::deque<Lane> lanes_;
    std::vector<Lane*> heap_;
    Lane* current_ = nullptr;
    bool begun_ = false;
    std::optional<std::int64_t> begin_;
};

}  // namespace cloister::ctf
