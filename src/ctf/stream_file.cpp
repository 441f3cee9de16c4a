#include "ctf/stream_file.hpp"

#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "ctf/packet.hpp"
#include "ctf/packet_index.hpp"
#include "system/perf.hpp"

namespace cloister::ctf {

Result<Mapping> Mapping::open(const std::string& path) {
    const auto cannot = [&](int error) {
        return fail(
            {.what = "cannot read " + path, .needs = "a regular file that may be read", .found = std::strerror(error)});
    };
    // Not blocking: a named pipe in the directory would have it wait for a writer.
    const system::Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (!fd) return cannot(errno);
    struct stat status {};
    if (::fstat(fd.get(), &status) != 0) return cannot(errno);
    if (!S_ISREG(status.st_mode)) return cannot(EINVAL);
    Mapping out;
    if (status.st_size == 0) return out;
    const auto size = static_cast<std::size_t>(status.st_size);
    void* const data = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd.get(), 0);
    if (data == MAP_FAILED) return cannot(errno);
    out.data_ = static_cast<const std::uint8_t*>(data);
    out.size_ = size;
    return out;
}

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
}

Mapping::~Mapping() {
    if (data_) ::munmap(const_cast<std::uint8_t*>(data_), size_);
}

Result<StreamFile> StreamFile::open(const std::string& directory, const std::string& name,
                                    std::shared_ptr<const TraceLayout> layout) {
    auto file = Mapping::open(directory + "/" + name);
    if (!file) return fail(file.error());
    StreamFile out(name, std::move(layout), file->bytes());
    out.file_ = std::move(*file);
    if (auto index = Mapping::open(directory + "/" + kIndexFolder + "/" + name + kIndexSuffix))
        out.index_ = std::move(*index);
    return out;
}

const StreamLayout* StreamFile::stream_of(const Decoder& decoder) const {
    if (decoder.has(Role::stream_id)) return layout_->stream(decoder.role(Role::stream_id));
    return layout_->streams.size() == 1 ? &layout_->streams.front() : nullptr;
}

Result<Packet> StreamFile::packet_at(std::uint64_t offset, std::uint64_t number, Decoder& decoder,
                                     std::vector<Value>* context) const {
    const auto wrong = [&](const std::string& what, std::string needs) {
        return fail({fmt::format("packet {} of {}: {}", number, name_, what), std::move(needs),
                     fmt::format("the packet begins at byte {} of {}", offset, size()), ""});
    };
    const auto rest = bytes_.subspan(offset);
    Packet packet;
    packet.number = number;
    packet.offset = offset;
    decoder.forget_roles();
    decoder.begin({rest.data(), std::uint64_t{8} * rest.size()}, 0);
    if (!decoder.run(layout_->packet_header, packet.events_at, nullptr))
        return wrong("its header ends too soon: " + decoder.why(), "a whole packet header");
    if (decoder.has(Role::magic) && decoder.role(Role::magic) != kPacketMagic)
        return wrong(fmt::format("magic {:#x}", decoder.role(Role::magic)),
                     fmt::format("{:#x}, as every packet of a CTF stream begins", kPacketMagic));
    const auto& uuid = layout_->metadata.uuid;
    if (uuid && decoder.has(Role::uuid) && decoder.role(Role::uuid) % 8 == 0 &&
        std::memcmp(rest.data() + decoder.role(Role::uuid) / 8, uuid->data(), uuid->size()) != 0)
        return wrong("it is of another trace", "the UUID of the metadata, " + text_of(*uuid));
    packet.stream = stream_of(decoder);
    if (!packet.stream)
        return wrong(decoder.has(Role::stream_id)
                         ? fmt::format("stream {} is not declared", decoder.role(Role::stream_id))
                         : std::string("it does not say of which stream it is"),
                     "the id of a stream that the metadata declares");
    if (!decoder.run(packet.stream->packet_context, packet.events_at, context))
        return wrong("its context ends too soon: " + decoder.why(), "a whole packet context");

    const auto optional = [&](Role role) {
        return decoder.has(role) ? std::optional(decoder.role(role)) : std::nullopt;
    };
    const std::uint64_t left = std::uint64_t{8} * rest.size();
    const auto content = optional(Role::content_size), size = optional(Role::packet_size);
    const std::uint64_t bits = size ? *size : content ? *content : left;
    packet.content = content ? *content : bits;
    if (packet.content > bits)
        return wrong(fmt::format("content_size {} bits is larger than packet_size {}", packet.content, bits),
                     "content_size <= packet_size");
    if (bits > left)
        return wrong(
            fmt::format("packet_size {} bits reaches beyond the end of the file, {} bits are left", bits, left),
            "the whole file: it was cut, or its tracer ended in the middle of a packet");
    if (packet.content < packet.events_at)
        return wrong(
            fmt::format("content_size {} bits ends inside the header, which has {}", packet.content, packet.events_at),
            "content_size >= the size of header and context");
    if (bits % 8 != 0 || bits == 0)
        return wrong(fmt::format("packet_size {} bits", bits), "whole bytes, and at least one");
    packet.size = bits / 8;
    packet.begin = optional(Role::timestamp_begin);
    packet.end = optional(Role::timestamp_end);
    packet.sequence_number = optional(Role::sequence_number);
    packet.events_discarded = optional(Role::events_discarded);
    packet.cpu = optional(Role::cpu_id);
    if (packet.cpu == kNoCpu) packet.cpu.reset();
    decoder.begin({rest.data(), packet.content}, packet.begin.value_or(0));
    return packet;
}

std::optional<Packet> StreamFile::before(std::uint64_t cycles, Decoder& decoder) const {
    const auto index = index_.bytes();
    IndexHeader header{};
    if (index.size() < sizeof header) return std::nullopt;
    std::memcpy(&header, index.data(), sizeof header);
    const std::size_t entry_size = big_endian(header.entry_size);
    // Version 1.0 has entries that end earlier, later ones may have longer entries; what is used here all have.
    if (big_endian(header.magic) != kIndexMagic || big_endian(header.major) != kIndexMajor ||
        entry_size < offsetof(IndexEntry, events_discarded))
        return std::nullopt;
    const auto entry_at = [&](std::size_t i) {
        IndexEntry entry{};
        std::memcpy(&entry, index.data() + sizeof header + i * entry_size, offsetof(IndexEntry, events_discarded));
        return entry;
    };
    // The first that does not end before it; the one in front of that is the hint.
    std::size_t low = 0, high = (index.size() - sizeof header) / entry_size;
    while (low < high) {
        const std::size_t middle = low + (high - low) / 2;
        if (big_endian(entry_at(middle).timestamp_end) < cycles)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0) return std::nullopt;
    const IndexEntry entry = entry_at(low - 1);
    const std::uint64_t offset = big_endian(entry.offset);
    if (offset >= size()) return std::nullopt;
    auto packet = packet_at(offset, low - 1, decoder);
    if (!packet || 8 * packet->size != big_endian(entry.packet_size) ||
        packet->content != big_endian(entry.content_size) || packet->begin != big_endian(entry.timestamp_begin) ||
        packet->end != big_endian(entry.timestamp_end))
        return std::nullopt;
    return *packet;
}

}  // namespace cloister::ctf
