#include "ctf/encoder.hpp"

namespace cloister::ctf {

void Encoder::event(std::uint32_t id, std::uint64_t timestamp) {
    constexpr std::uint64_t kReach = std::uint64_t{1} << kCompactTimeBits;
    // The packet's header is a multiple of the alignment, so alignment within the events is that within the packet.
    static_assert(kPacketHeaderSize % kEventAlign == 0);
    events_.resize((events_.size() + kEventAlign - 1) / kEventAlign * kEventAlign);
    if (events_.empty()) first_ = last_ = timestamp;
    if (id < kExtendedId && timestamp - last_ < kReach)
        put(static_cast<std::uint32_t>(id | (timestamp & (kReach - 1)) << 5U));
    else
        put(kExtendedId).put(id).put(timestamp);
    last_ = timestamp;
}

Encoder& Encoder::put(std::string_view text) {
    text = text.substr(0, text.find('\0'));
    const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
    events_.insert(events_.end(), bytes, bytes + text.size());
    events_.push_back(std::byte{0});
    return *this;
}

void Encoder::clear() {
    events_.clear();
    first_ = last_ = 0;
}

}  // namespace cloister::ctf
