// Call stacks of events: which functions they name, in which contexts, and what becomes of frame pointers that are none.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <cloister/trace.hpp>
#include <csignal>
#include <thread>

#include "recorder/call_stack.hpp"
#include "recorder/recording.hpp"

namespace cloister::tests {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;

CLOISTER_EVENT_WITH(CLOISTER_INFO, CLOISTER_CALL_STACK, stack, plain, (std::uint64_t, n));
CLOISTER_EVENT_WITH(CLOISTER_INFO, CLOISTER_CALL_STACK, stack, empty);
CLOISTER_EVENT_WITH(CLOISTER_INFO, CLOISTER_CALL_STACK, stack, handled, (const char*, where));
CLOISTER_EVENT(stack, without, (std::uint64_t, n));

// Nothing in between: neither inlined nor left out by a tail call.
#define CLOISTER_FUNCTION [[gnu::noipa]] void
#define CLOISTER_END asm volatile("")

CLOISTER_FUNCTION inner(std::uint64_t n) {
    CLOISTER_TRACE(stack, plain, n);
    CLOISTER_END;
}
CLOISTER_FUNCTION outer(std::uint64_t n) {
    inner(n);
    CLOISTER_END;
}
CLOISTER_FUNCTION nothing() {
    CLOISTER_TRACE(stack, empty);
    CLOISTER_END;
}
CLOISTER_FUNCTION in_handler(const char* where) {
    CLOISTER_TRACE(stack, handled, where);
    CLOISTER_END;
}
CLOISTER_FUNCTION on_signal(int) {
    in_handler("handler");
    CLOISTER_END;
}
CLOISTER_FUNCTION interrupted() {
    raise(SIGUSR1);
    CLOISTER_END;
}

class CallStack : public Recording {
protected:
    // Lines of `cloister view`, with names.
    std::vector<std::string> view() { return lines_of(CLOISTER_PROGRAM " view " + snapshot()); }
    void start() {
        ASSERT_TRUE(record::start());
        ASSERT_TRUE(trace::enable("stack:*"));
    }
};

TEST_F(CallStack, NamesTheFunctionsFromTheSiteOutwards) {
    start();
    outer(7);
    nothing();
    CLOISTER_TRACE(stack, without, 8);
    const std::string trace = snapshot();
    const auto raw = lines(trace);
    EXPECT_EQ(count_of(raw, "stack:plain: { cpu_id = "), 1U);
    EXPECT_EQ(count_of(raw, "call_stack = [ [0] = 0x"), 2U);
    EXPECT_GE(count_of(raw, "cloister:module: { cpu_id = "), 3U) << "this program, the C library, the vDSO";
    const auto named = lines_of(CLOISTER_PROGRAM " view --event 'stack:*' " + trace);
    ASSERT_EQ(named.size(), 3U);
    EXPECT_THAT(named[0], ContainsRegex("stack:plain  n=7  at .*inner call_stack_test.cpp:[0-9]+ < .*outer "
                                        "call_stack_test.cpp:[0-9]+ < .*TestBody"));
    EXPECT_THAT(named[1], ContainsRegex("stack:empty  at .*nothing call_stack_test.cpp:[0-9]+ < .*TestBody"));
    EXPECT_THAT(named[2], HasSubstr("n=8\n"));
    const auto json = lines_of(CLOISTER_PROGRAM " view --json --event stack:plain " + trace);
    EXPECT_THAT(json.at(1), ContainsRegex("\"call_stack\":\\[\"0x[0-9a-f]+\",.*\"stack\":\\[\".*inner call_stack"));
}

TEST_F(CallStack, IsProducedOnceForAllChannels) {
    ASSERT_TRUE(record::start({.channels = {{.name = "one"}, {.name = "two"}}}));
    ASSERT_TRUE(trace::enable("stack:*"));
    outer(1);
    EXPECT_EQ(count_of(view(), "outer call_stack_test.cpp"), 2U);
}

TEST_F(CallStack, GoesThroughSignalFramesOnAnyStack) {
    start();
    static std::array<char, 64 << 10> other;
    for (const bool alternate : {false, true}) {
        stack_t stack{};
        stack.ss_sp = other.data();
        stack.ss_size = other.size();
        stack.ss_flags = alternate ? 0 : SS_DISABLE;
        ASSERT_EQ(sigaltstack(&stack, nullptr), 0);
        struct sigaction action {};
        action.sa_handler = on_signal;
        action.sa_flags = SA_ONSTACK;
        sigaction(SIGUSR1, &action, nullptr);
        interrupted();
    }
    stack_t none{};
    none.ss_flags = SS_DISABLE;
    sigaltstack(&none, nullptr);
    std::signal(SIGUSR1, SIG_DFL);
    const auto named = view();
    EXPECT_EQ(count_of(named, "in_handler call_stack_test.cpp"), 2U);
    EXPECT_EQ(count_of(named, "on_signal call_stack_test.cpp"), 2U);
    // The system call of raise(), and whatever of the C library's own functions around it has a frame pointer.
    EXPECT_EQ(count_of(named, " < __restore_rt < __pthread_kill_implementation"), 2U);
    EXPECT_EQ(count_of(named, "TestBody"), 2U);
}

TEST_F(CallStack, OfEveryThread) {
    start();
    constexpr int kThreads = 8;
    for (int i = 0; i < kThreads; ++i) std::thread([] { outer(3); }).join();
    EXPECT_EQ(count_of(view(), "outer call_stack_test.cpp"), kThreads);
}

// What a walk begins with, as a function with a frame pointer has it.
struct Frame {
    const void* caller;
    std::uint64_t return_address;
};

std::size_t walk(const void* frame) {
    std::array<std::uint64_t, recorder::kMostCalls> calls;
    return recorder::call_stack(frame, calls);
}

TEST(BadFramePointers, EndTheWalk) {
    auto* const pages =
        static_cast<char*>(mmap(nullptr, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(pages, MAP_FAILED);
    mprotect(pages + 4096, 4096, PROT_NONE);
    auto* const frames = reinterpret_cast<Frame*>(pages);
    const auto with = [&](const void* caller) {
        frames[0] = {caller, 1};
        return walk(frames);
    };
    frames[1] = {nullptr, 2};
    frames[2] = {&frames[1], 3};
    EXPECT_EQ(with(&frames[1]), 1U);
    EXPECT_EQ(with(&frames[2]), 1U) << "the next one would lie further in";
    EXPECT_EQ(with(&frames[0]), 0U) << "itself";
    EXPECT_EQ(with(nullptr), 0U);
    EXPECT_EQ(with(reinterpret_cast<char*>(&frames[1]) + 1), 0U) << "not aligned";
    EXPECT_EQ(with(pages + 4096), 0U) << "must not be read";
    EXPECT_EQ(with(pages + 4096 - 8), 0U) << "nor the half of it";
    EXPECT_EQ(with(pages + 4096 + 4096 - 16), 0U);
    EXPECT_EQ(with(reinterpret_cast<void*>(~std::uintptr_t{7})), 0U);
    EXPECT_EQ(with(reinterpret_cast<void*>(std::uintptr_t{1} << 63)), 0U) << "not even an address";
    EXPECT_EQ(walk(pages + 4096), 0U);
    EXPECT_EQ(walk(nullptr), 0U);
    // The last words before what must not be read are a frame like any other.
    auto* const last = reinterpret_cast<Frame*>(pages + 4096) - 1;
    *last = {pages + 4096, 4};
    EXPECT_EQ(with(last), 1U);
    // A chain longer than what is kept.
    for (std::size_t i = 0; i < 100; ++i) frames[i] = {&frames[i + 1], 5};
    EXPECT_EQ(walk(frames), recorder::kMostCalls);
    munmap(pages, 3 * 4096);
}

}  // namespace
}  // namespace cloister::tests
