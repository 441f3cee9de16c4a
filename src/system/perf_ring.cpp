#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include <sys/mman.h>
#include <unistd.h>

#include <fmt/format.h>

#include "system/files.hpp"
#include "system/perf.hpp"
#include "system/perf_record.hpp"

namespace cloister::system {
namespace {

std::size_t page_size() { return static_cast<std::size_t>(sysconf(_SC_PAGESIZE)); }

}  // namespace

Result<PerfRing> PerfRing::map(const Fd& event, std::size_t pages) {
    Error error{.what = fmt::format("cannot map a perf ring of {} pages", pages), .needs = {}, .found = {}, .set = {}};
    if (!std::has_single_bit(pages)) {
        error.needs = "a power of two";
        return fail(std::move(error));
    }
    const std::size_t size = (pages + 1) * page_size();
    void* base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, event.get(), 0);
    if (base == MAP_FAILED) {
        const int code = errno;
        error.found = std::strerror(code);
        if (code == EPERM) {
            const auto limit = read_word("/proc/sys/kernel/perf_event_mlock_kb");
            error.needs = fmt::format("{} KiB more of locked memory", size / 1024);
            error.found = fmt::format(
                "kernel.perf_event_mlock_kb = {} for each CPU, and RLIMIT_MEMLOCK, are used up by this user's perf "
                "rings",
                limit);
            error.set =
                "sudo sysctl kernel.perf_event_mlock_kb=4096, or ulimit -l unlimited; to keep it: echo "
                "kernel.perf_event_mlock_kb=4096 | sudo tee /etc/sysctl.d/99-cloister.conf; or run it with "
                "CAP_IPC_LOCK";
        }
        return fail(std::move(error));
    }
    PerfRing ring;
    ring.base_ = base;
    ring.size_ = size;
    return ring;
}

PerfRing::PerfRing(PerfRing&& other) noexcept
    : base_(std::exchange(other.base_, nullptr)),
      size_(other.size_),
      lost_(other.lost_),
      scratch_(std::move(other.scratch_)) {}

PerfRing& PerfRing::operator=(PerfRing&& other) noexcept {
    std::swap(base_, other.base_);
    std::swap(size_, other.size_);
    std::swap(lost_, other.lost_);
    std::swap(scratch_, other.scratch_);
    return *this;
}

PerfRing::~PerfRing() {
    if (base_) munmap(base_, size_);
}

std::size_t PerfRing::drain(const std::function<void(const perf_event_header&)>& record) {
    auto* head_page = static_cast<perf_event_mmap_page*>(base_);
    const auto* data = static_cast<const std::byte*>(base_) + page_size();
    const std::size_t size = size_ - page_size();
    // Acquire: pairs with the kernel's barrier between writing the records and data_head.
    const std::uint64_t head = __atomic_load_n(&head_page->data_head, __ATOMIC_ACQUIRE);
    std::uint64_t tail = head_page->data_tail;
    std::size_t count = 0;
    while (tail < head) {
        // Records are multiples of 8 bytes, so a header never wraps itself.
        const std::size_t at = tail & (size - 1);
        const auto* header = reinterpret_cast<const perf_event_header*>(data + at);
        const std::size_t length = header->size;
        if (length < sizeof *header || length > head - tail) break;  // not the kernel's work; skip to its head
        if (at + length > size) {
            scratch_.resize(length);
            std::memcpy(scratch_.data(), data + at, size - at);
            std::memcpy(scratch_.data() + (size - at), data, length - (size - at));
            header = reinterpret_cast<const perf_event_header*>(scratch_.data());
        }
        if (header->type == PERF_RECORD_LOST) {
            RecordReader fields(*header);
            fields.take<std::uint64_t>();  // the event's id
            lost_ += fields.take<std::uint64_t>();
        }
        record(*header);
        tail += length;
        ++count;
    }
    // Release: the kernel may overwrite what lies before data_tail, so our reads of it come first.
    __atomic_store_n(&head_page->data_tail, head, __ATOMIC_RELEASE);
    return count;
}

}  // namespace cloister::system
