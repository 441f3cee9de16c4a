// The protocol of patching, stepped: in every state of the bytes that it goes through, the site is run by another
// thread, by a signal handler, and by the patcher itself.
#include "tracepoint/patch.hpp"

#include <cloister/trace.hpp>

#include <atomic>
#include <csignal>
#include <functional>
#include <thread>

#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sandbox.hpp"
#include "tracepoint/collect.hpp"
#include "tracepoint/membarrier.hpp"
#include "tracepoint/registry.hpp"
#include "tracepoint/trap.hpp"

namespace cloister::tracepoint {
namespace {

using tests::bytes_of;
using tests::forbid;
using tests::kNop;
using tests::sites_of;

CLOISTER_EVENT(step, ran, (std::uint64_t, number), (std::uint64_t, inverse));
CLOISTER_EVENT(many, ran, (int, number));

constinit thread_local std::uint64_t shown __attribute__((tls_model("initial-exec"))) = 0;
std::atomic<std::uint64_t> torn;

void probe(void*, const cloister_event* event) {
    std::uint64_t fields[2] = {1, 1};
    if (event->size == sizeof fields) std::memcpy(fields, event->payload, sizeof fields);
    if (fields[0] != ~fields[1]) torn.fetch_add(1);
    shown = shown + 1;
}

// Whether the event was shown. What is around the site is checked as well: registers survive either way through it.
__attribute__((noinline)) bool run_site(std::uint64_t number) {
    const std::uint64_t before = shown;
    std::uint64_t sum = number * 3;
    CLOISTER_TRACE(step, ran, number, ~number);
    sum += number;
    if (sum != number * 4) torn.fetch_add(1);
    return shown != before;
}

volatile std::sig_atomic_t shown_in_handler;
void run_in_handler(int) { shown_in_handler = run_site(11); }

enum class Behaviour { off, on, mixed };

// By whatever runs the site.
Behaviour behaviour() {
    bool here = run_site(1), in_thread = false;
    std::thread([&] { in_thread = run_site(2); }).join();
    shown_in_handler = 2;
    std::raise(SIGUSR1);
    bool in_threads_handler = false;
    std::thread([&] {
        std::raise(SIGUSR1);
        in_threads_handler = shown_in_handler;
    }).join();
    const bool all = here && in_thread && shown_in_handler && in_threads_handler;
    const bool none = !here && !in_thread && !shown_in_handler && !in_threads_handler;
    return all ? Behaviour::on : none ? Behaviour::off : Behaviour::mixed;
}

class Patch : public testing::Test {
protected:
    void SetUp() override {
        struct sigaction action {};
        action.sa_handler = run_in_handler;
        sigaction(SIGUSR1, &action, nullptr);
        const auto added = trace::add_probe("step:*", probe, nullptr);
        ASSERT_TRUE(added);
        probe_ = added.count;
        torn = 0;
    }
    void TearDown() override {
        EXPECT_TRUE(trace::disable("step:*"));
        EXPECT_TRUE(trace::remove_probe(probe_));
        EXPECT_TRUE(trace::synchronize());
        EXPECT_EQ(torn, 0U);
        std::signal(SIGUSR1, SIG_DFL);
    }
    int probe_ = 0;
};

void step(const cloister_site& site, bool on) {
    const std::array changes = {change(site, on)};
    const Behaviour was = on ? Behaviour::off : Behaviour::on, becomes = on ? Behaviour::on : Behaviour::off;
    auto text = Text::open();
    ASSERT_TRUE(text) << text.error().text();
    ASSERT_TRUE(take_traps());
    ASSERT_EQ(behaviour(), was);
    __atomic_store_n(&site.event_class->on, on, __ATOMIC_RELEASE);
    ASSERT_EQ(behaviour(), was);

    ASSERT_TRUE(write_breakpoints(*text, changes));
    ASSERT_EQ(bytes_of(site)[0], 0xcc);
    ASSERT_EQ(behaviour(), becomes);
    ASSERT_TRUE(barrier(Barrier::instruction));
    ASSERT_EQ(behaviour(), becomes);

    // The four bytes may become visible in any order: all 16 states, in the order of a Gray code, one byte at a time.
    const tests::Bytes before = bytes_of(site);
    for (unsigned i = 1; i <= 16; ++i) {
        const unsigned gray = (i % 16) ^ ((i % 16) >> 1);
        for (unsigned byte = 0; byte < 4; ++byte) {
            const unsigned char value = gray >> byte & 1 ? changes[0].bytes[byte + 1] : before[byte + 1];
            ASSERT_TRUE(text->write(site.nop + 1 + byte, std::array{value}));
        }
        ASSERT_EQ(behaviour(), becomes) << gray;
    }
    ASSERT_TRUE(write_tails(*text, changes));
    ASSERT_EQ(behaviour(), becomes);
    ASSERT_TRUE(barrier(Barrier::instruction));

    ASSERT_TRUE(write_first_bytes(*text, changes));
    ASSERT_EQ(bytes_of(site), changes[0].bytes);
    ASSERT_EQ(behaviour(), becomes);
    ASSERT_TRUE(barrier(Barrier::instruction));
    ASSERT_EQ(behaviour(), becomes);
}

TEST_F(Patch, EveryStateOfTheBytesIsWhollyOffOrWhollyOn) {
    const auto sites = sites_of("step", "ran");
    ASSERT_EQ(sites.size(), 1U);
    for (int i = 0; i < 3; ++i) {
        step(*sites[0], true);
        step(*sites[0], false);
    }
    EXPECT_EQ(bytes_of(*sites[0]), kNop);
}

// A batch that fails half-way leaves breakpoint bytes. They behave as the class says, and the next batch clears them.
TEST_F(Patch, ALeftBreakpointBehavesAndIsCleared) {
    const auto& site = *sites_of("step", "ran").at(0);
    auto text = Text::open();
    ASSERT_TRUE(text);
    ASSERT_TRUE(take_traps());
    ASSERT_TRUE(write_breakpoints(*text, std::array{change(site, true)}));
    EXPECT_EQ(behaviour(), Behaviour::off);
    ASSERT_TRUE(trace::enable("step:*"));
    EXPECT_TRUE(is_on(site));
    EXPECT_EQ(behaviour(), Behaviour::on);
}

TEST_F(Patch, RefusesTextThatIsNotItsOwn) {
    const auto& site = *sites_of("step", "ran").at(0);
    auto text = Text::open();
    ASSERT_TRUE(text);
    // Another NOP of five bytes: data16 nopw is what a different patching tool might have put there.
    const tests::Bytes foreign = {0x66, 0x0f, 0x1f, 0x40, 0x00};
    ASSERT_TRUE(text->write(site.nop, foreign));
    const auto refused = trace::enable("step:*");
    EXPECT_FALSE(refused);
    EXPECT_NE(refused.error.find("step:ran"), std::string::npos);
    EXPECT_EQ(bytes_of(site), foreign);
    EXPECT_EQ(site.event_class->on, 0);
    ASSERT_TRUE(text->write(site.nop, kNop));
    EXPECT_TRUE(trace::enable("step:*"));
    EXPECT_EQ(behaviour(), Behaviour::on);
}

TEST_F(Patch, ExchangesPages) {
    const auto& site = *sites_of("step", "ran").at(0);
    for (const bool on : {true, false, true, false}) {
        __atomic_store_n(&site.event_class->on, on, __ATOMIC_RELEASE);
        ASSERT_TRUE(exchange_pages(std::array{change(site, on)}));
        ASSERT_TRUE(barrier(Barrier::instruction));
        EXPECT_EQ(is_on(site), on);
        EXPECT_EQ(behaviour(), on ? Behaviour::on : Behaviour::off);
    }
}

// An instruction that lies in two pages, in memory without a file behind it: run while it is exchanged.
TEST_F(Patch, ExchangesAnInstructionThatCrossesPages) {
    constexpr std::size_t kPage = 4096;
    auto* const code = static_cast<unsigned char*>(
        mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    unsigned char* const at = code + kPage - 2;
    const auto returning = [at](unsigned char low, unsigned char high) {
        return Change{at, {0xb8, low, 0x00, 0x00, high}};  // mov $imm32, %eax
    };
    const std::array changes = {returning(1, 1), returning(2, 2)};
    std::memcpy(at, changes[0].bytes.data(), 5);
    at[5] = 0xc3;  // ret
    ASSERT_EQ(mprotect(code, 2 * kPage, PROT_READ | PROT_EXEC), 0);
    const auto run = reinterpret_cast<std::uint32_t (*)()>(at);
    std::atomic<bool> stop = false;
    std::atomic<std::uint64_t> mixed = 0, runs = 0;
    std::thread runner([&] {
        while (!stop) {
            const std::uint32_t value = run();
            mixed += value != 0x0100'0001 && value != 0x0200'0002;
            ++runs;
        }
    });
    while (runs == 0) std::this_thread::yield();
    for (std::size_t i = 1; i <= 2000; ++i) {
        ASSERT_TRUE(exchange_pages(std::span(changes).subspan(i % 2, 1)));
        ASSERT_TRUE(barrier(Barrier::instruction));
        ASSERT_EQ(run(), i % 2 ? 0x0200'0002U : 0x0100'0001U);
    }
    stop = true;
    runner.join();
    EXPECT_EQ(mixed, 0U);
    munmap(code, 2 * kPage);
}

// A line of /proc/self/maps for the page of an address: permissions and path.
std::string mapping_of(const void* address) {
    std::string found;
    std::FILE* maps = std::fopen("/proc/self/maps", "re");
    char line[512];
    while (std::fgets(line, sizeof line, maps)) {
        std::uintptr_t start = 0, end = 0;
        std::sscanf(line, "%zx-%zx", &start, &end);
        const auto at = reinterpret_cast<std::uintptr_t>(address);
        if (start <= at && at < end) found = line;
    }
    std::fclose(maps);
    return found;
}

TEST_F(Patch, LeavesTextExecutableOnlyAndNamed) {
    const auto& site = *sites_of("step", "ran").at(0);
    const auto is_text = [&] {
        const std::string mapping = mapping_of(site.nop);
        return mapping.find(" r-xp ") != std::string::npos &&
               mapping.find("test_tracepoint_patch") != std::string::npos;
    };
    ASSERT_TRUE(is_text());
    ASSERT_TRUE(trace::enable("step:*"));
    EXPECT_TRUE(is_text());
    __atomic_store_n(&site.event_class->on, 0, __ATOMIC_RELEASE);
    ASSERT_TRUE(exchange_pages(std::array{change(site, false)}));
    EXPECT_TRUE(is_text());
    __atomic_store_n(&site.event_class->on, 1, __ATOMIC_RELEASE);
    ASSERT_TRUE(exchange_pages(std::array{change(site, true)}));
}

Way way_of(const cloister_site& site, bool on) {
    __atomic_store_n(&site.event_class->on, on, __ATOMIC_RELEASE);
    const std::array sites = {&site};
    const auto way = apply(sites);
    EXPECT_TRUE(way) << way.error().text();
    return *way;
}

// A thread that has just been joined may still be on its way out, with all signals blocked: the kernel lists it a
// little longer. So the way comes back soon, not at once.
bool comes_back_to_breakpoints(const cloister_site& site) {
    for (int i = 0; i < 20'000; ++i) {
        const bool back = way_of(site, true) == Way::breakpoints;
        if (way_of(site, false) == Way::breakpoints && back) return true;
        usleep(1000);
    }
    return false;
}

// Blocking or unblocking SIGTRAP, for all threads or in a handler, decides the way; none of them is killed.
TEST_F(Patch, GoesAroundThreadsThatBlockSigtrap) {
    const auto& site = *sites_of("step", "ran").at(0);
    EXPECT_TRUE(comes_back_to_breakpoints(site));
    std::atomic<int> phase = 0;
    std::atomic<std::uint64_t> runs = 0;
    std::thread blocker([&] {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, nullptr);
        phase = 1;
        while (phase == 1) {
            run_site(runs);
            ++runs;
        }
    });
    while (phase == 0) std::this_thread::yield();
    for (int i = 0; i < 500; ++i) {
        ASSERT_EQ(way_of(site, i % 2 == 0), Way::pages);
        ASSERT_EQ(run_site(1), i % 2 == 0);
    }
    const std::uint64_t seen = runs;
    while (runs == seen) std::this_thread::yield();  // it lives
    phase = 2;
    blocker.join();
    EXPECT_TRUE(comes_back_to_breakpoints(site));
}

TEST_F(Patch, GoesAroundHandlersThatBlockSigtrap) {
    const auto& site = *sites_of("step", "ran").at(0);
    struct sigaction action {
    }, old{};
    action.sa_handler = run_in_handler;
    sigfillset(&action.sa_mask);
    sigaction(SIGUSR2, &action, &old);
    EXPECT_EQ(way_of(site, true), Way::pages);
    sigaction(SIGUSR2, &old, nullptr);
    EXPECT_TRUE(comes_back_to_breakpoints(site));
}

__attribute__((noinline)) void run_many(int number) {
    CLOISTER_TRACE(many, ran, number);
    CLOISTER_TRACE(many, ran, number + 1);
    CLOISTER_TRACE(many, ran, number + 2);
}

TEST_F(Patch, PatchesManySitesInOneBatch) {
    ASSERT_EQ(sites_of("many", "ran").size(), 3U);
    tests::Collector collector("many:*");
    for (const auto* site : sites_of("many", "ran")) EXPECT_TRUE(is_on(*site));
    run_many(5);
    ASSERT_EQ(collector.seen.size(), 3U);
    EXPECT_EQ(collector.seen[2].payload, tests::packed(7));
}

// The program's own breakpoints reach its own handler, whether it was there before ours or has come later.
volatile std::sig_atomic_t own_traps, first_traps;
struct sigaction before_own;
void own_handler(int, siginfo_t*, void*) { own_traps = own_traps + 1; }
void first_handler(int) { first_traps = first_traps + 1; }
void polite_handler(int signal, siginfo_t* info, void* context) {
    own_traps = own_traps + 1;
    if (before_own.sa_flags & SA_SIGINFO) before_own.sa_sigaction(signal, info, context);
}

int in_child(const std::function<int()>& body) {
    const pid_t pid = fork();
    if (pid == 0) _exit(body());
    int status = 0;
    waitpid(pid, &status, 0);
    return status;
}

TEST_F(Patch, LeavesTheProgramItsOwnTraps) {
    EXPECT_EQ(in_child([] {
                  struct sigaction action {};
                  action.sa_handler = first_handler;
                  sigaction(SIGTRAP, &action, nullptr);
                  if (!trace::enable("step:*") || !run_site(1)) return 1;
                  __asm__ volatile("int3");
                  std::raise(SIGTRAP);
                  if (own_traps != 0) return 2;
                  // It comes later, and hands on to the action before it. The next patch takes the signal back.
                  action.sa_sigaction = polite_handler;
                  action.sa_flags = SA_SIGINFO;
                  sigaction(SIGTRAP, &action, &before_own);
                  if (!trace::disable("step:*") || run_site(1) || !trace::enable("step:*") || !run_site(1)) return 3;
                  const auto first = first_traps;
                  __asm__ volatile("int3");
                  if (own_traps != 1) return 4;
                  return first == 2 && first_traps == 3 ? 0 : 5;
              }),
              0);
    EXPECT_EQ(in_child([] {
                  struct sigaction action {};
                  action.sa_sigaction = own_handler;
                  action.sa_flags = SA_SIGINFO;
                  sigaction(SIGTRAP, &action, nullptr);
                  if (!trace::enable("step:*")) return 1;
                  for (int i = 0; i < 3; ++i) __asm__ volatile("int3");
                  return own_traps == 3 ? 0 : 2;
              }),
              0);
}

TEST_F(Patch, LetsATrapThatIsNobodysKill) {
    const int by_int3 = in_child([] {
        std::signal(SIGTRAP, SIG_DFL);
        if (!trace::enable("step:*")) return 1;
        __asm__ volatile("int3");
        return 2;
    });
    EXPECT_TRUE(WIFSIGNALED(by_int3) && WTERMSIG(by_int3) == SIGTRAP) << by_int3;
    const int ignored = in_child([] {
        std::signal(SIGTRAP, SIG_IGN);
        if (!trace::enable("step:*")) return 1;
        kill(getpid(), SIGTRAP);  // ignored, as before
        return run_site(1) ? 0 : 2;
    });
    EXPECT_EQ(ignored, 0);
}

TEST_F(Patch, FindsAnotherWayOrSaysWhatItNeeds) {
    const auto& site = *sites_of("step", "ran").at(0);
    EXPECT_EQ(in_child([&] {
                  forbid({SYS_pwrite64});
                  return way_of(site, true) == Way::pages && run_site(1) ? 0 : 1;
              }),
              0);
    EXPECT_EQ(in_child([&] {
                  forbid({SYS_pwrite64, SYS_mremap});
                  const auto refused = trace::enable("step:*");
                  return !refused && refused.error.find("/proc/self/mem") != std::string::npos && !run_site(1) &&
                                 bytes_of(site) == kNop && site.event_class->on == 0
                             ? 0
                             : 1;
              }),
              0);
    EXPECT_EQ(in_child([&] {
                  forbid({SYS_membarrier});
                  const auto refused = trace::enable("step:*");
                  return !refused && refused.error.find("membarrier") != std::string::npos && !run_site(1) ? 0 : 1;
              }),
              0);
}

// A thread that may not even ask for its own id gets no slot: else two of them would take the same.
TEST_F(Patch, CountsTheEventsOfAThreadThatMayNotAskWhoItIs) {
    ASSERT_TRUE(trace::enable("step:*"));
    const auto before = cloister_trace_losses().no_slot;
    bool was_shown = true;
    std::thread([&] {
        forbid({SYS_gettid});
        was_shown = run_site(1);
    }).join();
    EXPECT_FALSE(was_shown);
    EXPECT_EQ(cloister_trace_losses().no_slot, before + 1);
}

// The child has text of its own; either side goes its own way.
TEST_F(Patch, IsPrivateToTheChildOfAFork) {
    ASSERT_TRUE(trace::enable("step:*"));
    EXPECT_EQ(in_child([] {
                  if (!run_site(1)) return 1;
                  if (!trace::disable("step:*") || run_site(1)) return 2;
                  if (!trace::enable("step:*") || !run_site(1)) return 3;
                  if (!trace::disable("step:*") || run_site(1)) return 4;
                  return trace::synchronize() ? 0 : 5;
              }),
              0);
    EXPECT_TRUE(run_site(1));
    ASSERT_TRUE(trace::disable("step:*"));
    EXPECT_EQ(in_child([] { return !run_site(1) && trace::enable("step:*") && run_site(1) ? 0 : 1; }), 0);
    EXPECT_FALSE(run_site(1));
}

}  // namespace
}  // namespace cloister::tracepoint
