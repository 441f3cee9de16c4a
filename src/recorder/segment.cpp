#include "recorder/segment.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <utility>

#include "cloister/core/lane_reader.hpp"
#include "system/clock.hpp"
#include "system/cpu.hpp"
#include "system/files.hpp"

namespace cloister::recorder {
namespace {

constexpr const char* kMemfdName = "cloister-segment";
constexpr std::uint64_t kHuge = 2U << 20;
constexpr std::uint32_t kMostCpus = 4096;

std::uint64_t round_up(std::uint64_t n, std::uint64_t to) { return (n + to - 1) / to * to; }

Error system_error(std::string what, int code) { return {.what = std::move(what), .found = std::strerror(code)}; }

Error no_room(const std::string& name, std::uint64_t bytes, int code) {
    return {.what = fmt::format("cannot make the segment {}", name),
            .needs = fmt::format("{} KiB of memory in its file system", bytes >> 10),
            .found = std::strerror(code),
            .set =
                "fewer or smaller sub-buffers, or more room (mount -o remount,size=... of the tmpfs; the limit of the "
                "memory cgroup)"};
}

Result<void> check_options(const SegmentOptions& options) {
    const auto bad = [](std::string what, std::string needs, std::string found) {
        return fail({.what = std::move(what), .needs = std::move(needs), .found = std::move(found)});
    };
    if (options.channels.empty() || options.channels.size() > kMostChannels)
        return bad("cannot make a segment of these channels", fmt::format("1 to {} of them", kMostChannels),
                   std::to_string(options.channels.size()));
    for (const auto& channel : options.channels) {
        const bool named = !channel.name.empty() && channel.name.size() < sizeof ChannelHeader::name &&
                           std::all_of(channel.name.begin(), channel.name.end(),
                                       [](unsigned char c) { return std::isalnum(c) != 0 || c == '_'; });
        // Its packets go into files CHANNEL_LANE, beside `metadata` and `index`.
        const bool taken = channel.name == "metadata" || channel.name == "index" || channel.name == kModulesStream;
        if (!named || taken)
            return bad("cannot make a channel of this name",
                       "1 to 31 letters, digits and '_', other than metadata, index and modules", channel.name);
        if (std::ranges::count(options.channels, channel.name, &ChannelOptions::name) > 1)
            return bad("two channels have the same name", "a name of its own for each", channel.name);
        if (!channel.shape.valid())
            return bad(fmt::format("cannot make channel {}", channel.name),
                       "2 to 4096 sub-buffers of 4 KiB to 64 MiB, both powers of two",
                       fmt::format("{} of {} bytes", channel.shape.slots, channel.shape.size));
    }
    return {};
}

}  // namespace

ClockReading read_clocks() {
    // The narrowest of some, as something may come in between.
    ClockReading best{};
    std::uint64_t width = UINT64_MAX;
    for (int tries = 0; tries < 5; ++tries) {
        const std::uint64_t before = __builtin_ia32_rdtsc();
        const std::uint64_t raw = system::clock_ns(CLOCK_MONOTONIC_RAW), real = system::clock_ns(CLOCK_REALTIME);
        const std::uint64_t after = __builtin_ia32_rdtsc();
        if (after - before >= width) continue;
        width = after - before;
        best = {before + width / 2, raw, real};
    }
    return best;
}

std::array<std::uint8_t, 16> boot_id() {
    std::array<std::uint8_t, 16> out{};
    std::size_t digits = 0;
    for (const char c : system::read_word("/proc/sys/kernel/random/boot_id")) {
        if (c == '-') continue;
        const int value = c <= '9' ? c - '0' : c - 'a' + 10;
        if (value < 0 || value > 15 || digits == 2 * out.size()) return {};
        out[digits / 2] = static_cast<std::uint8_t>(out[digits / 2] << 4 | value);
        ++digits;
    }
    return out;
}

bool populate(int fd, std::uint64_t offset, std::uint64_t bytes) {
    int done = 0;
    do done = fallocate(fd, 0, static_cast<off_t>(offset), static_cast<off_t>(bytes));
    while (done != 0 && errno == EINTR);
    return done == 0;
}

Result<Segment> Segment::create(const SegmentOptions& options, std::vector<std::string>* notices) {
    if (auto ok = check_options(options); !ok) return tl::unexpected(ok.error());
    Segment out;
    out.name_ = options.path.empty() ? kMemfdName : options.path;
    std::uint64_t page = core::kPage;
    if (!options.path.empty()) {
        out.fd_ = system::Fd(::open(options.path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
        if (!out.fd_)
            return fail({.what = fmt::format("cannot make the segment {}", options.path),
                         .needs = "a path that does not exist, in a folder that can be written to",
                         .found = std::strerror(errno),
                         .set = "another path, or remove that file if nobody uses it"});
    } else {
        if (options.huge_pages) {
            out.fd_ =
                system::Fd(memfd_create(kMemfdName, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | MFD_HUGE_2MB));
            page = kHuge;
        }
        if (!out.fd_) {
            if (options.huge_pages && notices)
                notices->push_back(
                    fmt::format("no huge pages for the segment ({}); to have them: sysctl vm.nr_hugepages=N",
                                std::strerror(errno)));
            page = core::kPage;
            out.fd_ = system::Fd(memfd_create(kMemfdName, MFD_CLOEXEC | MFD_ALLOW_SEALING));
        }
        if (!out.fd_) return fail(system_error("cannot make a memfd", errno));
    }

    SegmentHeader header{};
    header.magic = kSegmentMagic;
    header.version = kSegmentVersion;
    header.header_bytes = sizeof header;
    header.cpus = static_cast<std::uint32_t>(sysconf(_SC_NPROCESSORS_CONF));
    if (const auto possible = system::parse_cpu_list(system::read_word("/sys/devices/system/cpu/possible")))
        if (!possible->empty()) header.cpus = static_cast<std::uint32_t>(possible->list().back()) + 1;
    header.channels = static_cast<std::uint32_t>(options.channels.size());
    if (getrandom(header.uuid, sizeof header.uuid, 0) != static_cast<ssize_t>(sizeof header.uuid))
        return fail(system_error("cannot get random bytes", errno));
    header.uuid[6] = static_cast<std::uint8_t>((header.uuid[6] & 0x0f) | 0x40);  // version 4, RFC 4122
    header.uuid[8] = static_cast<std::uint8_t>((header.uuid[8] & 0x3f) | 0x80);
    std::ranges::copy(recorder::boot_id(), header.boot_id);
    header.pid = static_cast<std::uint32_t>(getpid());
    header.page_bytes = static_cast<std::uint32_t>(page);
    prctl(PR_GET_NAME, header.comm, 0, 0, 0);
    header.first = header.last = recorder::read_clocks();
    header.classes = kClasses;
    std::uint64_t at = round_up(kControl + kControlBytes, page);
    for (std::size_t i = 0; i < options.channels.size(); ++i) {
        auto& channel = header.channel[i];
        const auto& from = options.channels[i];
        from.name.copy(channel.name, sizeof channel.name - 1);
        channel.slots = from.shape.slots;
        channel.size = from.shape.size;
        channel.mode = static_cast<std::uint32_t>(from.shape.mode);
        channel.lanes = 0;
        channel.stride = round_up(from.shape.bytes(), page);
        const std::uint32_t lanes = header.cpus + 1;  // the spill lane too
        if (__builtin_mul_overflow(channel.stride, lanes, &channel.lanes) ||
            __builtin_add_overflow(at, channel.lanes, &at) || at > (1ULL << 46))
            return fail({.what = "cannot make a segment of these channels",
                         .needs = "less than 64 TiB in all",
                         .found = "more"});
        channel.lanes = at - channel.stride * lanes;
    }
    header.bytes = at;
    out.bytes_ = header.bytes;

    const auto give_up = [&](Error error) {
        if (!options.path.empty()) unlink(options.path.c_str());
        return fail(std::move(error));
    };
    if (ftruncate(out.fd_.get(), static_cast<off_t>(header.bytes)) != 0) return give_up(no_room(out.name_, at, errno));
    // All in front of the lanes, and of each lane what its words need; sub-buffers have memory when they are used.
    bool room = populate(out.fd_.get(), 0, kControl + kControlBytes);
    for (std::size_t i = 0; i < header.channels && room; ++i)
        for (std::uint32_t cpu = 0; cpu <= header.cpus && room; ++cpu)
            room = populate(out.fd_.get(), header.channel[i].lanes + header.channel[i].stride * cpu,
                            options.channels[i].shape.buffer(0));
    if (!room && page == kHuge) {
        const int code = errno;
        if (notices)
            notices->push_back(
                fmt::format("not enough huge pages for the segment ({}); to have them: sysctl vm.nr_hugepages={}",
                            std::strerror(code), at / kHuge));
        SegmentOptions ordinary = options;
        ordinary.huge_pages = false;
        return create(ordinary, notices);
    }
    if (!room) return give_up(no_room(out.name_, at, errno));
    // Shrunk, it would kill who reads or writes it. A file of a path cannot be sealed.
    if (options.path.empty()) (void)fcntl(out.fd_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
    if (auto ok = out.map(true); !ok) return give_up(ok.error());
    // The magic number last: before it is there, this is no segment.
    SegmentHeader& placed = out.writable_header();
    const std::uint64_t magic = std::exchange(header.magic, 0);
    std::memcpy(&placed, &header, sizeof header);
    __atomic_store_n(&placed.magic, magic, __ATOMIC_RELEASE);
    if (auto ok = out.check(); !ok) return give_up(ok.error());
    return out;
}

Result<Segment> Segment::open(const std::string& path, Access access) {
    Segment out;
    out.name_ = path;
    const bool drain = access == Access::drain;
    out.fd_ = system::Fd(::open(path.c_str(), (drain ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK));
    struct stat file {};
    if (!out.fd_ || fstat(out.fd_.get(), &file) != 0 || !S_ISREG(file.st_mode))
        return fail({.what = fmt::format("cannot open the segment {}", path),
                     .needs = "a regular file that a recorder has made, of the same user (or root)",
                     .found = out.fd_ ? "something that is no regular file" : std::strerror(errno)});
    out.bytes_ = static_cast<std::uint64_t>(file.st_size);
    if (out.bytes_ < sizeof(SegmentHeader))
        return fail({.what = fmt::format("{} is not a segment", path),
                     .needs = fmt::format("at least {} bytes", sizeof(SegmentHeader)),
                     .found = fmt::format("{} bytes", out.bytes_)});
    if (auto ok = out.map(drain); !ok) return tl::unexpected(ok.error());
    if (auto ok = out.check(); !ok) return tl::unexpected(ok.error());
    return out;
}

Result<Segment> Segment::adopt(const system::Fd& file, const std::string& name, Access access) {
    const int seals = fcntl(file.get(), F_GET_SEALS);
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0)
        return fail({.what = fmt::format("the segment of {} is not taken", name),
                     .needs = "a memfd that is sealed against shrinking",
                     .found = seals < 0 ? std::strerror(errno) : "one that is not"});
    auto out = open(fmt::format("/proc/self/fd/{}", file.get()), access);
    if (out) out->name_ = fmt::format("the segment of {}", name);
    return out;
}

Result<Segment> Segment::of_process(int pid, Access access) {
    const auto folder = fmt::format("/proc/{}/fd", pid);
    std::error_code error;
    const std::string wanted = fmt::format("/memfd:{}", kMemfdName);
    for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
        std::error_code ignored;
        if (std::filesystem::read_symlink(entry.path(), ignored).string().starts_with(wanted))
            return open(entry.path().string(), access);
    }
    return fail({.what = fmt::format("process {} has no segment that can be reached", pid),
                 .needs = "a process that records into a memfd, of the same user (or root)",
                 .found = error ? error.message() : "none of its files is one",
                 .set = "for a segment with a path, give the path instead"});
}

Result<void> Segment::map(bool writable) {
    void* memory =
        mmap(nullptr, bytes_, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED | MAP_NORESERVE, fd_.get(), 0);
    if (memory == MAP_FAILED)
        return fail({.what = fmt::format("cannot map the segment {}", name_),
                     .needs = fmt::format("{} KiB of address space", bytes_ >> 10),
                     .found = std::strerror(errno)});
    base_ = static_cast<core::u8*>(memory);
    return {};
}

// Everything that later steps index with.
Result<void> Segment::check() {
    const SegmentHeader header = this->header();  // a copy: what is checked is what is used
    const auto wrong = [&](const char* field, std::size_t offset, std::string needs, std::string found) {
        return fail({.what = fmt::format("{} is not a segment that can be read: {} at offset {}", name_, field, offset),
                     .needs = std::move(needs),
                     .found = std::move(found)});
    };
#define CLOISTER_AT(field) #field, offsetof(SegmentHeader, field)
    if (header.magic != kSegmentMagic)
        return wrong(CLOISTER_AT(magic), fmt::format("{:#x}", kSegmentMagic), fmt::format("{:#x}", header.magic));
    if (header.version != kSegmentVersion)
        return wrong(CLOISTER_AT(version), fmt::format("{}", kSegmentVersion), fmt::format("{}", header.version));
    if (header.header_bytes != sizeof header)
        return wrong(CLOISTER_AT(header_bytes), fmt::format("{}", sizeof header),
                     fmt::format("{}", header.header_bytes));
    if (header.bytes != bytes_)
        return wrong(CLOISTER_AT(bytes), fmt::format("the file's size, {}", bytes_), fmt::format("{}", header.bytes));
    if (header.cpus == 0 || header.cpus > kMostCpus)
        return wrong(CLOISTER_AT(cpus), fmt::format("1 to {}", kMostCpus), fmt::format("{}", header.cpus));
    if (header.channels == 0 || header.channels > kMostChannels)
        return wrong(CLOISTER_AT(channels), fmt::format("1 to {}", kMostChannels), fmt::format("{}", header.channels));
    if (header.classes != kClasses || kClasses + kClassesCapacity > bytes_)
        return wrong(CLOISTER_AT(classes), "a place in the file", fmt::format("{}", header.classes));
#undef CLOISTER_AT
    std::vector<Channel> channels;
    for (std::size_t i = 0; i < header.channels; ++i) {
        const ChannelHeader& from = header.channel[i];
        const std::size_t offset = offsetof(SegmentHeader, channel) + i * sizeof from;
        Channel channel;
        channel.name.assign(from.name, strnlen(from.name, sizeof from.name));
        channel.shape = {from.slots, from.size, static_cast<core::Mode>(from.mode)};
        channel.lanes = from.lanes;
        channel.stride = from.stride;
        if (channel.name.empty() || channel.name.find_first_of("/\n") != std::string::npos)
            return wrong("channel name", offset, "a name", "none, or one that is no file name");
        if (!channel.shape.valid())
            return wrong("channel", offset, "a valid number and size of sub-buffers",
                         fmt::format("{} of {} bytes, mode {}", from.slots, from.size, from.mode));
        std::uint64_t bytes = 0, end = 0;
        if (from.stride < channel.shape.bytes() || from.stride % core::kPage || from.lanes % core::kPage ||
            __builtin_mul_overflow(from.stride, header.cpus + 1, &bytes) ||
            __builtin_add_overflow(from.lanes, bytes, &end) || end > bytes_ || from.lanes < kControl + kControlBytes)
            return wrong("channel lanes", offset, "lanes inside of the file",
                         fmt::format("{} lanes of {} bytes at {}, in {} bytes", header.cpus + 1, from.stride,
                                     from.lanes, bytes_));
        channels.push_back(std::move(channel));
    }
    cpus_ = header.cpus;
    channels_ = std::move(channels);
    return {};
}

Result<void> Segment::append_class(std::size_t channel, std::uint32_t id, std::string_view tsdl) {
    return append(static_cast<std::uint32_t>(channel), id, tsdl, kClassesCapacity,
                  fmt::format("event class {} of channel {}", id, channels_[channel].name));
}

Result<void> Segment::append_module(std::string_view record) {
    return append(kModuleRecord, 0, record, kClassesCapacity / 2, "another module");
}

Result<void> Segment::append(std::uint32_t channel, std::uint32_t id, std::string_view text, std::uint64_t capacity,
                             const std::string& what) {
    SegmentHeader& header = writable_header();
    const std::uint64_t used = header.classes_used;
    const std::uint64_t bytes = round_up(sizeof(ClassRecord) + text.size(), 8);
    if (used > capacity || bytes > capacity - used)
        return fail({.what = "no room for " + what,
                     .needs = fmt::format("{} bytes for its declaration", bytes),
                     .found = fmt::format("{} of {} are used", used, capacity)});
    core::u8* at = base_ + kClasses + used;
    const ClassRecord record{static_cast<std::uint32_t>(bytes), channel, id, static_cast<std::uint32_t>(text.size())};
    std::memcpy(at, &record, sizeof record);
    std::memcpy(at + sizeof record, text.data(), text.size());
    // A reader that sees the length sees the record: it comes before any event of the class.
    __atomic_store_n(&header.classes_used, used + bytes, __ATOMIC_RELEASE);
    read_clocks();
    return {};
}

void Segment::read_clocks() { writable_header().last = recorder::read_clocks(); }

std::size_t Segment::classes_end() const { return __atomic_load_n(&header().classes_used, __ATOMIC_ACQUIRE); }

Result<std::vector<Segment::Class>> Segment::classes(std::size_t begin) const {
    const std::uint64_t used = classes_end();
    const core::u8* area = base_ + kClasses;
    std::vector<Class> out;
    for (std::uint64_t at = begin; at < used;) {
        ClassRecord record{};
        const bool header_fits = used <= kClassesCapacity && used - at >= sizeof record;
        if (header_fits) std::memcpy(&record, area + at, sizeof record);
        if (!header_fits || record.bytes % 8 || record.bytes < sizeof record || record.bytes > used - at ||
            record.text_bytes > record.bytes - sizeof record ||
            (record.channel >= channels_.size() && record.channel != kModuleRecord))
            return fail({.what = fmt::format("the event classes of {} cannot be read", name_),
                         .needs = "whole records of known channels",
                         .found = fmt::format("a broken one at {} of {} bytes", at, used)});
        const auto* text = reinterpret_cast<const char*>(area + at + sizeof record);
        at += record.bytes;
        out.push_back({record.channel, record.id, std::string(text, record.text_bytes), at});
    }
    return out;
}

Segment::Segment(Segment&& other) noexcept
    : name_(std::move(other.name_)),
      fd_(std::move(other.fd_)),
      base_(std::exchange(other.base_, nullptr)),
      bytes_(other.bytes_),
      cpus_(other.cpus_),
      channels_(std::move(other.channels_)) {}

Segment& Segment::operator=(Segment&& other) noexcept {
    std::swap(name_, other.name_);
    std::swap(fd_, other.fd_);
    std::swap(base_, other.base_);
    std::swap(bytes_, other.bytes_);
    std::swap(cpus_, other.cpus_);
    std::swap(channels_, other.channels_);
    return *this;
}

Segment::~Segment() {
    if (base_) munmap(base_, bytes_);
}

}  // namespace cloister::recorder
