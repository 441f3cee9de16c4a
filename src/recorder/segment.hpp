// The segment: one shared-memory file that holds the lanes of all channels and everything that is needed to read them,
// also when the program that wrote them is dead. docs/format.md specifies it byte by byte.
//
// Offsets, never pointers: every process maps it elsewhere. Zero bytes are valid empty lanes. Whoever opens a segment
// checks all of its header before the first lane is looked at, and keeps what it has checked: the file is not trusted
// again.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hpp"
#include "cloister/core/lane.hpp"
#include "cloister/core/spill.hpp"
#include "system/perf.hpp"

namespace cloister::recorder {

struct ChannelOptions {
    std::string name;  // a file name's part: letters, digits, '_'; at most 31; not that of kModulesStream
    core::Shape shape{.slots = 8, .size = 128U << 10, .mode = core::Mode::overwrite};
};

struct SegmentOptions {
    std::string path;  // "": a memfd, which lives as long as somebody has it open
    std::vector<ChannelOptions> channels;
    bool huge_pages = false;  // where there are none, `notice` says so and ordinary ones are used (memfd only)
};

// ---- The file's first bytes, as they lie there ----

inline constexpr std::uint64_t kSegmentMagic = 0x7265747369'6f6c63;  // "cloister"
inline constexpr std::uint32_t kSegmentVersion = 3, kMostChannels = 16;
inline constexpr std::uint64_t kClassesCapacity = 256U << 10;

struct ChannelHeader {
    char name[32];
    std::uint32_t slots, size, mode, reserved;
    std::uint64_t lanes, stride;  // offset of lane 0; from one to the next, and to the spill lane behind the last
};

// The TSC and two clocks read together, so that its frequency and its place in time are known.
struct ClockReading {
    std::uint64_t tsc, raw_ns, realtime_ns;  // CLOCK_MONOTONIC_RAW, CLOCK_REALTIME
};

struct SegmentHeader {
    std::uint64_t magic;
    std::uint32_t version, header_bytes;
    std::uint64_t bytes;  // of the whole file
    std::uint32_t cpus, channels;
    std::uint8_t uuid[16], boot_id[16];
    std::uint32_t pid, page_bytes;
    char comm[16];
    ClockReading first, last;             // last: read again now and then, while the program lives
    std::uint64_t classes, classes_used;  // offset (kClasses); bytes of whole records there
    std::uint64_t refused;                // events that found no lane (core::Wrote::no_lane)
    ChannelHeader channel[kMostChannels];
};

inline constexpr std::uint64_t kClasses = (sizeof(SegmentHeader) + core::kPage - 1) / core::kPage * core::kPage;

// Behind the classes: where other processes ask for something (control.hpp).
inline constexpr std::uint64_t kControl = kClasses + kClassesCapacity, kControlBytes = 2 * core::kPage;

// One event class of one channel: its declaration in TSDL. Or a module: in `channel` kModuleRecord, as text the TSC and
// the fields of an event cloister:module (modules.hpp). Records are 8-byte aligned, and only appended.
struct ClassRecord {
    std::uint32_t bytes, channel, id, text_bytes;  // bytes: of the record with its text, padded
};
inline constexpr std::uint32_t kModuleRecord = UINT32_MAX;
// In a trace they are events of a stream of their own, which is no channel.
inline constexpr std::string_view kModulesStream = "modules";

// ---- A mapped segment ----

class Segment {
public:
    // Makes one with room for every possible CPU and for threads without one; only what is needed at once has memory
    // behind it. Mode 0600, sealed against shrinking where the file can be. `notices`: what could not be had and was
    // done without. Errors: no room, bad options, a path that exists.
    [[nodiscard]] static Result<Segment> create(const SegmentOptions& options,
                                                std::vector<std::string>* notices = nullptr);

    enum class Access { read, drain };  // drain: also to take sub-buffers away
    // Errors say what of the file is wrong, and at which offset.
    [[nodiscard]] static Result<Segment> open(const std::string& path, Access access);
    // One that somebody has handed over; the file is opened anew, so that locks on it are not shared with them.
    // Errors: also one that could shrink (no F_SEAL_SHRINK).
    [[nodiscard]] static Result<Segment> adopt(const system::Fd& file, const std::string& name, Access access);
    // Of a program that runs: its memfd, by way of /proc/PID/fd.
    [[nodiscard]] static Result<Segment> of_process(int pid, Access access);

    Segment(Segment&& other) noexcept;
    Segment& operator=(Segment&& other) noexcept;
    ~Segment();

    struct Channel {
        std::string name;
        core::Shape shape;
        std::uint64_t lanes = 0, stride = 0;
    };
    [[nodiscard]] const std::vector<Channel>& channels() const { return channels_; }
    [[nodiscard]] std::uint32_t cpus() const { return cpus_; }
    // The memory of a lane. channel < channels().size(), cpu < cpus().
    [[nodiscard]] core::u8* lane(std::size_t channel, std::uint32_t cpu) const {
        return base_ + channels_[channel].lanes + channels_[channel].stride * cpu;
    }
    // The memory of a channel's spill lane (core/spill.hpp), and what it is like.
    [[nodiscard]] core::u8* spill(std::size_t channel) const { return lane(channel, cpus_); }
    [[nodiscard]] core::SpillShape spill_shape(std::size_t channel) const {
        return {channels_[channel].shape.slots, channels_[channel].shape.size};
    }
    [[nodiscard]] const SegmentHeader& header() const { return *reinterpret_cast<const SegmentHeader*>(base_); }
    [[nodiscard]] const system::Fd& fd() const { return fd_; }
    [[nodiscard]] core::u8* base() const { return base_; }

    // Only for who made it, one thread at a time. Errors: the area for classes is full.
    [[nodiscard]] Result<void> append_class(std::size_t channel, std::uint32_t id, std::string_view tsdl);
    // The same for a module. Errors: half of the area is used; the rest is kept for classes, without which nothing is
    // recorded.
    [[nodiscard]] Result<void> append_module(std::string_view record);
    void read_clocks();  // makes `last` of the header that of now

    struct Class {
        std::uint32_t channel = 0, id = 0;  // kModuleRecord: a module
        std::string text;
        std::size_t end = 0;  // of its record
    };
    // Bytes of all records so far, and the classes of those from `begin` on (0, or the end of one).
    [[nodiscard]] std::size_t classes_end() const;
    [[nodiscard]] Result<std::vector<Class>> classes(std::size_t begin) const;

private:
    Segment() = default;
    [[nodiscard]] Result<void> append(std::uint32_t channel, std::uint32_t id, std::string_view text,
                                      std::uint64_t capacity, const std::string& what);
    [[nodiscard]] Result<void> map(bool writable);
    [[nodiscard]] Result<void> check();
    [[nodiscard]] SegmentHeader& writable_header() const { return *reinterpret_cast<SegmentHeader*>(base_); }

    std::string name_;  // for errors
    system::Fd fd_;
    core::u8* base_ = nullptr;
    std::uint64_t bytes_ = 0;
    std::uint32_t cpus_ = 0;
    std::vector<Channel> channels_;
};

// Gives a lane's sub-buffers memory, so that no store into them can find the file system full (SIGBUS).
// Async-signal-safe: false if there is none.
[[nodiscard]] bool populate(int fd, std::uint64_t offset, std::uint64_t bytes);

[[nodiscard]] ClockReading read_clocks();

// Of this boot of the machine; zeros if it cannot be read.
[[nodiscard]] std::array<std::uint8_t, 16> boot_id();

}  // namespace cloister::recorder
