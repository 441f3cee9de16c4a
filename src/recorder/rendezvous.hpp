// How the segments of programs that `cloister record -- CMD` starts get to it: each program makes its own when it is
// loaded, and sends the file to a socket whose name is in its environment.
//
//     CLOISTER_RECORD=NAME,MODE,SLOTS,SIZE     NAME of an abstract unix(7) datagram socket, without its leading NUL;
//                                              MODE discard or overwrite; sub-buffers of a lane; bytes of each
//
// One datagram for each segment: a byte, the file (SCM_RIGHTS), and who sends it (SCM_CREDENTIALS, by the kernel). It
// waits in the socket when the sender is dead, so a program that lives for a millisecond, or is killed, is recorded
// like any other. The sender waits for nothing but room in the socket's queue.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>

#include "base/error.hpp"
#include "cloister/core/lane.hpp"
#include "recorder/segment.hpp"

namespace cloister::recorder {

inline constexpr const char* kRecordVariable = "CLOISTER_RECORD";

struct Invitation {
    std::string name;
    core::Shape shape;

    [[nodiscard]] std::string text() const;  // the variable's value
    // Nothing if it is none.
    [[nodiscard]] static std::optional<Invitation> parse(std::string_view text);
};

// The side that waits for segments.
class Rendezvous {
public:
    [[nodiscard]] static Result<Rendezvous> open(const core::Shape& shape);

    [[nodiscard]] const Invitation& invitation() const { return invitation_; }

    struct Arrival {
        pid_t pid = 0;  // as this process sees it
        Segment segment;
    };
    // The next one that is there, without waiting. Errors are about one sender (another user, a broken segment): the
    // next call goes on with others.
    [[nodiscard]] Result<std::optional<Arrival>> next();

private:
    Rendezvous(system::Fd socket, Invitation invitation)
        : socket_(std::move(socket)), invitation_(std::move(invitation)) {}

    system::Fd socket_;
    Invitation invitation_;
};

// The side that brings one.
class Visit {
public:
    // Nothing if nobody waits there.
    [[nodiscard]] static std::optional<Visit> to(const std::string& name);
    // Waits some seconds for room in the queue. False: it could not be sent.
    [[nodiscard]] bool bring(int segment_file) const;

private:
    explicit Visit(system::Fd socket) : socket_(std::move(socket)) {}
    system::Fd socket_;
};

}  // namespace cloister::recorder
