// The recursion word: every way in which an event can happen inside a probe, and who is shown it.
#include "tracepoint/context.hpp"

#include <cloister/trace.hpp>

#include <algorithm>
#include <csetjmp>
#include <csignal>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/time.h>

namespace cloister::tracepoint {
namespace {

CLOISTER_EVENT(context, event, (int, number));

__attribute__((noinline)) void happen(int number) { CLOISTER_TRACE(context, event, number); }

// What a probe of tracer 0 does when it is shown an event of that number, and what it and tracer 1 have been shown.
using Action = void (*)();
Action actions[64];
volatile int seen[2][64];
int next_signal;

void probe(void* data, const cloister_event* event) {
    int number = 0;
    std::memcpy(&number, event->payload, sizeof number);
    const auto tracer = reinterpret_cast<std::intptr_t>(data);
    seen[tracer][number] = seen[tracer][number] + 1;
    if (tracer == 0 && actions[number]) actions[number]();
}

// An alternate stack, as small as they may be in practice.
class AlternateStack {
public:
    AlternateStack() {
        stack_t stack{};
        stack.ss_sp = room_;
        stack.ss_size = sizeof room_;
        sigaltstack(&stack, &old_);
    }
    ~AlternateStack() { sigaltstack(&old_, nullptr); }

private:
    alignas(16) char room_[64 << 10];
    stack_t old_{};
};

char* page;  // touching it faults
void touch() { *const_cast<volatile char*>(page) = 1; }

sigjmp_buf jump;
bool jumps;
int in_fault;
void on_fault(int, siginfo_t*, void*) {
    happen(in_fault);
    if (jumps) siglongjmp(jump, 1);
    mprotect(page, 4096, PROT_READ | PROT_WRITE);
}
void rearm() { mprotect(page, 4096, PROT_NONE); }

int in_alarm;
void on_alarm_with_info(int, siginfo_t*, void*) { happen(in_alarm); }
void on_alarm(int) { happen(in_alarm); }

class Context : public testing::TestWithParam<bool> {  // whether handlers run on an alternate stack
protected:
    void SetUp() override {
        page = static_cast<char*>(mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        std::fill(std::begin(actions), std::end(actions), nullptr);
        for (auto& of_tracer : seen) std::fill(std::begin(of_tracer), std::end(of_tracer), 0);
        jumps = false;
        handle(SIGSEGV, on_fault, SA_SIGINFO);
        for (std::intptr_t tracer : {0, 1})
            probes_[tracer] =
                trace::add_probe("context:*", probe, reinterpret_cast<void*>(tracer), static_cast<int>(tracer)).count;
        ASSERT_TRUE(trace::enable("context:*"));
        before_ = cloister_trace_losses();
    }
    void TearDown() override {
        EXPECT_TRUE(!current || current->depth == 0);
        EXPECT_TRUE(trace::disable("context:*"));
        for (const int id : probes_) EXPECT_TRUE(trace::remove_probe(id));
        EXPECT_TRUE(trace::synchronize());
        for (const int signal : {SIGSEGV, SIGALRM}) std::signal(signal, SIG_DFL);
        munmap(page, 4096);
    }
    template <class Handler>
    void handle(int signal, Handler handler, int flags, bool blocks_all = false) {
        struct sigaction action {};
        if constexpr (std::is_same_v<Handler, void (*)(int)>)
            action.sa_handler = handler;
        else
            action.sa_sigaction = handler;
        action.sa_flags = flags | (GetParam() ? SA_ONSTACK : 0);
        if (blocks_all) sigfillset(&action.sa_mask);
        sigdelset(&action.sa_mask, SIGTRAP);
        sigaction(signal, &action, nullptr);
    }
    [[nodiscard]] std::uint64_t recursions() const { return cloister_trace_losses().recursions - before_.recursions; }

    AlternateStack stack_;
    int probes_[2] = {};
    cloister_losses before_{};
};

INSTANTIATE_TEST_SUITE_P(Stacks, Context, testing::Bool(),
                         [](const auto& one) { return one.param ? "Alternate" : "Same"; });

TEST_P(Context, ACallIsBrokenOff) {  // R1, R5
    actions[1] = [] { happen(2); };
    happen(1);
    EXPECT_EQ(seen[0][1], 1);
    EXPECT_EQ(seen[0][2], 0);
    EXPECT_EQ(seen[1][2], 1);
    EXPECT_EQ(recursions(), 1U);
    happen(2);
    EXPECT_EQ(seen[0][2], 1);
}

TEST_P(Context, AFaultIsBrokenOff) {  // R2, R5
    actions[1] = touch;
    in_fault = 2;
    happen(1);
    EXPECT_EQ(seen[0][1], 1);
    EXPECT_EQ(seen[0][2], 0);
    EXPECT_EQ(seen[1][2], 1);
    EXPECT_EQ(recursions(), 1U);
}

TEST_P(Context, AFaultOutsideOfProbesIsShown) {
    in_fault = 2;
    touch();
    EXPECT_EQ(seen[0][2], 1);
    EXPECT_EQ(recursions(), 0U);
}

TEST_P(Context, AnAsynchronousSignalIsShown) {  // R3
    actions[1] = [] { std::raise(SIGALRM); };
    in_alarm = 2;
    handle(SIGALRM, on_alarm_with_info, SA_SIGINFO);
    happen(1);
    EXPECT_EQ(seen[0][2], 1);
    handle(SIGALRM, on_alarm, 0);
    happen(1);
    EXPECT_EQ(seen[0][2], 2);
    handle(SIGALRM, on_alarm_with_info, SA_SIGINFO, true);
    happen(1);
    EXPECT_EQ(seen[0][2], 3);
    handle(SIGALRM, on_alarm_with_info, SA_SIGINFO | SA_NODEFER);
    happen(1);
    EXPECT_EQ(seen[0][2], 4);
    EXPECT_EQ(seen[1][2], 4);
    EXPECT_EQ(recursions(), 0U);
}

TEST_P(Context, ATimerIsShown) {  // R3: SI_KERNEL, as a fault can have it
    actions[1] = [] {
        const itimerval soon{{0, 0}, {0, 1000}};
        setitimer(ITIMER_REAL, &soon, nullptr);
        while (seen[1][2] == 0) {
        }
    };
    in_alarm = 2;
    handle(SIGALRM, on_alarm_with_info, SA_SIGINFO);
    happen(1);
    EXPECT_EQ(seen[0][2], 1);
    EXPECT_EQ(recursions(), 0U);
}

// The kernel does not say which signal it was: taken for a fault.
TEST_P(Context, AHandlerThatCannotBeToldIsBrokenOff) {
    actions[1] = [] { std::raise(SIGALRM); };
    in_alarm = 2;
    handle(SIGALRM, on_alarm, 0, true);
    happen(1);
    EXPECT_EQ(seen[0][2], 0);
    EXPECT_EQ(seen[1][2], 1);
    EXPECT_EQ(recursions(), 1U);
}

TEST_P(Context, AFaultThatSomeoneSendsIsShown) {  // R3: SIGSEGV with si_code SI_TKILL
    actions[1] = [] { std::raise(SIGSEGV); };
    in_fault = 2;
    happen(1);
    EXPECT_EQ(seen[0][2], 1);
    EXPECT_EQ(recursions(), 0U);
}

TEST_P(Context, InsideAnAsynchronousHandlerTheSameRulesHold) {  // R4
    actions[1] = [] { std::raise(SIGALRM); };
    actions[2] = [] {
        happen(3);  // R1
        touch();    // R2
    };
    in_alarm = 2;
    in_fault = 4;
    handle(SIGALRM, on_alarm_with_info, SA_SIGINFO);
    happen(1);
    EXPECT_EQ(seen[0][2], 1);
    EXPECT_EQ(seen[0][3], 0);
    EXPECT_EQ(seen[1][3], 1);
    EXPECT_EQ(seen[0][4], 0);
    EXPECT_EQ(seen[1][4], 1);
    EXPECT_EQ(recursions(), 2U);
}

// The fault is that of the asynchronous handler, which no tracer is running in, though one is running below it.
TEST_P(Context, AFaultSharesWithTheAsynchronousHandlerThatItInterrupts) {
    actions[1] = [] { std::raise(SIGALRM); };
    in_fault = 2;
    handle(
        SIGALRM, +[](int, siginfo_t*, void*) { touch(); }, SA_SIGINFO);
    happen(1);
    EXPECT_EQ(seen[0][2], 1);
    EXPECT_EQ(recursions(), 0U);
}

// Left by longjmp, at the same depth of the stack, further out, and further in.
__attribute__((noinline)) void happen_deep(int number) {
    char room[2000];
    std::memset(room, number, sizeof room);
    __asm__ volatile("" : : "r"(room) : "memory");
    happen(number);
    __asm__ volatile("" : : "r"(room) : "memory");
}

TEST_P(Context, AProbeMayBeLeftByLongjmp) {
    for (int round = 0; round < 20; ++round) {
        rearm();
        actions[1] = touch;
        in_fault = 2;
        jumps = true;
        if (sigsetjmp(jump, 1) == 0) {
            round % 2 ? happen_deep(1) : happen(1);
            FAIL();
        }
        jumps = false;
        actions[1] = nullptr;
        const int before = seen[0][3];
        round % 3 ? happen_deep(3) : happen(3);
        EXPECT_EQ(seen[0][3], before + 1) << round;
        EXPECT_EQ(current->depth, 0U);
    }
    EXPECT_TRUE(trace::synchronize());
}

void go_deeper() { std::raise(next_signal++); }

TEST_P(Context, TooDeepIsCounted) {
    next_signal = SIGRTMIN + 1;
    actions[1] = go_deeper;
    in_alarm = 1;
    for (int i = 0; i < 10; ++i) handle(SIGRTMIN + 1 + i, on_alarm_with_info, SA_SIGINFO);
    happen(1);
    for (int i = 0; i < 10; ++i) std::signal(SIGRTMIN + 1 + i, SIG_DFL);
    EXPECT_EQ(seen[0][1], static_cast<int>(kDepth));
    EXPECT_EQ(cloister_trace_losses().too_deep - before_.too_deep, 1U);
}

TEST_P(Context, ErrnoIsKept) {
    actions[1] = [] { errno = 77; };
    errno = 5;
    happen(1);
    EXPECT_EQ(errno, 5);
}

}  // namespace
}  // namespace cloister::tracepoint
