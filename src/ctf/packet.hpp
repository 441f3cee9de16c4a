// A packet of our own traces, byte for byte. Little endian, nothing padded.
//
//     at  0  u32  magic              0xC1FC1FC1
//         4  u8   uuid[16]           the trace's
//        20  u32  stream_id          the channel's
//        24  u64  stream_instance_id the lane's
//        32  u64  timestamp_begin    cycles; at most the first event's
//        40  u64  timestamp_end      cycles; at least the last event's
//        48  u64  content_size       bits, this header included
//        56  u64  packet_size        bits: the content, rounded up to 4 bytes or more
//        64  u64  packet_seq_num     per stream instance, from 0
//        72  u64  events_discarded   per stream instance, running total at the end of this packet
//        80  u32  cpu_id             2^32 - 1: the stream is of no CPU
//        84  events, each at a multiple of 4 bytes
//
// An event begins with its header. Compact: one u32 {low 27 bits of the timestamp : 27, id : 5}, the id in the low
// bits, 0 to 30. Extended, where the id is larger or the timestamp is 2^27 cycles or more after the one before it (for
// the first event: after timestamp_begin): {u32 31, u32 id, u64 timestamp}. The fields follow without padding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "ctf/schema.hpp"

namespace cloister::ctf {

inline constexpr std::uint32_t kPacketMagic = 0xC1FC1FC1;
inline constexpr std::size_t kPacketHeaderSize = 84;
inline constexpr std::size_t kEventAlign = 4;
inline constexpr std::uint32_t kExtendedId = 31;
inline constexpr unsigned kCompactTimeBits = 27;
// What cpu_id is in a stream of threads that have no CPU of their own: what rseq(2) says to one that has not
// registered.
inline constexpr std::uint32_t kNoCpu = UINT32_MAX;

struct PacketInfo {
    std::uint32_t stream_id = 0;
    std::uint64_t stream_instance = 0;  // the lane
    std::uint64_t timestamp_begin = 0, timestamp_end = 0;
    std::uint64_t sequence_number = 0;
    std::uint64_t events_discarded = 0;  // running total, as above
    std::uint32_t cpu = 0;
};

// How long a packet with so many bytes of events is, padding included.
[[nodiscard]] constexpr std::size_t packet_size(std::size_t events_size) {
    return (kPacketHeaderSize + events_size + kEventAlign - 1) / kEventAlign * kEventAlign;
}

// The header of a packet whose events take so many bytes. Async-signal-safe.
void fill_header(std::span<std::byte, kPacketHeaderSize> header, const Uuid& trace, const PacketInfo& info,
                 std::size_t events_size);

}  // namespace cloister::ctf
