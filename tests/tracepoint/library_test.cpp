// Libraries with tracepoints that come and go, while their events are on; and the environment.
#include <cloister/trace.hpp>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include <dlfcn.h>
#include <gtest/gtest.h>

#include "tracepoint/collect.hpp"

namespace cloister::tests {
namespace {

CLOISTER_EVENT(program, called, (int, number));
__attribute__((noinline)) void call_program(int number) { CLOISTER_TRACE(program, called, number); }

class Library {
public:
    Library() : handle_(dlopen(TRACED_LIBRARY, RTLD_NOW | RTLD_LOCAL)) {}
    Library(const Library&) = delete;
    Library& operator=(const Library&) = delete;
    ~Library() {
        if (handle_) dlclose(handle_);
    }
    template <class Function>
    Function* find(const char* name) {
        return handle_ ? reinterpret_cast<Function*>(dlsym(handle_, name)) : nullptr;
    }
    [[nodiscard]] bool is_loaded() const { return handle_ != nullptr; }

private:
    void* handle_;
};

int classes() {
    int count = 0;
    cloister_trace_classes(
        [](void* data, const cloister_class*) {
            ++*static_cast<int*>(data);
            return 0;
        },
        &count);
    return count;
}

TEST(Library, FollowsTheGlobsThatAreEnabled) {
    const int before = classes();
    Collector collector("plugin:c*", "number > 1");
    for (int i = 0; i < 5; ++i) {
        Library library;
        ASSERT_TRUE(library.is_loaded()) << dlerror();
        EXPECT_EQ(classes(), before + 2);
        auto* const call = library.find<int(int)>("traced_library_call");
        EXPECT_EQ(call(1), 2);
        EXPECT_EQ(call(2), 3);
        EXPECT_EQ(collector.seen.size(), static_cast<std::size_t>(i + 1));
        EXPECT_EQ(collector.seen.back().payload, packed(2, std::string("plugin\0", 7)));
    }
    EXPECT_EQ(classes(), before);
}

TEST(Library, IsOffWhereNothingIsEnabled) {
    Library library;
    const auto* const site = library.find<const cloister_site*()>("traced_library_site")();
    EXPECT_EQ(bytes_of(*site), kNop);
    EXPECT_EQ(library.find<int(int)>("traced_library_call")(1), 2);
}

TEST(Library, StaysOffWhereTheFilterDoesNotFit) {
    Collector collector("plugin:*", "number > 1");
    EXPECT_EQ(collector.error, "");
    Library library;
    ASSERT_TRUE(library.is_loaded());
    library.find<void(int)>("traced_library_other")(5);
    EXPECT_TRUE(collector.seen.empty());
    library.find<int(int)>("traced_library_call")(5);
    EXPECT_EQ(collector.seen.size(), 1U);
    EXPECT_TRUE(trace::enable("program:*"));  // nobody else has to do with it
    EXPECT_TRUE(trace::disable("program:*"));
    EXPECT_NE(trace::load_errors().find("plugin:unnamed_field"), std::string::npos);
}

TEST(Library, ComesAndGoesInAStorm) {
    std::atomic<bool> stop = false;
    std::atomic<std::uint64_t> program_calls = 0;
    static std::atomic<std::uint64_t> shown;
    shown = 0;
    const auto probe = trace::add_probe(
        "p*:called", [](void*, const cloister_event*) { shown.fetch_add(1); }, nullptr);
    ASSERT_TRUE(trace::enable("p*:called"));
    std::thread runner([&] {
        while (!stop) {
            call_program(1);
            program_calls.fetch_add(1);
        }
    });
    constexpr int kLoads = 200, kCalls = 10;
    for (int i = 0; i < kLoads; ++i) {
        Library library;
        ASSERT_TRUE(library.is_loaded()) << dlerror();
        auto* const call = library.find<int(int)>("traced_library_call");
        for (int n = 0; n < kCalls; ++n) ASSERT_EQ(call(n), n + 1);
    }
    stop = true;
    runner.join();
    EXPECT_EQ(shown, program_calls + kLoads * kCalls);
    EXPECT_TRUE(trace::disable("p*:called"));
    EXPECT_TRUE(trace::remove_probe(probe.count));
    EXPECT_TRUE(trace::synchronize());
}

// The environment is read when a program starts, so one is started.
std::string started_with(const std::string& value) {
    setenv("CLOISTER_TRACE", value.c_str(), 1);
    std::FILE* const program = popen(ENVIRONMENT_PROGRAM, "r");
    unsetenv("CLOISTER_TRACE");
    std::string output;
    for (int c = 0; (c = std::fgetc(program)) != EOF;) output += static_cast<char>(c);
    EXPECT_EQ(pclose(program), 0);
    return output;
}

TEST(Environment, TurnsEventsOn) {
    EXPECT_EQ(started_with(""), "0 off ");
    EXPECT_EQ(started_with("nothing:*"), "0 off ");
    EXPECT_EQ(started_with("program:*"), "2 on ");
    EXPECT_EQ(started_with("program:*@6"), "2 on ");
    EXPECT_EQ(started_with("program:*@5"), "0 off ");  // the event is CLOISTER_INFO, 6
    EXPECT_EQ(started_with(" nothing:* ; program:*@6 if number > 4;"), "1 on ");
    EXPECT_EQ(started_with("nothing:* if text == \";\"; program:*"), "2 on ");
}

TEST(Environment, KeepsItsErrors) {
    const std::string error = started_with("program:*@9; nothing:* if (; program:called");
    EXPECT_TRUE(error.starts_with("2 on ")) << error;
    EXPECT_NE(error.find("level 9"), std::string::npos) << error;
    EXPECT_NE(error.find("position 2"), std::string::npos) << error;
    EXPECT_NE(started_with("program:* if nope > 1").find("0 off cloister: the filter does not fit program:called"),
              std::string::npos);
}

}  // namespace
}  // namespace cloister::tests
