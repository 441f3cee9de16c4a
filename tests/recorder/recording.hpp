// A test that records, and what babeltrace2 or `cloister view` make of its traces.
#pragma once

#include <gtest/gtest.h>

#include <cloister/record.hpp>
#include <cloister/trace.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

namespace cloister::tests {

// The lines that a command prints, stderr included; it must end with status 0.
inline std::vector<std::string> lines_of(const std::string& command) {
    FILE* pipe = popen((command + " 2>&1").c_str(), "r");
    std::vector<std::string> out;
    char* line = nullptr;
    std::size_t room = 0;
    while (getline(&line, &room, pipe) > 0) out.emplace_back(line);
    std::free(line);
    EXPECT_EQ(pclose(pipe), 0) << command << ": " << (out.empty() ? "" : out.back());
    return out;
}

inline std::size_t count_of(const std::vector<std::string>& lines, const std::string& text) {
    std::size_t count = 0;
    for (const auto& line : lines) count += line.find(text) != std::string::npos;
    return count;
}

class Recording : public testing::Test {
protected:
    void SetUp() override {
        std::string text = "/tmp/cloister-tracing-XXXXXX";
        folder_ = mkdtemp(text.data());
    }
    void TearDown() override {
        EXPECT_TRUE(trace::disable("*"));
        record::stop();
        std::filesystem::remove_all(folder_);
    }
    std::string snapshot(const std::vector<std::string>& channels = {}) {
        std::string trace = folder_ + "/trace" + std::to_string(count_++);
        const auto done = record::snapshot(trace, channels);
        EXPECT_TRUE(done) << done.error;
        return trace;
    }
    // A trace as babeltrace2 prints it; it must have nothing to complain about.
    static std::vector<std::string> lines(const std::string& trace) {
        return lines_of("babeltrace2 --no-delta " + trace);
    }
    std::vector<std::string> lines() { return lines(snapshot()); }

    std::string folder_;
    int count_ = 0;
};

}  // namespace cloister::tests
