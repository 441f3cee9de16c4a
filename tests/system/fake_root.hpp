// A folder that stands for "/": tests write into it the files of /proc and /sys that they want to be read.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace cloister::tests {

class FakeRoot {
public:
    FakeRoot() {
        std::string name = (std::filesystem::temp_directory_path() / "cloister-root-XXXXXX").string();
        path_ = mkdtemp(name.data());
    }
    ~FakeRoot() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    FakeRoot(const FakeRoot&) = delete;
    FakeRoot& operator=(const FakeRoot&) = delete;

    FakeRoot& file(const std::string& name, const std::string& text) {
        const auto path = std::filesystem::path(path_ + name);
        std::filesystem::create_directories(path.parent_path());
        std::ofstream(path) << text;
        return *this;
    }
    [[nodiscard]] const std::string& path() const { return path_; }

private:
    std::string path_;
};

}  // namespace cloister::tests
