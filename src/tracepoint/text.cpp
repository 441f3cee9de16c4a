#include "tracepoint/text.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

namespace cloister::tracepoint {
namespace {

constexpr std::uintptr_t kPage = 4096;

// The file that a range of text is mapped from; file -1: from none, or from one that cannot be opened any more.
struct Backing {
    int file = -1;
    off_t offset = 0;
    Backing() = default;
    Backing(const Backing&) = delete;
    Backing& operator=(const Backing&) = delete;
    ~Backing() {
        if (file >= 0) close(file);
    }
};

void find_backing(std::uintptr_t from, std::uintptr_t to, Backing& backing) {
    std::FILE* maps = std::fopen("/proc/self/maps", "re");
    if (!maps) return;
    char* line = nullptr;
    std::size_t room = 0;
    while (getline(&line, &room, maps) > 0) {
        std::uintptr_t start = 0, end = 0;
        std::uint64_t offset = 0, inode = 0;
        unsigned device_major = 0, device_minor = 0;
        int path_at = 0;
        if (std::sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %*s %" SCNx64 " %x:%x %" SCNu64 " %n", &start, &end, &offset,
                        &device_major, &device_minor, &inode, &path_at) < 6 ||
            from < start || to > end)
            continue;
        std::string path = line + path_at;
        if (!path.empty() && path.back() == '\n') path.pop_back();
        backing.file = path.starts_with('/') ? open(path.c_str(), O_RDONLY | O_CLOEXEC) : -1;
        struct stat found {};
        // Not the file of that name by now, but the one that is mapped. (On overlayfs and btrfs the two devices
        // differ.)
        if (backing.file >= 0 && (fstat(backing.file, &found) != 0 || found.st_ino != inode)) {
            close(backing.file);
            backing.file = -1;
        }
        backing.offset = static_cast<off_t>(offset + (from - start));
        break;
    }
    std::free(line);
    std::fclose(maps);
}

Error refused(const char* what, int error) {
    return {.what = std::string("cannot patch tracepoints: ") + what,
            .needs = "to map a changed page of the program's own text as executable",
            .found = std::strerror(error),
            .set =
                "allow mprotect and mremap of text (seccomp; SELinux: execmod), or writing /proc/self/mem, for which "
                "/proc must be mounted and proc_mem.force_override not be \"never\""};
}

// [from, to): whole pages. Copy, change, put in place.
Result<void> exchange_run(std::uintptr_t from, std::uintptr_t to, std::span<const Change> changes) {
    const std::size_t size = to - from;
    Backing backing;
    find_backing(from, to, backing);
    // From the same file at the same offset, so that profilers and debuggers still find in /proc/self/maps whose it is.
    void* const copy = backing.file >= 0
                           ? mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, backing.file, backing.offset)
                           : mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED) return fail(refused("no memory for a page", errno));
    std::memcpy(copy, reinterpret_cast<const void*>(from), size);
    for (const Change& change : changes)
        std::memcpy(static_cast<char*>(copy) + (reinterpret_cast<std::uintptr_t>(change.at) - from),
                    change.bytes.data(), change.bytes.size());
    if (mprotect(copy, size, PROT_READ | PROT_EXEC) != 0 ||
        mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, reinterpret_cast<void*>(from)) == MAP_FAILED) {
        const int error = errno;
        munmap(copy, size);
        return fail(refused("a page cannot be exchanged", error));
    }
    return {};
}

}  // namespace

Result<Text> Text::open() {
    const int file = ::open("/proc/self/mem", O_RDWR | O_CLOEXEC);
    if (file < 0)
        return fail({.what = "cannot open /proc/self/mem",
                     .needs = "/proc, and the right to write to this process's own memory",
                     .found = std::strerror(errno),
                     .set = "mount -t proc proc /proc"});
    return Text(file);
}

Text::~Text() {
    if (file_ >= 0) close(file_);
}

Result<void> Text::write(unsigned char* at, std::span<const unsigned char> bytes) const {
    const auto offset = static_cast<off_t>(reinterpret_cast<std::uintptr_t>(at));
    if (pwrite(file_, bytes.data(), bytes.size(), offset) == static_cast<ssize_t>(bytes.size())) return {};
    return fail({.what = "cannot write text through /proc/self/mem",
                 .needs = "a kernel that lets a process do so (proc_mem.force_override=always or ptrace, Linux 6.12)",
                 .found = std::strerror(errno),
                 .set = "proc_mem.force_override=always on the kernel's command line"});
}

Result<void> exchange_pages(std::span<const Change> changes) {
    for (std::size_t first = 0; first < changes.size();) {
        const auto start_of = [&](std::size_t i) { return reinterpret_cast<std::uintptr_t>(changes[i].at); };
        const std::uintptr_t from = start_of(first) & ~(kPage - 1);
        std::uintptr_t to = from;
        std::size_t last = first;
        // Everything that shares a page with what the run holds already.
        do to = (start_of(last++) + 5 + kPage - 1) & ~(kPage - 1);
        while (last < changes.size() && start_of(last) < to);
        if (auto ok = exchange_run(from, to, changes.subspan(first, last - first)); !ok) return ok;
        first = last;
    }
    return {};
}

}  // namespace cloister::tracepoint
