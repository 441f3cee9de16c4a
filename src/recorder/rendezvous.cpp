#include "recorder/rendezvous.hpp"

#include <fmt/format.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <utility>
#include <vector>

namespace cloister::recorder {
namespace {

struct Address {
    sockaddr_un at{};
    socklen_t length = 0;
};

// Abstract: gone with the last socket, whatever file systems the program can see.
Address address_of(const std::string& name) {
    Address out;
    out.at.sun_family = AF_UNIX;
    const std::size_t length = name.copy(out.at.sun_path + 1, sizeof out.at.sun_path - 1);
    out.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + length);
    return out;
}

union Ancillary {  // a control message begins at a cmsghdr's alignment
    cmsghdr header;
    std::array<char, CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(ucred))> bytes;
};

Error system_error(int code) {
    return {.what = "cannot wait for the segments of programs",
            .needs = "a unix domain socket",
            .found = std::strerror(code)};
}

}  // namespace

std::string Invitation::text() const {
    return fmt::format("{},{},{},{}", name, shape.mode == core::Mode::discard ? "discard" : "overwrite", shape.slots,
                       shape.size);
}

std::optional<Invitation> Invitation::parse(std::string_view text) {
    std::vector<std::string_view> parts;
    while (true) {
        const auto comma = std::min(text.find(','), text.size());
        parts.push_back(text.substr(0, comma));
        if (comma == text.size()) break;
        text.remove_prefix(comma + 1);
    }
    const auto number = [](std::string_view digits, std::uint32_t& out) {
        const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), out);
        return error == std::errc() && end == digits.data() + digits.size();
    };
    Invitation out;
    if (parts.size() != 4 || parts[0].empty() || (parts[1] != "discard" && parts[1] != "overwrite") ||
        !number(parts[2], out.shape.slots) || !number(parts[3], out.shape.size))
        return std::nullopt;
    out.name = parts[0];
    out.shape.mode = parts[1] == "discard" ? core::Mode::discard : core::Mode::overwrite;
    return out.shape.valid() ? std::optional(out) : std::nullopt;
}

Result<Rendezvous> Rendezvous::open(const core::Shape& shape) {
    system::Fd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) return fail(system_error(errno));
    std::uint64_t random = 0;
    if (getrandom(&random, sizeof random, 0) != sizeof random) return fail(system_error(errno));
    Invitation invitation{fmt::format("cloister-record-{}-{:016x}", getpid(), random), shape};
    const Address address = address_of(invitation.name);
    constexpr int kOn = 1;
    if (setsockopt(socket.get(), SOL_SOCKET, SO_PASSCRED, &kOn, sizeof kOn) != 0 ||
        bind(socket.get(), reinterpret_cast<const sockaddr*>(&address.at), address.length) != 0)
        return fail(system_error(errno));
    return Rendezvous(std::move(socket), std::move(invitation));
}

Result<std::optional<Rendezvous::Arrival>> Rendezvous::next() {
    char byte = 0;
    iovec data{.iov_base = &byte, .iov_len = 1};
    Ancillary ancillary{};
    msghdr message{};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = &ancillary;
    message.msg_controllen = sizeof ancillary;
    ssize_t got = 0;
    do got = recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return std::optional<Arrival>();
    if (got < 0) return fail(system_error(errno));
    system::Fd file;
    ucred sender{};
    for (cmsghdr* part = CMSG_FIRSTHDR(&message); part; part = CMSG_NXTHDR(&message, part)) {
        if (part->cmsg_level != SOL_SOCKET) continue;
        if (part->cmsg_type == SCM_RIGHTS && part->cmsg_len == CMSG_LEN(sizeof(int))) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(part), sizeof fd);
            file = system::Fd(fd);
        }
        if (part->cmsg_type == SCM_CREDENTIALS) std::memcpy(&sender, CMSG_DATA(part), sizeof sender);
    }
    if (sender.uid != geteuid() && sender.uid != getuid())
        return fail({.what = fmt::format("process {} is not recorded", sender.pid),
                     .needs = fmt::format("a process of the same user, {}", geteuid()),
                     .found = fmt::format("one of user {}", sender.uid)});
    auto segment = Segment::adopt(file, fmt::format("process {}", sender.pid), Segment::Access::drain);
    if (!segment) return fail(segment.error());
    return std::optional<Arrival>({sender.pid, std::move(*segment)});
}

std::optional<Visit> Visit::to(const std::string& name) {
    system::Fd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const Address address = address_of(name);
    constexpr timeval kPatience{.tv_sec = 10, .tv_usec = 0};
    if (!socket || setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof kPatience) != 0 ||
        connect(socket.get(), reinterpret_cast<const sockaddr*>(&address.at), address.length) != 0)
        return std::nullopt;
    return Visit(std::move(socket));
}

bool Visit::bring(int segment_file) const {
    char byte = 'S';
    iovec data{.iov_base = &byte, .iov_len = 1};
    Ancillary ancillary{};
    msghdr message{};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = &ancillary;
    message.msg_controllen = CMSG_SPACE(sizeof(int));
    cmsghdr* const part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(part), &segment_file, sizeof segment_file);
    ssize_t sent = 0;
    do sent = sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent == 1;
}

}  // namespace cloister::recorder
