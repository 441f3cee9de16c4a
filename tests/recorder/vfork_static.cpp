// A program without shared libraries that vforks: its vfork is that of the recorder, not the C library's. Exit status 0
// if the event of the child came into the spill lane, and that of the parent into a lane.
#include <sys/rseq.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "../core/spill.hpp"
#include "recorder/vfork.hpp"

using namespace cloister::core;
using namespace cloister::core::test;

namespace {

constexpr Shape kShape{.slots = 2, .size = 4096, .mode = Mode::overwrite};

template <class Body>
[[gnu::noinline]] pid_t vforked(const Body& body) {
    const pid_t pid = vfork();
    if (pid == 0) _exit(body());
    return pid;
}

}  // namespace

int main() {
    const Lanes lanes(kShape, static_cast<u32>(sysconf(_SC_NPROCESSORS_CONF)));
    const Spill spill(kShape);
    View view = lanes.view;
    view.spill = spill.view.spill;
    cloister::recorder::protect_vfork(__rseq_offset);
    const pid_t pid = vforked([&] { return write_pair(view, kPair, 1, 1) == Wrote::done ? 0 : 1; });
    int status = -1;
    if (waitpid(pid, &status, 0) != pid || status != 0) return 1;
    if (write_pair(view, kPair, 1, 2) != Wrote::done) return 2;
    const auto spilt = contents(spill);
    if (spilt.size() != 1 || spilt[0].events.size() != 1 || spilt[0].events[0].counter != 1) return 3;
    std::size_t in_lanes = 0;
    for (u32 cpu = 0; cpu < lanes.cpus(); ++cpu)
        for (const auto& at : sub_buffers(lanes.lane(cpu), kShape)) in_lanes += decode(at).events.size();
    return in_lanes == 1 ? 0 : 4;
}
