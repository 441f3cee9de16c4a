// Records into a segment: records [PATH]. Says "recorded" when 5000 events are in it, and waits for its end.
#include <unistd.h>

#include <array>
#include <cstdio>

#include "ctf/metadata_text.hpp"
#include "recorder/recorder.hpp"

using namespace cloister;

int main(int argc, char** argv) {
    auto recorder = recorder::Recorder::create(
        {.path = argc > 1 ? argv[1] : "",
         .channels = {{"flight", {.slots = 8, .size = 16384, .mode = core::Mode::overwrite}}}});
    ctf::EventClass event{.name = "records:n", .id = 1, .stream_id = 0, .fields = {}};
    event.fields = {ctf::Field::of_integer("n", {64, false, 10})};
    if (!recorder || !(*recorder)->declare(0, event.id, ctf::event_text(event))) return 1;
    for (std::uint64_t n = 1; n <= 5000; ++n)
        if ((*recorder)->write(0, event.id, &n, sizeof n) != core::Wrote::done) return 2;
    std::puts("recorded");
    std::fflush(stdout);
    pause();
}
