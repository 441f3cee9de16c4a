// Records into a segment PATH, and ends in the middle of it: threads fire events to the last moment, and so does what
// runs after main().
#include <cloister/record.hpp>
#include <cloister/trace.hpp>
#include <cstdio>
#include <cstdlib>
#include <thread>

CLOISTER_EVENT(ends, thread, (std::uint64_t, n));
CLOISTER_EVENT(ends, after_main, (int, n));

namespace {

struct AtTheEnd {
    ~AtTheEnd() { CLOISTER_TRACE(ends, after_main, 2); }
} at_the_end;

}  // namespace

int main(int, char** argv) {
    if (!cloister::record::start({.path = argv[1]}) || !cloister::trace::enable("ends:*")) return 1;
    std::atexit([] { CLOISTER_TRACE(ends, after_main, 1); });
    static std::atomic<bool> begun = false;
    for (int i = 0; i < 2; ++i)
        std::thread([] {
            for (std::uint64_t n = 0;; ++n) {
                CLOISTER_TRACE(ends, thread, n);
                begun = true;
                std::this_thread::yield();
            }
        }).detach();
    while (!begun) std::this_thread::yield();
}
