// vfork (src/recorder/vfork.cpp) interrupted at each of its instructions, in the parent and in the child, by a handler
// that writes an event and vforks in turn: it returns twice, with the right values, and the thread is registered for
// rseq(2) again, or not, as before. No event is lost, and none of a child comes into a lane.
//
// Exit status: as that of lane_steps.cpp.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <set>

#include "../core/rseq.hpp"
#include "../core/spill.hpp"
#include "recorder/vfork.hpp"
#include "step.hpp"

using namespace cloister::core;
using namespace cloister::core::test;
namespace step = cloister::step;

// In place of AddressSanitizer's, so that its call is reached.
extern "C" void __asan_handle_vfork(void* stack);
extern "C" void __asan_handle_vfork(void*) {}

namespace {

constexpr Shape kShape{.slots = 2, .size = 4096, .mode = Mode::discard};
constexpr u64 kParent = 1, kChild = 2, kHandler = 3;  // who writes

struct Shared {                           // with the children, of whatever kind
    const View* view = nullptr;           // in a page that a fork wipes, as a recorder's is
    pid_t process = 0;                    // the parent of them all
    u64 next = 1, done = 0, refused = 0;  // events
    u64 in_child = 0;                     // of those that are done, by children
    bool nested_wrong = false;
};
Shared* shared = nullptr;

void write_as(u64 who) {
    const Wrote wrote = write_pair(*shared->view, kPair, who, shared->next++);
    ++(wrote == Wrote::done ? shared->done : shared->refused);
    shared->in_child += wrote == Wrote::done && getpid() != shared->process;
}

template <class Body>
[[gnu::noinline]] pid_t vforked(const Body& body) {
    const pid_t pid = vfork();
    if (pid == 0) _exit(body());
    return pid;
}

int status_of(pid_t child) {
    int status = -1;
    if (child < 0 || waitpid(child, &status, 0) != child) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

enum class Way { registered, unregistered, no_recorder, vfork_forbidden, rseq_forbidden };
constexpr std::array kWays{Way::registered, Way::unregistered, Way::no_recorder, Way::vfork_forbidden,
                           Way::rseq_forbidden};

u64 events_in_lanes(const Lanes& lanes) {
    u64 events = 0;
    for (u32 cpu = 0; cpu < lanes.cpus(); ++cpu)
        for (const auto& at : sub_buffers(lanes.lane(cpu), lanes.shape)) events += decode(at).events.size();
    return events;
}

// In a process of its own, as much of it cannot be undone. What went wrong, or nothing; `reached`: the place was.
const char* run(Way way, step::Address at, bool& reached, const Lanes& lanes, const Spill& spill) {
    if (way != Way::no_recorder) cloister::recorder::protect_vfork(__rseq_offset);
    if (way == Way::unregistered && !unregister()) return "cannot unregister";
    if (way == Way::vfork_forbidden && !forbid({SYS_vfork})) return "cannot forbid vfork";
    if (way == Way::rseq_forbidden && !forbid({SYS_rseq})) return "cannot forbid rseq";
    const bool own_memory = way == Way::rseq_forbidden;
    const bool plain = way == Way::no_recorder;  // then nobody may write in a child
    pid_t pid = 0;
    bool child_saw = false;
    errno = 77;
    reached = step::interrupt_at(
        at, 1,
        [&] {
            const int saved = errno;
            if (!plain || getpid() == shared->process) write_as(kHandler);
            // A vfork within the other one.
            const pid_t inner = vforked([&] {
                if (!plain) write_as(kChild);
                return 5;
            });
            if (way != Way::vfork_forbidden && status_of(inner) != 5) shared->nested_wrong = true;
            errno = saved;
        },
        [&] {
            pid = vforked([&] {
                child_saw = true;
                if (!plain) write_as(kChild);
                return 6;
            });
        });
    const int error = errno;
    write_as(kParent);
    if (way == Way::vfork_forbidden) {
        if (pid != -1 || error != EPERM) return "a vfork that failed did not say so";
    } else {
        if (status_of(pid) != 6) return "the child's status is another";
        if (error != 77) return "errno has changed";
        if (child_saw == own_memory) return "the child's memory is not what it should be";
    }
    if (shared->nested_wrong) return "the handler's own vfork went wrong";
    if (way != Way::rseq_forbidden && is_registered() == (way == Way::unregistered))
        return "its registration is another";
    if (rseq_area()->rseq_cs != 0) return "a sequence was left behind";
    // All of them are there. Each child's was spilt, or refused where the child is one of fork.
    u64 spilt = 0, in_lanes = events_in_lanes(lanes);
    for (const auto& content : contents(spill)) {
        if (!content.wrong.empty() || content.holes != 0) return "the spill lane is spoilt";
        spilt += content.events.size();
    }
    if (spilt + in_lanes != shared->done) return "events are lost";
    if (spilt < shared->in_child) return "a child's event is in a lane";
    if (way == Way::registered && in_lanes == 0) return "the parent has no lane any more";
    if ((shared->refused != 0) != own_memory) return "events were refused";
    return nullptr;
}

}  // namespace

int main() {
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    shared =
        static_cast<Shared*>(mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    std::set<step::Address> all, reached;
    for (const auto& code : step::functions({"vfork"}))
        if (code.name == "vfork" || code.name == "cloister_vfork_begin" || code.name == "cloister_vfork_end")
            for (const step::Address at : step::instructions(code)) all.insert(at);
    int failures = 0;
    std::size_t runs = 0;
    const Lanes lanes(kShape, static_cast<u32>(sysconf(_SC_NPROCESSORS_CONF)));
    const Spill spill(kShape);
    for (const Way way : kWays) {
        for (const step::Address at : all) {
            *shared = {};
            for (u32 cpu = 0; cpu < lanes.cpus(); ++cpu) lanes.clear(cpu);
            spill.clear();
            const pid_t child = fork();
            if (child == 0) {
                auto* view = static_cast<View*>(
                    mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
                if (madvise(view, kPage, MADV_WIPEONFORK) != 0) _exit(1);
                *view = lanes.view;
                view->spill = spill.view.spill;
                shared->view = view;
                shared->process = getpid();
                bool was_reached = false;
                const char* wrong = run(way, at, was_reached, lanes, spill);
                if (wrong) std::printf("way %d, interrupted at %#lx: %s\n", static_cast<int>(way), at, wrong);
                std::fflush(stdout);
                _exit((wrong ? 1 : 0) | (was_reached ? 2 : 0));
            }
            const int status = status_of(child);
            ++runs;
            if (status < 0) std::printf("way %d, interrupted at %#lx: it died\n", static_cast<int>(way), at);
            if (status < 0 || status & 1) ++failures;
            if (status > 0 && status & 2) reached.insert(at);
            if (failures > 20) return 1;
        }
    }
    for (const step::Address at : all)
        if (!reached.contains(at)) std::printf("never reached: %#lx\n", at);
    std::printf("%zu instructions, %zu of them reached; %zu runs; %d wrong\n", all.size(), reached.size(), runs,
                failures);
    return failures ? 1 : reached.size() != all.size() || all.size() < 40 ? 2 : 0;
}
