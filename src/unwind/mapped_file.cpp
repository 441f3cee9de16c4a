#include "unwind/mapped_file.hpp"

#include <cstring>
#include <string_view>

#include <elf.h>
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

namespace cloister::unwind {
namespace {

constexpr std::string_view kDeleted = " (deleted)";

FileIdentity identity_of(const struct stat& status) {
    return {status.st_dev, status.st_ino, static_cast<std::uint64_t>(status.st_size),
            status.st_mtim.tv_sec * 1'000'000'000 + status.st_mtim.tv_nsec};
}

}  // namespace

FileHandle& FileHandle::operator=(FileHandle&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
}

FileHandle::~FileHandle() {
    if (fd_ >= 0) ::close(fd_);
}

FileHandle open_regular(const std::string& path, FileIdentity& identity) {
    struct stat status {};
    // Looked at before it is opened: opening a device or a pipe can have effects.
    if (::stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return {};
    FileHandle handle(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (!handle || ::fstat(handle.get(), &status) != 0 || !S_ISREG(status.st_mode)) return {};
    identity = identity_of(status);
    return handle;
}

FileHandle MappedFile::open() const {
    if (handle_) return FileHandle(::fcntl(handle_.get(), F_DUPFD_CLOEXEC, 0));
    FileIdentity now;
    FileHandle handle = open_regular(path_, now);
    return handle && now == identity_ ? std::move(handle) : FileHandle();
}

std::shared_ptr<const MappedFile> MappedFile::vdso() {
    static const std::shared_ptr<const MappedFile> file = []() -> std::shared_ptr<const MappedFile> {
        const auto* base = reinterpret_cast<const char*>(::getauxval(AT_SYSINFO_EHDR));
        if (!base) return nullptr;
        Elf64_Ehdr header;
        std::memcpy(&header, base, sizeof header);
        // The section headers come last in it; there is no other record of its size.
        const std::size_t size = header.e_shoff + std::size_t{header.e_shnum} * header.e_shentsize;
        return std::make_shared<MappedFile>(std::vector<char>(base, base + size));
    }();
    return file;
}

bool is_deleted(const std::string& map_path) { return std::string_view(map_path).ends_with(kDeleted); }

std::string module_name(const std::string& map_path) {
    if (map_path.empty() || map_path.starts_with("//")) return {};  // "//anon", as perf calls it
    std::string_view path = map_path;
    if (path.ends_with(kDeleted)) path.remove_suffix(kDeleted.size());
    if (path.starts_with('/')) path.remove_prefix(path.rfind('/') + 1);
    return std::string(path);
}

}  // namespace cloister::unwind
