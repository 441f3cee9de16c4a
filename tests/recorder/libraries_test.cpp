// Libraries with tracepoints that come and go while a recording runs: each event is decoded with its own class.
#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cloister/trace.hpp>
#include <csignal>
#include <set>
#include <thread>

#include "recorder/extract.hpp"
#include "recorder/recording.hpp"

namespace {

using cloister::recorder::Drain;
using cloister::recorder::Segment;
using cloister::tests::count_of;
using cloister::tests::lines_of;
using cloister::tests::Recording;
namespace record = cloister::record;

CLOISTER_EVENT(program, working, (std::uint64_t, n));
CLOISTER_EVENT(program, handled, (std::uint64_t, n));

struct Plugin {
    const char* path;
    const char* shown;  // by babeltrace2, with the number behind
    const char* viewed;
};
constexpr std::array kPlugins{
    Plugin{RECORD_PLUGINS "/record_plugin_a.so", "], a = ", "plugin:called  a="},
    Plugin{RECORD_PLUGINS "/record_plugin_b.so", "{ text = \"of b\", b = ", "plugin:called  text=\"of b\" b="},
    Plugin{RECORD_PLUGINS "/record_plugin_c.so", "{ one = 1, two = -2, c = ", "plugin:called  one=1 two=-2 c="}};

using Call = void (*)(std::uint64_t);
std::atomic<Call> call_in_handler;
std::atomic<std::uint64_t> number_in_handler;

class Libraries : public Recording {
protected:
    // Loads it, calls it `times` times with the numbers from `n` on, one of them in a signal handler, and unloads it.
    // Where it lay.
    static void* use(const Plugin& plugin, std::uint64_t n, std::uint64_t times) {
        void* const library = dlopen(plugin.path, RTLD_NOW | RTLD_LOCAL);
        EXPECT_TRUE(library) << dlerror();
        const auto call = reinterpret_cast<Call>(dlsym(library, "plugin_call"));
        for (std::uint64_t i = 1; i < times; ++i) call(n + i);
        call_in_handler = call;
        number_in_handler = n;
        raise(SIGUSR1);
        dlclose(library);
        EXPECT_FALSE(dlopen(plugin.path, RTLD_NOW | RTLD_NOLOAD)) << "it is gone";
        return reinterpret_cast<void*>(call);
    }
    // Each number of a plugin once, and all of its events with its fields.
    static void expect_all(const std::vector<std::string>& lines, const char* Plugin::*shown, std::uint64_t each,
                           const std::array<std::uint64_t, 3>& used) {
        for (std::size_t p = 0; p < kPlugins.size(); ++p) {
            std::multiset<std::uint64_t> numbers;
            for (const auto& line : lines)
                if (const auto at = line.find(kPlugins[p].*shown); at != std::string::npos)
                    numbers.insert(std::stoull(line.substr(at + std::string(kPlugins[p].*shown).size())));
            ASSERT_EQ(numbers.size(), used[p] * each) << kPlugins[p].path;
            for (std::uint64_t n = 0; n < used[p] * each; ++n) ASSERT_EQ(numbers.count(n), 1U) << kPlugins[p].path;
        }
    }
};

TEST_F(Libraries, ComeAndGoWhileEventsFireAndADrainRuns) {
    const std::string path = folder_ + "/segment", trace = folder_ + "/drained";
    // Room for all, so that nothing depends on how fast the drain is.
    ASSERT_TRUE(record::start({.path = path, .sub_buffers = 128, .sub_buffer_bytes = 64 << 10, .discard = true}));
    ASSERT_TRUE(cloister::trace::enable("p*:*"));
    auto* const before = std::signal(SIGUSR1, [](int) { call_in_handler.load()(number_in_handler); });

    auto drain = Drain::begin(*Segment::open(path, Segment::Access::drain), trace);
    ASSERT_TRUE(drain) << drain.error().text();
    std::atomic<bool> stop = false;
    std::thread drains([&] {
        while (!stop) {
            EXPECT_TRUE(drain->run());
            std::this_thread::yield();
        }
    });
    constexpr std::uint64_t kWork = 50'000;
    std::vector<std::thread> workers;
    for (int t = 0; t < 2; ++t)
        workers.emplace_back([] {
            for (std::uint64_t n = 0; n < kWork; ++n) CLOISTER_TRACE(program, working, n);
        });
    constexpr std::uint64_t kRounds = 120, kEach = 5;
    std::set<void*> places;
    std::array<std::uint64_t, 3> used{};
    for (std::uint64_t round = 0; round < kRounds; ++round) {
        const std::size_t p = round % kPlugins.size();
        places.insert(use(kPlugins[p], used[p]++ * kEach, kEach));
    }
    EXPECT_LT(places.size(), kRounds) << "classes have been where others were before";
    for (auto& worker : workers) worker.join();
    stop = true;
    drains.join();
    ASSERT_TRUE(drain->finish());
    std::signal(SIGUSR1, before);
    EXPECT_EQ(record::losses().unknown + record::losses().refused + record::losses().dropped, 0U);

    const auto shown = lines(trace);
    EXPECT_EQ(count_of(shown, "program:working"), 2 * kWork);
    expect_all(shown, &Plugin::shown, kEach, used);
    const auto viewed = lines_of(CLOISTER_PROGRAM " view " + trace);
    EXPECT_EQ(count_of(viewed, "program:working"), 2 * kWork);
    expect_all(viewed, &Plugin::viewed, kEach, used);
    EXPECT_EQ(count_of(viewed, "  at plugin_call plugin.cpp:"), used[0] * kEach) << "wherever it was loaded";
    EXPECT_EQ(count_of(lines_of("cat " + trace + "/metadata"), "plugin:called"), 3U) << "not one for each time";
}

TEST_F(Libraries, FromSeveralThreadsAtOnce) {
    ASSERT_TRUE(record::start({.sub_buffers = 64}));
    ASSERT_TRUE(cloister::trace::enable("plugin:*"));
    constexpr std::uint64_t kRounds = 40;
    std::vector<std::thread> threads;
    std::array<std::uint64_t, 3> used{};
    for (std::size_t p = 0; p < kPlugins.size(); ++p)
        threads.emplace_back([&, p] {
            for (; used[p] < kRounds; ++used[p]) {
                void* const library = dlopen(kPlugins[p].path, RTLD_NOW | RTLD_LOCAL);
                ASSERT_TRUE(library) << dlerror();
                reinterpret_cast<Call>(dlsym(library, "plugin_call"))(used[p]);
                dlclose(library);
            }
        });
    for (auto& thread : threads) thread.join();
    expect_all(lines(), &Plugin::shown, 1, used);
}

TEST_F(Libraries, AClassThatCannotBeDeclaredIsCountedAndExplained) {
    // The filter fits no class of the program, as there is none in this channel; it does not fit the library's.
    ASSERT_TRUE(record::start(
        {.channels = {{.name = "all"}, {.name = "some", .events = {{.glob = "plugin:*", .filter = "b > 1"}}}}}));
    ASSERT_TRUE(cloister::trace::enable("plugin:*"));
    auto* const before = std::signal(SIGUSR1, [](int) { call_in_handler.load()(number_in_handler); });
    use(kPlugins[1], 0, 3);
    EXPECT_EQ(record::losses().unknown, 0U);
    use(kPlugins[2], 0, 3);
    std::signal(SIGUSR1, before);
    EXPECT_EQ(record::losses().unknown, 3U);
    EXPECT_THAT(cloister::trace::load_errors(), testing::HasSubstr("the filter does not fit plugin:called"));
    EXPECT_EQ(count_of(lines(), "plugin:called"), 3U + 1U);
}

}  // namespace
