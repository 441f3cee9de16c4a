#include "recorder/recorder.hpp"

#include <fmt/format.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>

#include "ctf/fragments.hpp"
#include "ctf/metadata_text.hpp"

#include "recorder/vfork.hpp"

namespace cloister::recorder {
namespace {

// The recorders of this process, for the slow path of a writer that finds a lane without memory: a signal handler may
// be in it, so no lock.
constexpr std::size_t kMost = 64;
std::array<std::atomic<Recorder*>, kMost> recorders;

// Initial-exec: an ordinary TLS access may allocate, which a signal handler must not.
constinit thread_local core::Author author __attribute__((tls_model("initial-exec")));

// The child of a fork has another id; the instances go on.
void rename_author() {
    static std::once_flag once;
    std::call_once(once, [] { (void)pthread_atfork(nullptr, nullptr, [] { author.thread = 0; }); });
}

}  // namespace

core::Authorship next_authorship() {
    if (author.thread == 0) core::introduce(author, static_cast<core::u32>(gettid()), __builtin_ia32_rdtsc());
    return core::next_of(author);
}

Result<std::unique_ptr<Recorder>> Recorder::create(const SegmentOptions& options, std::vector<std::string>* notices) {
    auto segment = Segment::create(options, notices);
    if (!segment) return tl::unexpected(segment.error());
    std::unique_ptr<Recorder> out(new Recorder(std::move(*segment)));

    void* page = mmap(nullptr, core::kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED || madvise(page, core::kPage, MADV_WIPEONFORK) != 0)
        return fail({.what = "cannot record", .needs = "a page that fork wipes", .found = std::strerror(errno)});
    out->views_ = static_cast<core::View*>(page);

    rename_author();
    cloister_rseq_offset = __rseq_offset;
    protect_vfork(__rseq_offset);
    cloister_populate_lane = populate_lane;
    bool placed = false;
    for (auto& place : recorders) {
        Recorder* nobody = nullptr;
        placed = place.compare_exchange_strong(nobody, out.get());
        if (placed) break;
    }
    if (!placed)
        return fail({.what = "cannot make another recorder",
                     .needs = fmt::format("at most {} in a process", kMost),
                     .found = "as many already"});
    static_assert(kMostChannels * sizeof(core::View) <= core::kPage);
    for (std::size_t i = 0; i < out->segment_.channels().size(); ++i) {
        const auto& channel = out->segment_.channels()[i];
        out->views_[i] = core::view_of(channel.shape, reinterpret_cast<core::u64>(out->segment_.lane(i, 0)),
                                       channel.stride, out->segment_.cpus(), true);
    }
    for (std::uint32_t i = 0; i < out->segment_.channels().size(); ++i)
        if (auto ok = out->declare(i, core::kFragmentId, ctf::event_text(ctf::fragment_class(i))); !ok)
            return tl::unexpected(ok.error());
    return out;
}

Recorder::~Recorder() {
    if (!views_) return;
    for (auto& place : recorders) {
        Recorder* mine = this;
        place.compare_exchange_strong(mine, nullptr);
    }
    // A forked child sees zeros here, and leaves what it shares alone.
    if (!inherited()) segment_.read_clocks();
    munmap(views_, core::kPage);
}

bool Recorder::populate_lane(const core::View& view, core::u32 cpu) {
    for (const auto& place : recorders) {
        const Recorder* recorder = place.load(std::memory_order_acquire);
        if (!recorder || &view < recorder->views_ || &view >= recorder->views_ + kMostChannels) continue;
        const auto& channel = recorder->segment_.channels()[static_cast<std::size_t>(&view - recorder->views_)];
        return populate(recorder->segment_.fd().get(), channel.lanes + channel.stride * cpu, channel.stride);
    }
    return true;  // none of ours: whoever made it has seen to its memory
}

std::uint32_t Recorder::largest(std::size_t channel) const {
    return segment_.channels()[channel].shape.largest() - core::kLongHeader;
}

core::StagedEvent Recorder::begin(std::size_t channel, std::uint32_t id) {
    return {{.write = write_whole,
             .author = next_authorship,
             .to = this,
             .which = channel,
             .largest = segment_.channels()[channel].shape.largest()},
            id};
}

core::Wrote Recorder::write_whole(const void* recorder, core::u64 channel, core::u32 id, const void* payload,
                                  core::u32 bytes) {
    const auto& self = *static_cast<const Recorder*>(recorder);
    const core::Wrote wrote = core::write_staged(self.views_[channel], id, payload, bytes);
    if (wrote == core::Wrote::no_lane) {
        auto& header = *reinterpret_cast<SegmentHeader*>(self.segment_.base());
        __atomic_fetch_add(&header.refused, 1, __ATOMIC_RELAXED);
    }
    return wrote;
}

core::Wrote Recorder::write(std::size_t channel, std::uint32_t id, const void* payload, std::uint32_t bytes) {
    // Staged: a page of the payload that is not mapped yet would abort the sequence again and again.
    core::StagedEvent event = begin(channel, id);
    (void)event.append(payload, bytes);
    return event.commit();
}

core::Wrote Recorder::write_staged(std::size_t channel, std::uint32_t id, const void* payload, std::uint32_t bytes) {
    if (bytes > largest(channel)) [[unlikely]]
        return write(channel, id, payload, bytes);
    return write_whole(this, channel, id, payload, bytes);
}

Result<void> Recorder::prepare(std::uint32_t cpu) {
    for (std::size_t i = 0; i < segment_.channels().size(); ++i) {
        const auto& channel = segment_.channels()[i];
        core::u8* lane = segment_.lane(i, cpu);
        const bool there = populate(segment_.fd().get(), channel.lanes + channel.stride * cpu, channel.stride);
        if (there && madvise(lane, channel.stride, MADV_POPULATE_WRITE) == 0 && mlock(lane, channel.stride) == 0)
            continue;
        const int code = errno;
        rlimit limit{};
        getrlimit(RLIMIT_MEMLOCK, &limit);
        return fail({.what = fmt::format("cannot lock the memory of channel {} for CPU {}", channel.name, cpu),
                     .needs = fmt::format("{} KiB of locked memory", channel.stride >> 10),
                     .found = fmt::format("{} (RLIMIT_MEMLOCK is {} KiB)", std::strerror(code), limit.rlim_cur >> 10),
                     .set = "ulimit -l unlimited; to make it last: memlock in /etc/security/limits.d"});
    }
    return {};
}

}  // namespace cloister::recorder
