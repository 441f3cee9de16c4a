#include "tracepoint/grace.hpp"

#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <vector>

#include "tracepoint/context.hpp"
#include "tracepoint/membarrier.hpp"
#include "tracepoint/registry.hpp"
#include "tracepoint/threads.hpp"

namespace cloister::tracepoint {
namespace {

constexpr std::uint64_t kPauseNs = 50'000;  // between two looks at a thread that is inside a probe

// Never destroyed: modules take leave after static destructors have run.
std::vector<const void*>& retirees() {
    static auto* const list = new std::vector<const void*>;
    return *list;
}

std::string name_of(pid_t tid) {
    char path[64], name[32] = "?";
    std::snprintf(path, sizeof path, "/proc/self/task/%d/comm", tid);
    if (std::FILE* file = std::fopen(path, "re")) {
        if (std::fscanf(file, "%31[^\n]", name) != 1) name[0] = '?';
        std::fclose(file);
    }
    return name;
}

// Waits for one entry of one thread; false when the time is up.
bool wait_for(const Thread& thread, const Entry& entry, std::uint64_t now, std::uint64_t& left_ns) {
    while (true) {
        const std::uint64_t seen = entry.period.load(std::memory_order_acquire);  // G4
        if (seen == 0 || seen >= now) return true;
        if (is_left(entry) || has_ended(thread)) return true;
        if (left_ns < kPauseNs) return false;
        left_ns -= kPauseNs;
        const timespec pause{0, static_cast<long>(kPauseNs)};
        nanosleep(&pause, nullptr);
    }
}

}  // namespace

std::atomic<std::uint64_t> period{1};

void publish(const void*& pointer, const void* block) {
    const void* old = pointer;
    __atomic_store_n(&pointer, block, __ATOMIC_RELEASE);  // G6
    if (old) retirees().push_back(old);
}

std::size_t retired() { return retirees().size(); }

Result<void> synchronize(std::uint64_t limit_ns) {
    if (current && current->depth.load(std::memory_order_relaxed) != 0) {
        const int here = 0;
        (void)busy(*current, &here);  // drops what was left by longjmp
        if (current->depth.load(std::memory_order_relaxed) != 0)
            return fail({.what = "cannot wait for the end of all probes",
                         .needs = "a caller that is in none",
                         .found = "a call from inside a probe, or from a signal handler that has interrupted one",
                         .set = "remove the probe there, and synchronize elsewhere"});
    }
    std::vector<const void*> old;
    {
        const std::lock_guard lock(writers());
        old.swap(retirees());
    }
    const auto keep = [&old] {
        const std::lock_guard lock(writers());
        retirees().insert(retirees().end(), old.begin(), old.end());
    };
    if (auto ok = barrier(Barrier::memory); !ok) return keep(), fail(ok.error());  // G3
    const std::uint64_t now = period.fetch_add(1) + 1;
    if (auto ok = barrier(Barrier::memory); !ok) return keep(), fail(ok.error());  // G3
    for (std::uint32_t i = 0; i < threads_used.load(std::memory_order_acquire); ++i) {
        for (const Entry& entry : threads[i].entries) {
            if (wait_for(threads[i], entry, now, limit_ns)) continue;
            keep();
            const pid_t tid = threads[i].tid.load();
            return fail({.what = "a probe that was removed may still be running",
                         .needs = "every thread to come out of the probe that it is in",
                         .found = "thread " + std::to_string(tid) + " (" + name_of(tid) + ") did not",
                         .set = "call synchronize again, without holding what the probe waits for"});
        }
    }
    for (const void* block : old) std::free(const_cast<void*>(block));
    return {};
}

}  // namespace cloister::tracepoint
