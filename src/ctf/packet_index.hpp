// The index of a stream file, `index/NAME.idx` beside it, in the format that LTTng writes and babeltrace2 reads
// (lttng-tools, ctf-index.h, version 1.1): where each packet lies and what its header says. All big endian:
//
//     {u32 magic 0xC1F1DCC1, u32 major 1, u32 minor 1, u32 size of an entry}, then entries of u64:
//     {offset in bytes, packet_size, content_size, timestamp_begin, timestamp_end, events_discarded, stream_id,
//      stream_instance_id, packet_seq_num}
#pragma once

#include <cstdint>

namespace cloister::ctf {

inline constexpr std::uint32_t kIndexMagic = 0xC1F1DCC1;
inline constexpr std::uint32_t kIndexMajor = 1, kIndexMinor = 1;
inline constexpr const char* kIndexFolder = "index";
inline constexpr const char* kIndexSuffix = ".idx";

struct IndexHeader {  // as it lies in the file
    std::uint32_t magic, major, minor, entry_size;
};

struct IndexEntry {  // as it lies in the file
    std::uint64_t offset, packet_size, content_size, timestamp_begin, timestamp_end, events_discarded, stream_id,
        stream_instance, sequence_number;
};
static_assert(sizeof(IndexHeader) == 16 && sizeof(IndexEntry) == 72);

[[nodiscard]] constexpr std::uint32_t big_endian(std::uint32_t value) { return __builtin_bswap32(value); }
[[nodiscard]] constexpr std::uint64_t big_endian(std::uint64_t value) { return __builtin_bswap64(value); }

}  // namespace cloister::ctf
