// A recorder whose events are {source, n}, and what is found of them in a trace.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "ctf/metadata_text.hpp"
#include "ctf/trace.hpp"
#include "recorder/extract.hpp"
#include "recorder/recorder.hpp"

namespace cloister::recorder::test {

constexpr std::uint32_t kEvent = 3;

inline std::unique_ptr<Recorder> make_recorder(const core::Shape& shape, const std::string& path = {}) {
    auto made = Recorder::create({.path = path, .channels = {{"flight", shape}}});
    if (!made) {
        ADD_FAILURE() << made.error().text();
        std::exit(1);
    }
    ctf::EventClass event{.name = "test:event", .id = kEvent, .stream_id = 0, .fields = {}};
    event.fields = {ctf::Field::of_integer("source", {64, false, 10}), ctf::Field::of_integer("n", {64, false, 10})};
    EXPECT_TRUE((*made)->declare(0, kEvent, ctf::event_text(event)));
    return std::move(*made);
}

struct Found {
    std::map<std::uint64_t, std::vector<std::uint64_t>> lanes, spilt;  // n by source, in the order of their streams
    std::uint64_t lost = 0;
    [[nodiscard]] std::vector<std::uint64_t> of(std::uint64_t source) const {  // all, sorted
        std::vector<std::uint64_t> out;
        for (const auto* where : {&lanes, &spilt})
            if (const auto at = where->find(source); at != where->end())
                out.insert(out.end(), at->second.begin(), at->second.end());
        std::ranges::sort(out);
        return out;
    }
};

// Both readers have a word: ours for what is in it, babeltrace2 for whether it is a trace. It must find as many events,
// and have nothing to say but that some were discarded.
inline Found read_found(const std::string& directory) {
    Found out;
    std::uint64_t events = 0;
    const auto trace = ctf::Trace::open(directory);
    if (!trace) {
        ADD_FAILURE() << trace.error().text();
        return out;
    }
    for (const auto& stream : trace->streams()) {
        ctf::Cursor cursor(stream);
        std::vector<ctf::Value> values;
        std::uint64_t last = 0;
        for (ctf::Cursor::Step step{}; (step = cursor.next()) != ctf::Cursor::Step::end;) {
            if (step == ctf::Cursor::Step::loss) {
                out.lost += cursor.loss().events;
                continue;
            }
            if (step != ctf::Cursor::Step::event || !cursor.fields(values)) {
                ADD_FAILURE() << cursor.error().text();
                return out;
            }
            EXPECT_GE(cursor.cycles(), last);
            last = cursor.cycles();
            auto& where = cursor.packet().cpu ? out.lanes : out.spilt;
            where[values[values.size() - 2].bits].push_back(values.back().bits);
            ++events;
        }
    }
    FILE* pipe = popen(fmt::format("babeltrace2 {0} 2>{0}.stderr | wc -l", directory).c_str(), "r");
    unsigned long long lines = 0;
    EXPECT_EQ(std::fscanf(pipe, "%llu", &lines), 1);
    EXPECT_EQ(pclose(pipe), 0);
    EXPECT_EQ(lines, events);
    std::ifstream said(directory + ".stderr");
    for (std::string line; std::getline(said, line);)
        EXPECT_TRUE(line.starts_with("WARNING: Tracer") && line.find(" discarded ") != line.npos) << line;
    return out;
}

}  // namespace cloister::recorder::test
