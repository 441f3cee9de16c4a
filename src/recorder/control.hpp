// The control of a program's tracepoints from another process (`cloister record --pid PID -e GLOB`), through memory of
// its segment. docs/format.md has the bytes.
//
// Roles
//   asker    a process that may write to the segment: the same user, or root. One at a time: it holds an open file
//            description lock (fcntl(2), F_OFD_SETLK) on the first byte of the area, which the kernel takes away when
//            it ends, however it ends
//   server   a thread of the program that records, "cloister-ctl", which record::start() makes and stop() ends. It is
//            the one who patches: patching needs the program's own text, its lock and its membarrier(2)
//
// The server has all signals blocked but those that a thread raises itself: a handler of the program never runs on it,
// and the blocked SIGTRAP of one thread would have text patched the slow way (tracepoint/patch.hpp). Where the program
// may use isolated CPUs, it keeps to the others. It sleeps in a futex wait; only while an asker is there does it wake
// up once a second, to see whether it still is.
//
// Words
//   state   {turn : 30, phase : 2}, the futex. 0 idle, 1 asked, 2 answered
//   server  1 while somebody is there to answer
//
// Protocol, for turn t, which is one more than that of the state found:
//   asker    state = {t, idle}; writes the request; state = {t, asked} (C1); wakes; sleeps until {t, answered} (C4);
//            reads the answer
//   server   sleeps until {t, asked} (C2); copies the request; state again: not the same word: begins anew;
//            does it; writes the answer; CAS {t, asked} -> {t, answered} (C3); wakes
//   Before its first request an asker says `begin`; when it ends it says `end`. At both, and when the lock is found
//   free (the asker was killed), the server turns off what was turned on for an asker (cloister_trace_release).
//
// Guarantees
//   G1  nothing in the area is used in place: the server copies at most kRequestBytes, then understands the copy, so a
//       hostile peer can ask for what it may ask for anyway, and no more
//   G2  an asker that dies anywhere leaves at worst a request that is carried out and then taken back, within a second
//   G3  nobody waits for an asker, and an asker waits at most for a time that it has chosen
//   G4  a server that is told faster than 1000 times a second answers 1000 times a second
//
// Memory orders
//   id  site                      operation        pairs with  if it were weaker
//   C1  asker, state              store release    C2          the server copies half of the request
//   C2  server, state             load acquire     C1          the same
//   C3  server, state             CAS acq_rel      C4          the asker reads half of the answer
//   C4  asker, state              load acquire     C3          the same
//
// What remains after `kill -9` of the asker: up to a second in which tracepoints stay on. After the end of the program:
// nothing. A rule that the program itself makes meanwhile for the same events counts as the later one.
#pragma once

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "base/error.hpp"
#include "recorder/segment.hpp"

namespace cloister::recorder {

struct ControlArea {  // at kControl of a segment
    static constexpr std::uint32_t kRequestBytes = 2048, kAnswerBytes = 6112;

    std::uint32_t state, server;
    std::uint32_t request_bytes, answer_bytes;
    std::uint32_t failed;  // the answer is an error's text
    std::uint32_t reserved[3];
    char request[kRequestBytes], answer[kAnswerBytes];
};
static_assert(sizeof(ControlArea) == kControlBytes);

// Requests, each with what it answers:
//   begin, end             ""
//   enable\nENTRIES        the number of classes that match, in decimal; ENTRIES as in CLOISTER_TRACE
//   list                   a line for each class: "on" or "off", its level, PROVIDER:NAME; as many lines as fit
class ControlServer {
public:
    // Begins to answer for this segment, which must outlive it. Errors: no thread.
    [[nodiscard]] static Result<std::unique_ptr<ControlServer>> start(Segment& segment);
    ~ControlServer();  // returns when the thread has ended; in the child of a fork there is none

    ControlServer(const ControlServer&) = delete;
    ControlServer& operator=(const ControlServer&) = delete;

private:
    explicit ControlServer(Segment& segment) : segment_(segment) {}
    void run();
    void answer_one(std::uint32_t state);
    [[nodiscard]] bool asker_is_gone() const;

    Segment& segment_;
    pid_t process_ = 0;  // whose thread it is; 0: there is none
    pthread_t thread_{};
    std::atomic<bool> stop_ = false, ended_ = false;
    bool serving_ = false;  // an asker has begun, and was not seen to have gone
};

// One asker's session.
class ControlSession {
public:
    // `pid`: of the program, as this process sees it. Errors: another one is at it; nobody is there to answer (a
    // program that has ended, or was built without); no answer in time.
    [[nodiscard]] static Result<ControlSession> begin(const Segment& segment, pid_t pid,
                                                      std::chrono::milliseconds patience = std::chrono::seconds(10));
    ControlSession(ControlSession&& other) noexcept;
    ControlSession& operator=(ControlSession&&) = delete;
    ~ControlSession();  // puts back what it changed

    [[nodiscard]] Result<int> enable(std::string_view entries);
    [[nodiscard]] Result<std::string> list();
    // Puts it back now, and says so if that could not be done.
    [[nodiscard]] Result<void> end();

private:
    ControlSession(system::Fd fd, ControlArea* area, pid_t pid, std::chrono::milliseconds patience)
        : fd_(std::move(fd)), area_(area), pid_(pid), patience_(patience) {}
    [[nodiscard]] Result<std::string> ask(std::string_view request);

    system::Fd fd_;  // holds the lock
    ControlArea* area_ = nullptr;
    pid_t pid_ = 0;
    std::chrono::milliseconds patience_{};
    bool silent_ = false;  // it has not answered once: it puts everything back when it finds the lock free
};

}  // namespace cloister::recorder
