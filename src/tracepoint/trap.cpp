#include "tracepoint/trap.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "tracepoint/context.hpp"
#include "tracepoint/kernel_signal.hpp"

namespace cloister::tracepoint {
namespace {

constexpr std::uint64_t kTrapBit = std::uint64_t{1} << (SIGTRAP - 1);  // in the kernel's masks

using Table = std::vector<const cloister_site*>;  // ascending addresses

using Chain = std::vector<struct sigaction>;  // what was there before each of our installations, oldest first

std::atomic<const Table*> table;
std::atomic<const Chain*> chain;
std::atomic<std::uint32_t> in_flight;

// Actions of the chain that this thread is inside of. The next one further back is who comes next.
constinit thread_local std::size_t passed_on __attribute__((tls_model("initial-exec"))) = 0;

const cloister_site* find(const Table* sites, const unsigned char* at) {
    if (!sites) return nullptr;
    const auto found =
        std::lower_bound(sites->begin(), sites->end(), at,
                         [](const cloister_site* site, const unsigned char* a) { return site->nop < a; });
    return found != sites->end() && (*found)->nop == at ? *found : nullptr;
}

// What the kernel does for SIG_DFL, with the registers of the interrupted code: blocked now, it comes when we return.
void die() {
    struct sigaction action {};
    action.sa_handler = SIG_DFL;
    sigaction(SIGTRAP, &action, nullptr);
    syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGTRAP);
}

void pass_on(const struct sigaction& action, int signal, siginfo_t* info, ucontext_t* context) {
    const bool is_handler =
        action.sa_flags & SA_SIGINFO || (action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN);
    if (!is_handler) {
        // A trap that is ignored kills too; one that someone has sent does not.
        if (action.sa_handler == SIG_DFL || info->si_code > 0) die();
        return;
    }
    sigset_t mask = context->uc_sigmask;
    sigorset(&mask, &mask, &action.sa_mask);
    sigdelset(&mask, SIGTRAP);
    pthread_sigmask(SIG_SETMASK, &mask, nullptr);
    if (action.sa_flags & SA_SIGINFO)
        action.sa_sigaction(signal, info, context);
    else
        action.sa_handler(signal);
}

void on_trap(int signal, siginfo_t* info, void* argument) {
    const int saved = errno;
    auto* const context = static_cast<ucontext_t*>(argument);
    greg_t& rip = context->uc_mcontext.gregs[REG_RIP];
    in_flight.fetch_add(1, std::memory_order_seq_cst);
    const cloister_site* const site =
        find(table.load(std::memory_order_acquire), reinterpret_cast<const unsigned char*>(rip) - 1);  // P-d
    if (site) {
        const bool on = __atomic_load_n(&site->event_class->on, __ATOMIC_ACQUIRE);  // P-b
        rip = reinterpret_cast<greg_t>(on ? site->on : site->nop + 5);
    }
    struct sigaction next {};
    if (!site) {
        const Chain& actions = *chain.load(std::memory_order_acquire);
        // The kernel begins anew, even if an earlier handler has left by longjmp. Else one of the chain has called us.
        if (is_restorer(reinterpret_cast<std::uintptr_t>(__builtin_return_address(0)))) passed_on = 0;
        if (passed_on < actions.size()) next = actions[actions.size() - 1 - passed_on];
    }
    in_flight.fetch_sub(1, std::memory_order_seq_cst);
    if (!site) {
        const std::size_t before = passed_on++;
        pass_on(next, signal, info, context);
        passed_on = before;
    }
    errno = saved;
}

// Replaces what handlers read, and frees it when none can be reading it. New ones find the new value; none stays long.
template <class T>
void replace(std::atomic<const T*>& pointer, const T* value) {
    const std::unique_ptr<const T> old(pointer.exchange(value, std::memory_order_seq_cst));  // P-d
    while (old && in_flight.load(std::memory_order_seq_cst) != 0) sched_yield();
}

bool is_ours(const struct sigaction& action) {
    return (action.sa_flags & SA_SIGINFO) && action.sa_sigaction == on_trap;
}

// Whether a thread's status says that it blocks SIGTRAP: "SigBlk:\t0000000000000010". One that has ended does not.
bool blocks_trap(const char* tid) {
    char path[64], text[4096];
    std::snprintf(path, sizeof path, "/proc/self/task/%.20s/status", tid);
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return errno != ENOENT;
    const ssize_t got = read(file, text, sizeof text - 1);
    close(file);
    if (got <= 0) return got < 0 && errno != ESRCH;
    text[got] = 0;
    const char* const at = std::strstr(text, "\nSigBlk:");
    return at && (std::strtoull(at + 8, nullptr, 16) & kTrapBit);
}

}  // namespace

void know_sites(std::vector<const cloister_site*> sites) {
    std::sort(sites.begin(), sites.end(),
              [](const cloister_site* a, const cloister_site* b) { return a->nop < b->nop; });
    replace(table, static_cast<const Table*>(new Table(std::move(sites))));
}

Result<void> take_traps() {
    struct sigaction found {
    }, ours{};
    if (sigaction(SIGTRAP, nullptr, &found) == 0 && is_ours(found)) return {};
    // Before the handler: it must not find a chain that does not hold what it has replaced. One that takes turns with
    // ours is in it once.
    const Chain* const old = chain.load(std::memory_order_relaxed);
    auto* const actions = new Chain(old ? *old : Chain());
    std::erase_if(*actions, [&](const struct sigaction& one) { return one.sa_handler == found.sa_handler; });
    actions->push_back(found);
    replace(chain, static_cast<const Chain*>(actions));
    ours.sa_sigaction = on_trap;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    sigfillset(&ours.sa_mask);
    if (sigaction(SIGTRAP, &ours, nullptr) != 0)
        return fail({.what = "cannot handle SIGTRAP", .needs = "sigaction(2)", .found = std::strerror(errno)});
    return {};
}

void forget_other_handlers() { in_flight.store(0, std::memory_order_relaxed); }

bool traps_are_safe() {
    for (int signal = 1; signal < NSIG; ++signal) {
        // What the kernel has, not what libc or a sanitizer says.
        KernelAction action{};
        if (signal == SIGTRAP || syscall(SYS_rt_sigaction, signal, nullptr, &action, sizeof action.mask) != 0) continue;
        if (action.handler > reinterpret_cast<void*>(SIG_IGN) && (action.mask & kTrapBit)) return false;
    }
    DIR* const tasks = opendir("/proc/self/task");
    if (!tasks) return false;
    bool safe = true;
    while (const dirent* task = readdir(tasks)) safe = safe && (task->d_name[0] == '.' || !blocks_trap(task->d_name));
    closedir(tasks);
    return safe;
}

}  // namespace cloister::tracepoint
