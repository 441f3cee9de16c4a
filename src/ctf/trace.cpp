#include "ctf/trace.hpp"

#include <algorithm>
#include <filesystem>
#include <tuple>

#include <fmt/format.h>

namespace cloister::ctf {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMetadata = "metadata";
constexpr int kMostLevels = 8;  // below the directory given; LTTng takes five

Result<std::vector<std::string>> stream_names(const std::string& directory) {
    std::vector<std::string> out;
    std::error_code wrong;
    for (fs::directory_iterator entry(directory, wrong), end; !wrong && entry != end; entry.increment(wrong)) {
        const std::string name = entry->path().filename().string();
        std::error_code no;
        if (name != kMetadata && !name.starts_with('.') && entry->is_regular_file(no)) out.push_back(name);
    }
    if (wrong)
        return fail(
            {.what = "cannot read " + directory, .needs = "a directory that may be read", .found = wrong.message()});
    std::sort(out.begin(), out.end());
    return out;
}

}  // namespace

Result<Trace> Trace::open(const std::string& directory) {
    const std::string path = directory + "/" + kMetadata;
    const auto file = Mapping::open(path);
    if (!file) return fail(file.error());
    const auto bytes = file->bytes();
    const auto text = unpacked_metadata({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
    if (!text) return fail(text.error());
    auto metadata = parse_metadata(*text, path);
    if (!metadata) return fail(metadata.error());
    auto layout = TraceLayout::compile(std::move(*metadata), path);
    if (!layout) return fail(layout.error());
    Trace out;
    out.directory_ = directory;
    out.layout_ = *layout;
    const auto names = stream_names(directory);
    if (!names) return fail(names.error());
    for (const auto& name : *names) {
        auto stream = StreamFile::open(directory, name, out.layout_);
        if (!stream) return fail(stream.error());
        if (stream->size() > 0) out.streams_.push_back(std::move(*stream));
    }
    return out;
}

Result<std::vector<Trace>> Trace::open_all(const std::string& directory) {
    std::error_code wrong;
    const auto status = fs::status(directory, wrong);
    if (!fs::is_directory(status))
        return fail({.what = "cannot open the trace " + directory,
                     .needs = "the directory of a trace, with a file metadata in it or below it",
                     .found = fs::exists(status) ? "a file" : "no such directory",
                     .set = fs::exists(status) ? "cloister view " + fs::path(directory).parent_path().string() : ""});
    std::vector<std::string> found;
    if (fs::exists(directory + "/" + kMetadata, wrong)) found.push_back(directory);
    fs::recursive_directory_iterator entry(directory, fs::directory_options::skip_permission_denied, wrong), end;
    for (; !wrong && entry != end; entry.increment(wrong)) {
        std::error_code no;
        if (entry.depth() >= kMostLevels) entry.disable_recursion_pending();
        if (entry->is_directory(no) && fs::exists(entry->path() / kMetadata, no))
            found.push_back(entry->path().string());
    }
    if (found.empty())
        return fail({.what = "no trace in " + directory,
                     .needs = "a file metadata in it or below it",
                     .found = wrong ? wrong.message() : "none",
                     .set = "the directory that cloister run -o, or lttng create --output, was given"});
    std::sort(found.begin(), found.end());
    std::vector<Trace> out;
    for (const auto& one : found) {
        auto trace = Trace::open(one);
        if (!trace) return fail(trace.error());
        out.push_back(std::move(*trace));
    }
    return out;
}

Merge::Merge(const std::vector<Trace>& traces) {
    for (const auto& trace : traces)
        for (const auto& stream : trace.streams()) {
            Lane& lane = lanes_.emplace_back();
            lane.trace = &trace;
            lane.cursor = std::make_unique<Cursor>(stream);
            lane.order = lanes_.size();
            Decoder decoder(stream.layout());
            const auto first = stream.packet_at(0, 0, decoder);
            lane.clock = &trace.layout().clocks[first ? first->stream->clock : 0];
            if (!first || !first->begin) continue;
            const std::int64_t ns = ns_of(*lane.clock, *first->begin);
            begin_ = begin_ ? std::min(*begin_, ns) : ns;
        }
}

void Merge::seek(std::int64_t ns) {
    for (auto& lane : lanes_) lane.cursor->seek(cycles_of(*lane.clock, ns));
}

void Merge::advance(Lane& lane) {
    lane.step = lane.cursor->next();
    // What is broken is reported where it stands: after the last event of its stream.
    if (lane.step == Cursor::Step::event) {
        lane.clock = &lane.trace->layout().clocks[lane.cursor->packet().stream->clock];
        lane.cycles = lane.cursor->cycles();
        lane.ns = ns_of(*lane.clock, lane.cycles);
    } else if (lane.step == Cursor::Step::loss) {
        lane.cycles = lane.cursor->loss().from;
        lane.ns = ns_of(*lane.clock, lane.cycles);
    }
}

bool Merge::later(const Lane* a, const Lane* b) {
    return std::tie(a->ns, a->cycles, a->order) > std::tie(b->ns, b->cycles, b->order);
}

void Merge::push(Lane* lane) {
    if (lane->step == Cursor::Step::end) return;
    heap_.push_back(lane);
    std::push_heap(heap_.begin(), heap_.end(), later);
}

Cursor::Step Merge::next() {
    if (!begun_) {
        begun_ = true;
        for (auto& lane : lanes_) {
            advance(lane);
            push(&lane);
        }
    } else if (current_ && current_->step != Cursor::Step::broken) {
        advance(*current_);
        push(current_);
    }
    current_ = nullptr;
    if (heap_.empty()) return Cursor::Step::end;
    std::pop_heap(heap_.begin(), heap_.end(), later);
    current_ = heap_.back();
    heap_.pop_back();
    return current_->step;
}

}  // namespace cloister::ctf
