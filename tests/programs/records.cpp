// Records into a segment: records [PATH [SLOWLY]]. Says "recorded" when 5000 events are in it, and waits for its end.
// SLOWLY: into a channel that discards, one event each 20 us and more, that many; then it ends.
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>

#include "ctf/metadata_text.hpp"
#include "recorder/recorder.hpp"

using namespace cloister;

int main(int argc, char** argv) {
    const std::uint64_t slowly = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0;
    auto recorder =
        recorder::Recorder::create({.path = argc > 1 ? argv[1] : "",
                                    .channels = {{"flight",
                                                  {.slots = slowly ? 64U : 8U,
                                                   .size = 16384,
                                                   .mode = slowly ? core::Mode::discard : core::Mode::overwrite}}}});
    ctf::EventClass event{.name = "records:n", .id = 1, .stream_id = 0, .fields = {}};
    event.fields = {ctf::Field::of_integer("n", {64, false, 10})};
    if (!recorder || !(*recorder)->declare(0, event.id, ctf::event_text(event))) return 1;
    if (slowly) {
        std::puts("recorded");
        std::fflush(stdout);
    }
    for (std::uint64_t n = 1; n <= (slowly ? slowly : 5000); ++n) {
        if ((*recorder)->write(0, event.id, &n, sizeof n) != core::Wrote::done) return 2;
        if (slowly) usleep(20);
    }
    if (slowly) return 0;
    std::puts("recorded");
    std::fflush(stdout);
    pause();
}
