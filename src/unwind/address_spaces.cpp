#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <deque>
#include <fstream>
#include <map>
#include <string>
#include <unordered_map>

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "unwind/mapped_file.hpp"
#include "unwind/symbols.hpp"

namespace cloister::unwind {
namespace {

constexpr std::size_t kMaxMaps = 8192;   // executable mappings of one process
constexpr std::size_t kMaxPins = 128;    // descriptors held
constexpr std::size_t kMaxFiles = 4096;  // files remembered that no process maps any more
constexpr std::size_t kMaxLives = 8;     // earlier images of one pid

using Map = AddressSpaces::Map;
using FilePtr = std::shared_ptr<const MappedFile>;

struct Image {
    std::vector<Map> maps;       // in order of address, none overlap
    std::vector<FilePtr> files;  // one for each
};

struct Life {
    std::uint64_t until_ns;
    std::shared_ptr<Image> image;
};

struct Process {
    std::shared_ptr<Image> image = std::make_shared<Image>();  // shared with its children until one of them changes it
    std::vector<Life> before;
    enum class Root : std::uint8_t { unknown, ours, foreign } root = Root::unknown;
};

bool is_gone(std::uint32_t tgid) { return ::kill(static_cast<pid_t>(tgid), 0) != 0 && errno == ESRCH; }

bool same_link(const std::string& a, const std::string& b) {
    char of_a[256];
    char of_b[256];
    const ssize_t size_a = ::readlink(a.c_str(), of_a, sizeof of_a);
    const ssize_t size_b = ::readlink(b.c_str(), of_b, sizeof of_b);
    // Where nothing may be read, nothing can be said.
    return size_a < 0 || size_b < 0 || std::string_view(of_a, size_a) == std::string_view(of_b, size_b);
}

// Whether the process sees other files under the same paths.
Process::Root root_of(std::uint32_t tgid) {
    const std::string proc = fmt::format("/proc/{}/", tgid);
    if (!same_link(proc + "ns/mnt", "/proc/self/ns/mnt")) return Process::Root::foreign;
    return same_link(proc + "root", "/proc/self/root") ? Process::Root::ours : Process::Root::foreign;
}

// Puts `map` in, cutting what it covers out of the others.
void overlay(Image& image, Map map, FilePtr file) {
    auto& maps = image.maps;
    const auto first = std::partition_point(maps.begin(), maps.end(), [&](const Map& m) { return m.end <= map.start; });
    const auto last = std::partition_point(first, maps.end(), [&](const Map& m) { return m.start < map.end; });
    std::vector<Map> pieces;
    std::vector<FilePtr> files;
    const auto from = first - maps.begin();
    const auto to = last - maps.begin();
    if (first != last && first->start < map.start) {
        pieces.push_back({first->start, map.start, first->offset, first->path});
        files.push_back(image.files[from]);
    }
    const Map* covered = first != last ? &*(last - 1) : nullptr;
    const std::uint64_t end = map.end;
    pieces.push_back(std::move(map));
    files.push_back(std::move(file));
    if (covered && covered->end > end) {
        pieces.push_back({end, covered->end, covered->offset + (end - covered->start), covered->path});
        files.push_back(image.files[to - 1]);
    }
    const auto map_at = maps.erase(first, last);
    maps.insert(map_at, std::make_move_iterator(pieces.begin()), std::make_move_iterator(pieces.end()));
    const auto file_at = image.files.erase(image.files.begin() + from, image.files.begin() + to);
    image.files.insert(file_at, std::make_move_iterator(files.begin()), std::make_move_iterator(files.end()));
}

struct MapsLine {
    Map map;
    bool executable;
};

// "7f..-7f.. r-xp 00001000 fe:01 1234   /usr/lib/..."
std::optional<MapsLine> parse_maps_line(std::string_view line) {
    MapsLine out{};
    const char* const end = line.data() + line.size();
    auto hex = [&](const char* at, std::uint64_t& value, char stop) -> const char* {
        const auto [next, error] = std::from_chars(at, end, value, 16);
        return error == std::errc{} && next != end && *next == stop ? next + 1 : nullptr;
    };
    const char* at = hex(line.data(), out.map.start, '-');
    if (at) at = hex(at, out.map.end, ' ');
    if (!at || end - at < 5) return std::nullopt;
    out.executable = at[2] == 'x';
    at = hex(at + 5, out.map.offset, ' ');
    if (!at) return std::nullopt;
    std::string_view rest(at, static_cast<std::size_t>(end - at));
    for (int field = 0; field < 2; ++field) {  // device, inode
        const std::size_t space = rest.find(' ');
        if (space == std::string_view::npos) return std::nullopt;
        rest.remove_prefix(space + 1);
    }
    rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
    out.map.path = rest;
    return out;
}

}  // namespace

struct AddressSpaces::Impl {
    std::unordered_map<std::uint32_t, Process> processes;
    std::deque<std::uint32_t> order;  // of their first sight
    std::map<FileIdentity, FilePtr> files;
    std::size_t pins = 0;

    Process& process(std::uint32_t tgid) {
        const auto [at, is_new] = processes.try_emplace(tgid);
        if (is_new) {
            order.push_back(tgid);
            forget_some(tgid);
        }
        return at->second;
    }

    void forget_some(std::uint32_t keep) {
        // A few tries each time: the oldest are often the ones that live longest.
        for (int tries = 0; order.size() > kMaxProcesses && tries < 16; ++tries) {
            const std::uint32_t oldest = order.front();
            order.pop_front();
            if (oldest == keep || !is_gone(oldest)) {
                order.push_back(oldest);
            } else {
                processes.erase(oldest);
            }
        }
    }

    static void retire(Process& process, std::uint64_t at_ns) {
        if (at_ns == 0) {
            process.before.clear();
        } else if (!process.image->maps.empty()) {
            if (process.before.size() == kMaxLives) process.before.erase(process.before.begin());
            process.before.push_back({at_ns, process.image});
        }
        process.image = std::make_shared<Image>();
        process.root = Process::Root::unknown;
    }

    FilePtr remember(const std::string& path) {
        FileIdentity identity;
        FileHandle handle = open_regular(path, identity);
        if (!handle) return nullptr;
        if (const auto known = files.find(identity); known != files.end()) return known->second;
        if (files.size() >= kMaxFiles) {
            std::erase_if(files, [&](const auto& entry) {
                const bool unused = entry.second.use_count() == 1;
                if (unused && entry.second->pinned()) --pins;
                return unused;
            });
        }
        if (pins < kMaxPins) {
            ++pins;
        } else {
            handle = {};
        }
        return files.emplace(identity, std::make_shared<MappedFile>(path, identity, std::move(handle))).first->second;
    }

    // The very file that is mapped, where it can still be had: never another one that now has its path.
    FilePtr file_of(std::uint32_t tgid, Process& process, const Map& map) {
        if (map.path == "[vdso]") return map.start > 0xffffffff ? MappedFile::vdso() : nullptr;  // below: a 32-bit one
        if (!map.path.starts_with('/') || map.path.starts_with("//")) return nullptr;
        if (process.root == Process::Root::unknown) process.root = root_of(tgid);
        if (!is_deleted(map.path) && process.root != Process::Root::foreign) {
            if (FilePtr file = remember(map.path)) return file;
        }
        const std::string proc = fmt::format("/proc/{}/", tgid);
        if (FilePtr file = remember(fmt::format("{}map_files/{:x}-{:x}", proc, map.start, map.end))) return file;
        char exe[4096];
        const ssize_t size = ::readlink((proc + "exe").c_str(), exe, sizeof exe);
        if (size > 0 && map.path == std::string_view(exe, size)) {
            if (FilePtr file = remember(proc + "exe")) return file;
        }
        return is_deleted(map.path) ? nullptr : remember(proc + "root" + map.path);
    }

    const Image* image_at(std::uint32_t tgid, std::uint64_t at_ns) const {
        const auto found = processes.find(tgid);
        if (found == processes.end()) return nullptr;
        if (at_ns != 0) {
            for (const Life& life : found->second.before) {
                if (at_ns < life.until_ns) return life.image.get();
            }
        }
        return found->second.image.get();
    }
};

AddressSpaces::AddressSpaces() : impl_(std::make_unique<Impl>()) {}
AddressSpaces::~AddressSpaces() = default;

void AddressSpaces::map(std::uint32_t tgid, Map map) {
    if (map.start >= map.end) return;
    Process& process = impl_->process(tgid);
    if (process.image.use_count() > 1) process.image = std::make_shared<Image>(*process.image);
    if (process.image->maps.size() >= kMaxMaps) return;
    FilePtr file = impl_->file_of(tgid, process, map);
    overlay(*process.image, std::move(map), std::move(file));
}

void AddressSpaces::fork(std::uint32_t parent, std::uint32_t child, std::uint64_t at_ns) {
    if (parent == child) return;  // a thread
    const auto from = impl_->processes.find(parent);
    if (from == impl_->processes.end()) return;
    const std::shared_ptr<Image> image = from->second.image;
    const Process::Root root = from->second.root;
    Process& process = impl_->process(child);
    Impl::retire(process, at_ns);
    process.image = image;
    process.root = root;
}

void AddressSpaces::exec(std::uint32_t tgid, std::uint64_t at_ns) {
    const auto found = impl_->processes.find(tgid);
    if (found != impl_->processes.end()) Impl::retire(found->second, at_ns);
}

bool AddressSpaces::snapshot(std::uint32_t tgid) {
    std::ifstream maps(fmt::format("/proc/{}/maps", tgid));
    bool any = false;
    for (std::string line; std::getline(maps, line);) {
        any = true;
        auto parsed = parse_maps_line(line);
        if (parsed && parsed->executable) map(tgid, std::move(parsed->map));
    }
    return any;
}

bool AddressSpaces::knows(std::uint32_t tgid) const {
    const auto* known = maps(tgid);
    return known && !known->empty();
}

const std::vector<AddressSpaces::Map>* AddressSpaces::maps(std::uint32_t tgid) const {
    const Image* image = impl_->image_at(tgid, 0);
    return image ? &image->maps : nullptr;
}

std::optional<AddressSpaces::Place> AddressSpaces::find(std::uint32_t tgid, std::uint64_t pc,
                                                        std::uint64_t at_ns) const {
    const Image* image = impl_->image_at(tgid, at_ns);
    if (!image) return std::nullopt;
    const auto& maps = image->maps;
    const auto at = std::partition_point(maps.begin(), maps.end(), [&](const Map& m) { return m.end <= pc; });
    if (at == maps.end() || pc < at->start) return std::nullopt;
    return Place{&*at, image->files[at - maps.begin()]};
}

}  // namespace cloister::unwind
