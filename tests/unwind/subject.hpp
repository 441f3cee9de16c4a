// Where the subject programs are, and what tests say about their stacks.
#pragma once

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "unwind/symbols.hpp"

namespace cloister::unwind::test {

inline std::string subject(const std::string& shape) {
    return shape == "stripped" ? CLOISTER_SUBJECT_STRIPPED : CLOISTER_SUBJECTS + shape;
}

// The number of the line in subject.cc that ends in "// line: NAME"; 0 if there is none.
inline int line_of(const std::string& name) {
    std::ifstream source(CLOISTER_SUBJECT_SOURCE);
    int number = 1;
    for (std::string line; std::getline(source, line); ++number) {
        if (line.ends_with("// line: " + name)) return number;
    }
    return 0;
}

// The functions from the innermost to main.
inline std::vector<std::string> functions(const std::vector<Frame>& frames) {
    std::vector<std::string> names;
    for (const Frame& frame : frames) {
        names.push_back(frame.function);
        if (frame.function == "main") break;
    }
    return names;
}

inline bool any_guessed(const std::vector<Frame>& frames) {
    return std::any_of(frames.begin(), frames.end(), [](const Frame& frame) { return frame.guessed; });
}

// The first frame of that function; a frame without a name if there is none.
inline Frame frame_of(const std::vector<Frame>& frames, const std::string& function) {
    const auto at = std::find_if(frames.begin(), frames.end(), [&](const Frame& f) { return f.function == function; });
    return at == frames.end() ? Frame{} : *at;
}

inline std::string text(const std::vector<Frame>& frames) {
    std::string out;
    for (const Frame& frame : frames) out += (out.empty() ? "" : " < ") + frame.text();
    return out;
}

}  // namespace cloister::unwind::test
