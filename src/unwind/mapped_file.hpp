// A file that some process has mapped: which one it was, and a descriptor of that one or none.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "unwind/symbols.hpp"

namespace cloister::unwind {

class FileHandle {  // owns a descriptor
public:
    FileHandle() = default;
    explicit FileHandle(int fd) : fd_(fd) {}
    FileHandle(FileHandle&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    FileHandle& operator=(FileHandle&& other) noexcept;
    FileHandle(const FileHandle&) = delete;
    FileHandle& operator=(const FileHandle&) = delete;
    ~FileHandle();
    [[nodiscard]] int get() const { return fd_; }
    [[nodiscard]] explicit operator bool() const { return fd_ >= 0; }

private:
    int fd_ = -1;
};

// A file replaced under the same path is another file.
struct FileIdentity {
    std::uint64_t device = 0, inode = 0, size = 0;
    std::int64_t mtime_ns = 0;
    auto operator<=>(const FileIdentity&) const = default;
};

// Opens regular files only, so that mapped devices are left alone. Empty: not there, not allowed, not a regular file.
[[nodiscard]] FileHandle open_regular(const std::string& path, FileIdentity& identity);

class MappedFile {
public:
    // Keeps `handle` for itself if it is one, else opens the path again when asked.
    MappedFile(std::string path, const FileIdentity& identity, FileHandle handle)
        : path_(std::move(path)), identity_(identity), handle_(std::move(handle)) {}
    // An image in memory.
    explicit MappedFile(std::vector<char> image) : image_(std::move(image)) {}

    // A descriptor of its own; empty when the file is gone or is another one now.
    [[nodiscard]] FileHandle open() const;
    [[nodiscard]] const std::vector<char>& image() const { return image_; }  // empty for files
    [[nodiscard]] bool pinned() const { return bool(handle_); }

    // The kernel's vdso as this process has it; null without one.
    [[nodiscard]] static std::shared_ptr<const MappedFile> vdso();

private:
    std::string path_;
    FileIdentity identity_;
    FileHandle handle_;
    std::vector<char> image_;
};

// "/usr/lib/libfoo.so.1 (deleted)" -> "libfoo.so.1"; "[vdso]" as it is; empty for memory that no file backs.
[[nodiscard]] std::string module_name(const std::string& map_path);
[[nodiscard]] bool is_deleted(const std::string& map_path);

}  // namespace cloister::unwind
