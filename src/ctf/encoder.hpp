// Events into the bytes of a packet, for producers that have no lane: `cloister run -o`, tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include "ctf/packet.hpp"

namespace cloister::ctf {

// Collects the events of one packet in order of time. The fields of an event are put in the order and with the types
// of its class; nothing checks that, as nothing in the bytes says what they are.
class Encoder {
public:
    // Begins an event. `timestamp`: cycles, not less than that of the event before.
    void event(std::uint32_t id, std::uint64_t timestamp);

    template <class T>
    requires std::is_arithmetic_v<T>  // bool becomes one byte, 0 or 1
        Encoder& put(T value) {
        const auto* bytes = reinterpret_cast<const std::byte*>(&value);
        events_.insert(events_.end(), bytes, bytes + sizeof value);
        return *this;
    }
    // A string ends at its first NUL.
    Encoder& put(std::string_view text);
    template <class T>
    Encoder& put_array(std::span<const T> values) {
        for (const T& value : values) put(value);
        return *this;
    }
    template <class T>
    Encoder& put_sequence(std::span<const T> values) {
        return put(static_cast<std::uint32_t>(values.size())).put_array(values);
    }

    [[nodiscard]] std::span<const std::byte> events() const { return events_; }
    [[nodiscard]] std::uint64_t first() const { return first_; }  // timestamps; 0 without events
    [[nodiscard]] std::uint64_t last() const { return last_; }
    void clear();  // for the next packet

private:
    std::vector<std::byte> events_;
    std::uint64_t first_ = 0, last_ = 0;
};

}  // namespace cloister::ctf
