// Reads the fields of one perf record in their order, and never past its end.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

#include <linux/perf_event.h>

namespace cloister::system {

class RecordReader {
public:
    // `trailer`: bytes at the record's end that are not part of its body (what sample_id_all appends).
    explicit RecordReader(const perf_event_header& header, std::size_t trailer = 0)
        : at_(reinterpret_cast<const char*>(&header + 1)),
          end_(reinterpret_cast<const char*>(&header) + header.size -
               (sizeof header + trailer <= header.size ? trailer : 0)) {}

    // The next field; zero once the record has ended, and from then on ok() is false.
    template <class T>
    T take() {
        T value{};
        if (const char* from = skip(sizeof value)) std::memcpy(&value, from, sizeof value);
        return value;
    }
    // The next `size` bytes, or null if there are not so many.
    const char* skip(std::size_t size) {
        if (size > static_cast<std::size_t>(end_ - at_)) {
            ok_ = false;
            at_ = end_;
            return nullptr;
        }
        const char* from = at_;
        at_ += size;
        return from;
    }
    // The rest up to the first zero byte.
    [[nodiscard]] std::string_view text() const { return {at_, strnlen(at_, static_cast<std::size_t>(end_ - at_))}; }
    [[nodiscard]] bool ok() const { return ok_; }

private:
    const char* at_;
    const char* end_;
    bool ok_ = true;
};

}  // namespace cloister::system
