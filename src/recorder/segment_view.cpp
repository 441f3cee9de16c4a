// include/cloister/segment.hpp.
#include "cloister/segment.hpp"

#include <string_view>
#include <utility>

#include "recorder/extract.hpp"
#include "recorder/segment.hpp"

namespace cloister::record {
namespace {

// name = "book:filled"; as ctf::event_text() writes it.
std::string name_in(std::string_view declaration) {
    constexpr std::string_view kBegin = "name = \"";
    const auto at = declaration.find(kBegin);
    if (at == std::string_view::npos) return {};
    declaration.remove_prefix(at + kBegin.size());
    return std::string(declaration.substr(0, declaration.find('"')));
}

}  // namespace

struct SegmentView::Opened {
    recorder::Segment segment;
    std::size_t classes = 0;  // how many bytes of their records were read
};

SegmentView::SegmentView() = default;
SegmentView::~SegmentView() = default;

Outcome SegmentView::open(const std::string& path) {
    opened_.reset();
    auto segment = recorder::Segment::open(path, recorder::Segment::Access::read);
    if (!segment) return {segment.error().text()};
    opened_ = std::make_unique<Opened>(Opened{std::move(*segment)});
    return {};
}

Outcome SegmentView::open_process(int pid) {
    opened_.reset();
    auto segment = recorder::Segment::of_process(pid, recorder::Segment::Access::read);
    if (!segment) return {segment.error().text()};
    opened_ = std::make_unique<Opened>(Opened{std::move(*segment)});
    return {};
}

std::size_t SegmentView::channels() const { return opened_ ? opened_->segment.channels().size() : 0; }
const std::string& SegmentView::name(std::size_t channel) const { return opened_->segment.channels()[channel].name; }
const core::Shape& SegmentView::shape(std::size_t channel) const { return opened_->segment.channels()[channel].shape; }
std::uint32_t SegmentView::cpus() const { return opened_ ? opened_->segment.cpus() : 0; }
const core::u8* SegmentView::lane(std::size_t channel, std::uint32_t cpu) const {
    return opened_->segment.lane(channel, cpu);
}

Outcome SegmentView::read_classes(std::vector<Class>& classes) {
    if (!opened_) return {Error{.what = "no segment is open", .needs = "open() first"}.text()};
    const auto fresh = opened_->segment.classes(opened_->classes);
    if (!fresh) return {fresh.error().text()};
    for (const auto& one : *fresh) {
        classes.push_back({one.channel, one.id, name_in(one.text), one.text});
        opened_->classes = one.end;
    }
    return {};
}

double SegmentView::frequency() const {
    return opened_ ? static_cast<double>(recorder::preamble_of(opened_->segment, {}).clock.frequency) : 0;
}

}  // namespace cloister::record
