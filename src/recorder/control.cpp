#include "recorder/control.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstring>
#include <ctime>
#include <utility>

#include "base/control_thread.hpp"
#include "cloister/trace.h"
#include "system/clock.hpp"
#include "system/cpu.hpp"
#include "system/files.hpp"

namespace cloister::recorder {
namespace {

constexpr int kOwner = 1;  // of the rules that are made for an asker
constexpr std::size_t kStack = 256U << 10;

enum class Phase : std::uint32_t { idle = 0, asked = 1, answered = 2 };
constexpr std::uint32_t word(std::uint32_t turn, Phase phase) { return turn << 2 | static_cast<std::uint32_t>(phase); }
constexpr Phase phase_of(std::uint32_t state) { return static_cast<Phase>(state & 3); }

// `ns`: how long at most; 0: without end.
void sleep_on(std::uint32_t* state, std::uint32_t seen, std::uint64_t ns) {
    const timespec time{.tv_sec = static_cast<time_t>(ns / 1'000'000'000),
                        .tv_nsec = static_cast<long>(ns % 1'000'000'000)};
    syscall(SYS_futex, state, FUTEX_WAIT, seen, ns ? &time : nullptr, nullptr, 0);
}
void wake(std::uint32_t* state) { syscall(SYS_futex, state, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0); }

struct flock lock_of_the_area(short type) {
    struct flock lock {};
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_start = kControl;
    lock.l_len = 1;
    return lock;
}

ControlArea* area_of(const Segment& segment) { return reinterpret_cast<ControlArea*>(segment.base() + kControl); }

// Away from CPUs that somebody keeps for one task; where there are none, wherever the program may run.
void avoid_isolated_cpus() {
    const auto topology = system::read_topology();
    system::CpuSet wanted = topology.allowed;
    for (const auto* kept : {&topology.isolated, &topology.nohz_full})
        for (const int cpu : kept->list()) wanted.remove(cpu);
    if (wanted.empty())  // the program is pinned to them: to one that is nobody's
        for (const int cpu : topology.online.list())
            if (!topology.isolated.has(cpu) && !topology.nohz_full.has(cpu)) wanted.add(cpu);
    if (!wanted.empty() && !(wanted == topology.allowed)) (void)system::set_affinity(0, wanted);
}

struct Answer {
    bool failed = false;
    std::string text;
};

Answer in_words(int count, const char* error) { return {count < 0, count < 0 ? error : std::to_string(count)}; }

Answer carry_out(const std::string& request) {
    std::array<char, 2048> error{};
    const auto end_of_verb = std::min(request.find('\n'), request.size());
    const std::string verb = request.substr(0, end_of_verb);
    if (verb == "begin" || verb == "end") {
        const int released = cloister_trace_release(kOwner, error.data(), error.size());
        return {released < 0, released < 0 ? error.data() : ""};
    }
    if (verb == "enable" && end_of_verb < request.size())
        return in_words(
            cloister_trace_enable_for(kOwner, request.c_str() + end_of_verb + 1, error.data(), error.size()),
            error.data());
    if (verb == "list") {
        std::string lines;
        cloister_trace_classes(
            [](void* data, const cloister_class* one) {
                auto& text = *static_cast<std::string*>(data);
                std::string line =
                    fmt::format("{} {} {}:{}\n", __atomic_load_n(&one->on, __ATOMIC_RELAXED) ? "on" : "off", one->level,
                                one->provider, one->name);
                if (text.size() + line.size() <= ControlArea::kAnswerBytes) text += line;
                return 0;
            },
            &lines);
        return {false, std::move(lines)};
    }
    return {true, Error{.what = "the program was asked for something that it does not know",
                        .needs = "begin, end, enable or list",
                        .found = verb.substr(0, 100)}
                      .text()};
}

}  // namespace

Result<std::unique_ptr<ControlServer>> ControlServer::start(Segment& segment) {
    std::unique_ptr<ControlServer> out(new ControlServer(segment));
    // What is asked before the thread runs is answered when it does.
    __atomic_store_n(&area_of(segment)->server, 1, __ATOMIC_RELEASE);
    // What the thread raises itself is not blocked: blocked, it would be killed without a word.
    sigset_t blocked, before;
    sigfillset(&blocked);
    for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS}) sigdelset(&blocked, own);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, kStack);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    const int code = pthread_create(
        &out->thread_, &attributes,
        [](void* data) -> void* {
            static_cast<ControlServer*>(data)->run();
            return nullptr;
        },
        out.get());
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    pthread_attr_destroy(&attributes);
    if (code == 0) {
        out->process_ = getpid();
        return out;
    }
    __atomic_store_n(&area_of(segment)->server, 0, __ATOMIC_RELEASE);
    return fail({.what = "tracepoints cannot be controlled from outside",
                 .needs = "one more thread in this program",
                 .found = std::strerror(code)});
}

ControlServer::~ControlServer() {
    if (process_ != getpid()) return;
    stop_ = true;
    // It may be about to sleep: woken until it has seen it.
    while (!ended_) {
        wake(&area_of(segment_)->state);
        usleep(1000);
    }
    pthread_join(thread_, nullptr);
}

bool ControlServer::asker_is_gone() const {
    struct flock lock = lock_of_the_area(F_WRLCK);
    return fcntl(segment_.fd().get(), F_OFD_GETLK, &lock) == 0 && lock.l_type == F_UNLCK;
}

void ControlServer::run() {
    prctl(PR_SET_NAME, std::string(kControlThread).c_str());
    avoid_isolated_cpus();
    ControlArea* const area = area_of(segment_);
    while (!stop_) {
        const std::uint32_t state = __atomic_load_n(&area->state, __ATOMIC_ACQUIRE);  // C2
        if (phase_of(state) == Phase::asked) {
            answer_one(state);
            usleep(1000);  // G4
            continue;
        }
        constexpr std::uint64_t kSecond = 1'000'000'000;
        sleep_on(&area->state, state, serving_ ? kSecond : 0);
        if (serving_ && asker_is_gone()) {
            (void)carry_out("end");
            serving_ = false;
        }
    }
    if (serving_) (void)carry_out("end");
    __atomic_store_n(&area->server, 0, __ATOMIC_RELEASE);
    ended_ = true;
}

void ControlServer::answer_one(std::uint32_t state) {
    ControlArea* const area = area_of(segment_);
    const std::uint32_t bytes =
        std::min(__atomic_load_n(&area->request_bytes, __ATOMIC_RELAXED), ControlArea::kRequestBytes);
    const std::string request(area->request, bytes);  // G1
    if (__atomic_load_n(&area->state, __ATOMIC_ACQUIRE) != state) return;
    if (request == "begin") serving_ = true;
    const Answer answer = carry_out(request);
    if (request == "end") serving_ = false;
    const auto length =
        static_cast<std::uint32_t>(std::min<std::size_t>(answer.text.size(), ControlArea::kAnswerBytes));
    std::memcpy(area->answer, answer.text.data(), length);
    __atomic_store_n(&area->answer_bytes, length, __ATOMIC_RELAXED);
    __atomic_store_n(&area->failed, answer.failed, __ATOMIC_RELAXED);
    std::uint32_t expected = state;
    __atomic_compare_exchange_n(&area->state, &expected, word(state >> 2, Phase::answered), false, __ATOMIC_ACQ_REL,
                                __ATOMIC_RELAXED);  // C3
    wake(&area->state);
}

Result<ControlSession> ControlSession::begin(const Segment& segment, pid_t pid, std::chrono::milliseconds patience) {
    // Opened anew: the lock is this session's, not that of others who share the segment's description.
    system::Fd fd(::open(fmt::format("/proc/self/fd/{}", segment.fd().get()).c_str(), O_RDWR | O_CLOEXEC));
    struct flock lock = lock_of_the_area(F_WRLCK);
    if (!fd || fcntl(fd.get(), F_OFD_SETLK, &lock) != 0)
        return fail({.what = fmt::format("the tracepoints of process {} cannot be controlled", pid),
                     .needs = "to be the only one who does",
                     .found = fd && (errno == EAGAIN || errno == EACCES)
                                  ? "another cloister is at it (lslocks shows it)"
                                  : std::strerror(errno),
                     .set = "end that one first"});
    void* memory = mmap(nullptr, kControlBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), kControl);
    if (memory == MAP_FAILED)
        return fail({.what = fmt::format("the tracepoints of process {} cannot be controlled", pid),
                     .needs = "a mapping of its segment that can be written to",
                     .found = std::strerror(errno)});
    ControlSession out(std::move(fd), static_cast<ControlArea*>(memory), pid, patience);
    if (auto begun = out.ask("begin"); !begun) return fail(begun.error());
    return out;
}

ControlSession::ControlSession(ControlSession&& other) noexcept
    : fd_(std::move(other.fd_)),
      area_(std::exchange(other.area_, nullptr)),
      pid_(other.pid_),
      patience_(other.patience_),
      silent_(other.silent_) {}

ControlSession::~ControlSession() {
    if (!area_) return;
    (void)end();
}

Result<void> ControlSession::end() {
    const auto ended = silent_ ? Result<std::string>() : ask("end");
    munmap(std::exchange(area_, nullptr), kControlBytes);
    fd_ = system::Fd();
    if (!ended) return fail(ended.error());
    return {};
}

Result<int> ControlSession::enable(std::string_view entries) {
    const auto answer = ask(fmt::format("enable\n{}", entries));
    if (!answer) return fail(answer.error());
    return std::atoi(answer->c_str());
}

Result<std::string> ControlSession::list() { return ask("list"); }

Result<std::string> ControlSession::ask(std::string_view request) {
    const auto cannot = [&](std::string needs, std::string found, std::string set) {
        return fail({.what = fmt::format("the tracepoints of process {} cannot be controlled", pid_),
                     .needs = std::move(needs),
                     .found = std::move(found),
                     .set = std::move(set)});
    };
    if (request.size() > ControlArea::kRequestBytes)
        return cannot(fmt::format("at most {} characters", ControlArea::kRequestBytes - 7),
                      fmt::format("{}", request.size() - 7), "fewer or shorter globs");
    if (__atomic_load_n(&area_->server, __ATOMIC_ACQUIRE) == 0)
        return cannot("a thread of it that answers (cloister-ctl), which recording starts",
                      "none: it has ended or stopped to record, or could not start a thread", "");
    const std::uint32_t turn = (__atomic_load_n(&area_->state, __ATOMIC_ACQUIRE) >> 2) + 1;
    __atomic_store_n(&area_->state, word(turn, Phase::idle), __ATOMIC_RELEASE);
    std::memcpy(area_->request, request.data(), request.size());
    __atomic_store_n(&area_->request_bytes, static_cast<std::uint32_t>(request.size()), __ATOMIC_RELAXED);
    __atomic_store_n(&area_->state, word(turn, Phase::asked), __ATOMIC_RELEASE);  // C1
    wake(&area_->state);

    const std::uint64_t end =
        system::clock_ns(CLOCK_MONOTONIC) + static_cast<std::uint64_t>(patience_ / std::chrono::nanoseconds(1));
    while (true) {
        const std::uint32_t state = __atomic_load_n(&area_->state, __ATOMIC_ACQUIRE);  // C4
        if (state == word(turn, Phase::answered)) break;
        const std::uint64_t now = system::clock_ns(CLOCK_MONOTONIC);
        // A process that is gone wakes nobody: looked at again and again.
        constexpr std::uint64_t kLook = 100'000'000;
        const bool gone = kill(pid_, 0) != 0 && errno == ESRCH;
        if (gone || now >= end) {
            silent_ = true;
            const auto stat = system::read_file(fmt::format("/proc/{}/status", pid_));
            return cannot(fmt::format("an answer within {} ms", patience_.count()),
                          gone ? "the process has ended"
                               : fmt::format("none (its state is {})", system::value_of(stat ? *stat : "", "State:")),
                          "if it is stopped, let it continue (kill -CONT)");
        }
        sleep_on(&area_->state, state, std::min(kLook, end - now));
    }
    const std::uint32_t bytes =
        std::min(__atomic_load_n(&area_->answer_bytes, __ATOMIC_RELAXED), ControlArea::kAnswerBytes);
    std::string answer(area_->answer, bytes);
    if (!__atomic_load_n(&area_->failed, __ATOMIC_RELAXED)) return answer;
    // The error as the program has worded it: Error::text() of it gives the same again.
    constexpr std::string_view kPrefix = "cloister: ";
    if (answer.starts_with(kPrefix)) answer.erase(0, kPrefix.size());
    return fail({.what = std::string(system::trim(answer))});
}

}  // namespace cloister::recorder
