// A directory that is gone at the end of the test.
#pragma once

#include <filesystem>
#include <stdexcept>
#include <string>

#include <stdlib.h>

namespace cloister::tests {

class Scratch {
public:
    explicit Scratch(const std::filesystem::path& parent = std::filesystem::temp_directory_path())
        : path_((parent / "cloister-XXXXXX").string()) {
        if (!mkdtemp(path_.data())) throw std::runtime_error("mkdtemp " + path_);
    }
    // In memory: for segments, which a disk would be slow for.
    [[nodiscard]] static Scratch in_memory() { return Scratch("/dev/shm"); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() {
        std::error_code ignored;  // a child may have mounted something there
        std::filesystem::remove_all(path_, ignored);
    }

    [[nodiscard]] const std::string& path() const { return path_; }
    std::string operator/(const std::string& name) const { return path_ + "/" + name; }

private:
    std::string path_;
};

}  // namespace cloister::tests
