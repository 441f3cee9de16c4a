// A trace in a directory of its own: `metadata`, a stream file CHANNEL_LANE for each lane of each channel, and the
// indexes of these.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.hpp"
#include "ctf/packet.hpp"
#include "ctf/schema.hpp"
#include "system/perf.hpp"

namespace cloister::ctf {

// A writer holds a lock (flock(2)) on its directory, which goes with it, however it ends: so a reader that follows it
// knows when no more will come. Nothing where the file system has no locks.
[[nodiscard]] system::Fd lock_as_writer(const std::string& directory);
[[nodiscard]] bool is_being_written(const std::string& directory);

// What was written so far is a whole trace after every call, and readable while it grows: a packet or an event class
// is in its file wholly or not at all. After an error (ENOSPC and the like) the caller may go on, try again or stop;
// the packet is not there. Not safe against use by two threads at once.
class TraceWriter {
public:
    // Makes the directory (its parent must be there); one that exists must be empty. Writes the metadata so far.
    [[nodiscard]] static Result<TraceWriter> create(const std::string& directory, const Preamble& preamble);

    // Appends an event class to the metadata. Needs an id that is new in its stream.
    [[nodiscard]] Result<void> add(const EventClass& event);
    // The same for one whose declaration (event_text) was made elsewhere.
    [[nodiscard]] Result<void> add(std::uint32_t stream_id, std::uint32_t id, std::string_view text);

    // Appends a packet to the file of its lane. `events`: as they lie in a sub-buffer, headers included, the first at
    // the place of byte 84 of the packet; at most 2^32 bytes.
    [[nodiscard]] Result<void> write(const PacketInfo& info, std::span<const std::byte> events);

    // Has everything on the disk and closes it. Until this has succeeded the trace is not done: a file system may say
    // only now that it has no room.
    [[nodiscard]] Result<void> finish();

    [[nodiscard]] const std::string& directory() const { return directory_; }

private:
    struct File {
        std::string path;
        system::Fd fd;
        std::uint64_t size = 0;  // bytes that are wholly written
        bool spoilt = false;     // more is in it, and could not be taken away again
    };
    struct Stream {
        File packets, index;
    };

    [[nodiscard]] static Result<File> create_file(std::string path);
    [[nodiscard]] static Result<void> append(File& file, std::span<const std::span<const std::byte>> parts);
    [[nodiscard]] Result<Stream*> stream_of(const PacketInfo& info);

    std::string directory_;
    system::Fd lock_;
    Uuid uuid_{};
    std::map<std::uint32_t, std::string> channels_;             // names by stream id
    std::set<std::pair<std::uint32_t, std::uint32_t>> events_;  // stream id, event id
    File metadata_;
    std::map<std::pair<std::uint32_t, std::uint64_t>, Stream> streams_;  // stream id, lane
};

}  // namespace cloister::ctf
