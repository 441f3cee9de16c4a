// A folder that stands for "/": tests write into it the files of /proc and /sys that they want to be read.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>

#include "../scratch.hpp"

namespace cloister::tests {

class FakeRoot {
public:
    FakeRoot& file(const std::string& name, const std::string& text) {
        const auto path = std::filesystem::path(folder_.path() + name);
        std::filesystem::create_directories(path.parent_path());
        std::ofstream(path) << text;
        return *this;
    }
    [[nodiscard]] const std::string& path() const { return folder_.path(); }

private:
    Scratch folder_;
};

}  // namespace cloister::tests
