#include "ctf/packet.hpp"

#include <bit>
#include <cstring>

namespace cloister::ctf {

static_assert(std::endian::native == std::endian::little, "headers are stored as they lie in memory");

void fill_header(std::span<std::byte, kPacketHeaderSize> header, const Uuid& trace, const PacketInfo& info,
                 std::size_t events_size) {
    std::byte* at = header.data();
    const auto put = [&at](const auto& value) {
        std::memcpy(at, &value, sizeof value);
        at += sizeof value;
    };
    put(kPacketMagic);
    put(trace);
    put(info.stream_id);
    put(info.stream_instance);
    put(info.timestamp_begin);
    put(info.timestamp_end);
    put(std::uint64_t{8} * (kPacketHeaderSize + events_size));
    put(std::uint64_t{8} * packet_size(events_size));
    put(info.sequence_number);
    put(info.events_discarded);
    put(info.cpu);
}

}  // namespace cloister::ctf
