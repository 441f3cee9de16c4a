#include "ctf/trace_writer.hpp"

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctf/metadata_text.hpp"
#include "ctf/packet_index.hpp"

namespace cloister::ctf {
namespace {

// An error number is the caller's: some of these are found where errno has moved on.
auto cannot_write(const std::string& path, int error) {
    return fail({.what = "cannot write " + path,
                 .needs = "a directory that can be written to, and room on its file system",
                 .found = std::strerror(error),
                 .set = error == ENOSPC || error == EDQUOT ? "df " + path : ""});
}

std::span<const std::byte> bytes_of(std::string_view text) {
    return std::as_bytes(std::span<const char>(text.data(), text.size()));
}

template <class T>
requires std::is_trivially_copyable_v<T> std::span<const std::byte> bytes_of(const T& value) {
    return std::as_bytes(std::span<const T, 1>(&value, 1));
}

Result<void> make_empty(const std::string& directory) {
    if (::mkdir(directory.c_str(), 0777) == 0) return {};
    const int error = errno;
    std::error_code no;
    if (error != EEXIST || !std::filesystem::is_directory(directory, no)) return cannot_write(directory, error);
    const std::filesystem::directory_iterator first(directory, no);
    if (no) return cannot_write(directory, no.value());
    if (first == std::filesystem::directory_iterator()) return {};
    return fail({.what = "cannot write a trace to " + directory,
                 .needs = "a directory of its own: one that is empty, or not there yet",
                 .found = fmt::format("{} in it", first->path().filename().string()),
                 .set = "another directory, or: rm -r " + directory});
}

}  // namespace

system::Fd lock_as_writer(const std::string& directory) {
    system::Fd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (fd) (void)::flock(fd.get(), LOCK_EX | LOCK_NB);
    return fd;
}

bool is_being_written(const std::string& directory) {
    const system::Fd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    return fd && ::flock(fd.get(), LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

Result<TraceWriter::File> TraceWriter::create_file(std::string path) {
    File file;
    file.path = std::move(path);
    file.fd = system::Fd(::open(file.path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (!file.fd) return cannot_write(file.path, errno);
    return file;
}

Result<void> TraceWriter::append(File& file, std::span<const std::span<const std::byte>> parts) {
    if (file.spoilt) return cannot_write(file.path, EIO);
    std::uint64_t at = file.size;
    for (auto part : parts) {
        while (!part.empty()) {
            const ssize_t wrote = ::pwrite(file.fd.get(), part.data(), part.size(), static_cast<off_t>(at));
            if (wrote < 0 && errno == EINTR) continue;
            if (wrote <= 0) {
                const int error = wrote == 0 ? ENOSPC : errno;
                file.spoilt = ::ftruncate(file.fd.get(), static_cast<off_t>(file.size)) != 0;
                return cannot_write(file.path, error);
            }
            part = part.subspan(static_cast<std::size_t>(wrote));
            at += static_cast<std::uint64_t>(wrote);
        }
    }
    file.size = at;
    return {};
}

Result<TraceWriter> TraceWriter::create(const std::string& directory, const Preamble& preamble) {
    if (auto ok = preamble.check(); !ok) return fail(ok.error());
    if (auto ok = make_empty(directory); !ok) return fail(ok.error());
    TraceWriter writer;
    writer.directory_ = directory;
    writer.lock_ = lock_as_writer(directory);
    writer.uuid_ = preamble.uuid;
    for (const auto& channel : preamble.channels) writer.channels_[channel.stream_id] = channel.name;
    auto metadata = create_file(directory + "/metadata");
    if (!metadata) return fail(metadata.error());
    writer.metadata_ = std::move(*metadata);
    const std::string text = preamble_text(preamble);
    if (auto ok = append(writer.metadata_, std::array{bytes_of(text)}); !ok) return fail(ok.error());
    const std::string index = directory + "/" + kIndexFolder;
    if (::mkdir(index.c_str(), 0777) != 0) return cannot_write(index, errno);
    return writer;
}

Result<void> TraceWriter::add(const EventClass& event) {
    if (auto ok = event.check(); !ok) return ok;
    return add(event.stream_id, event.id, event_text(event));
}

Result<void> TraceWriter::add(std::uint32_t stream_id, std::uint32_t id, std::string_view text) {
    const auto wrong = [&](std::string needs, std::string found) {
        return fail({fmt::format("event class {} of stream {} cannot be added to {}", id, stream_id, directory_),
                     std::move(needs), std::move(found), ""});
    };
    if (!channels_.contains(stream_id))
        return wrong("the stream id of a channel of this trace", fmt::format("stream id {}", stream_id));
    const std::pair key{stream_id, id};
    if (events_.contains(key))
        return wrong("an id that is new in its stream", fmt::format("id {}, which is taken", id));
    if (auto ok = append(metadata_, std::array{bytes_of(text)}); !ok) return ok;
    events_.insert(key);
    return {};
}

Result<TraceWriter::Stream*> TraceWriter::stream_of(const PacketInfo& info) {
    const std::pair key{info.stream_id, info.stream_instance};
    if (const auto found = streams_.find(key); found != streams_.end()) return &found->second;
    const auto channel = channels_.find(info.stream_id);
    if (channel == channels_.end())
        return fail({.what = "a packet cannot be written to " + directory_,
                     .needs = "the stream id of a channel of this trace",
                     .found = fmt::format("stream id {}", info.stream_id)});
    const std::string name = fmt::format("{}_{}", channel->second, info.stream_instance);
    auto packets = create_file(directory_ + "/" + name);
    if (!packets) return fail(packets.error());
    auto index = create_file(directory_ + "/" + kIndexFolder + "/" + name + kIndexSuffix);
    if (!index) return fail(index.error());
    const IndexHeader header{big_endian(kIndexMagic), big_endian(kIndexMajor), big_endian(kIndexMinor),
                             big_endian(std::uint32_t{sizeof(IndexEntry)})};
    if (auto ok = append(*index, std::array{bytes_of(header)}); !ok) return fail(ok.error());
    return &streams_.emplace(key, Stream{std::move(*packets), std::move(*index)}).first->second;
}

Result<void> TraceWriter::write(const PacketInfo& info, std::span<const std::byte> events) {
    const auto stream = stream_of(info);
    if (!stream) return fail(stream.error());
    File& packets = (*stream)->packets;
    const std::uint64_t begin = packets.size;
    std::array<std::byte, kPacketHeaderSize> header{};
    fill_header(header, uuid_, info, events.size());
    constexpr std::array<std::byte, kEventAlign> kPadding{};
    const std::size_t size = packet_size(events.size());
    const auto padding = std::span(kPadding).first(size - kPacketHeaderSize - events.size());
    if (auto ok = append(packets, std::array<std::span<const std::byte>, 3>{header, events, padding}); !ok) return ok;

    const IndexEntry entry{big_endian(begin),
                           big_endian(std::uint64_t{8} * size),
                           big_endian(std::uint64_t{8} * (kPacketHeaderSize + events.size())),
                           big_endian(info.timestamp_begin),
                           big_endian(info.timestamp_end),
                           big_endian(info.events_discarded),
                           big_endian(std::uint64_t{info.stream_id}),
                           big_endian(info.stream_instance),
                           big_endian(info.sequence_number)};
    auto indexed = append((*stream)->index, std::array{bytes_of(entry)});
    // A packet that the index does not know would be one that some readers leave out.
    if (!indexed) {
        packets.spoilt = ::ftruncate(packets.fd.get(), static_cast<off_t>(begin)) != 0;
        packets.size = begin;
    }
    return indexed;
}

Result<void> TraceWriter::finish() {
    const auto close = [](File& file) -> Result<void> {
        if (!file.fd) return {};
        int error = file.spoilt ? EIO : 0;
        const int fd = file.fd.release();
        if (::fsync(fd) != 0 && error == 0) error = errno;
        if (::close(fd) != 0 && error == 0) error = errno;
        if (error != 0) return cannot_write(file.path, error);
        return {};
    };
    Result<void> done = close(metadata_);
    for (auto& [key, stream] : streams_) {
        for (File* file : {&stream.packets, &stream.index})
            if (auto ok = close(*file); !ok && done) done = ok;
    }
    lock_ = system::Fd();
    return done;
}

}  // namespace cloister::ctf
