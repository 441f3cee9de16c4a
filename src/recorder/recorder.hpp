// A recorder: a segment of this process and the means to write into it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "cloister/core/lane_writer.hpp"
#include "cloister/core/staged_event.hpp"
#include "recorder/segment.hpp"

namespace cloister::recorder {

class Recorder {
public:
    // Errors: those of Segment::create.
    [[nodiscard]] static Result<std::unique_ptr<Recorder>> create(const SegmentOptions& options,
                                                                  std::vector<std::string>* notices = nullptr);
    Recorder(const Recorder&) = delete;
    Recorder& operator=(const Recorder&) = delete;
    ~Recorder();  // nobody writes any more

    // What the fast path of lane_writer.hpp takes. In a page that a fork wipes: a child has no lanes, and its events
    // are refused and counted until it has a recorder of its own. Stays valid as long as the recorder.
    [[nodiscard]] const core::View& view(std::size_t channel) const { return views_[channel]; }

    // Any payload, wherever it lies. Async-signal-safe. One that is larger than largest(channel) becomes fragments
    // (cloister/core/fragment.hpp). What is refused is counted in the segment.
    core::Wrote write(std::size_t channel, std::uint32_t id, const void* payload, std::uint32_t bytes);
    // The same for a payload that does not fault when it is read, nor the bytes behind it up to a multiple of 4.
    core::Wrote write_staged(std::size_t channel, std::uint32_t id, const void* payload, std::uint32_t bytes);
    // Payload of an event that is written at once, bytes.
    [[nodiscard]] std::uint32_t largest(std::size_t channel) const;
    // Begins an event of any size, for this thread to append to and to commit. Async-signal-safe. The recorder must
    // outlive it.
    [[nodiscard]] core::StagedEvent begin(std::size_t channel, std::uint32_t id);

    // The declaration of an event class in TSDL (ctf::event_text), before its first event. Errors: no room.
    [[nodiscard]] Result<void> declare(std::size_t channel, std::uint32_t id, std::string_view tsdl) {
        return segment_.append_class(channel, id, tsdl);
    }

    // The lanes of a CPU have memory that is mapped and locked: writing there faults no more. Errors: RLIMIT_MEMLOCK.
    [[nodiscard]] Result<void> prepare(std::uint32_t cpu);

    // Made by the parent of this process, which has the lanes: what it writes is refused and counted, and no class is declared.
    [[nodiscard]] bool inherited() const { return views_->cpus == 0; }

    [[nodiscard]] Segment& segment() { return segment_; }

private:
    explicit Recorder(Segment segment) : segment_(std::move(segment)) {}
    static bool populate_lane(const core::View& view, core::u32 cpu);
    static core::Wrote write_whole(const void* recorder, core::u64 channel, core::u32 id, const void* payload,
                                   core::u32 bytes);

    Segment segment_;
    core::View* views_ = nullptr;
};

// This thread's next event in fragments. Async-signal-safe; a system call the first time.
[[nodiscard]] core::Authorship next_authorship();

}  // namespace cloister::recorder
