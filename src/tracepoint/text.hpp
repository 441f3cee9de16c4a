// Writing to the text of this process, whose pages stay mapped read-execute.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <utility>

#include "base/error.hpp"

namespace cloister::tracepoint {

// Five bytes and what they are to become.
struct Change {
    unsigned char* at;
    std::array<unsigned char, 5> bytes;
};

// /proc/self/mem: the kernel writes for us, as it does for a debugger, into a private copy of the page (FOLL_FORCE).
// Opened for each batch, since a descriptor that a child of a fork inherits still leads to its parent's memory.
class Text {
public:
    [[nodiscard]] static Result<Text> open();
    Text(Text&& other) noexcept : file_(std::exchange(other.file_, -1)) {}
    Text& operator=(Text&&) = delete;
    ~Text();

    // One byte becomes visible at once; of several, each at its own time.
    [[nodiscard]] Result<void> write(unsigned char* at, std::span<const unsigned char> bytes) const;

private:
    explicit Text(int file) : file_(file) {}
    int file_;
};

// Applies the changes by exchanging the pages that they are in (patch.hpp says how, and why). `changes` in ascending
// order of addresses. After an error some pages may have been exchanged, others not; each is wholly old or new.
[[nodiscard]] Result<void> exchange_pages(std::span<const Change> changes);

}  // namespace cloister::tracepoint
