// A stream file: packets, one after the other, mapped into memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "ctf/decode.hpp"
#include "ctf/layout.hpp"

namespace cloister::ctf {

// A file's bytes, read only. One that shrinks while it is mapped ends the process that reads the part that is gone
// (SIGBUS): a trace is not to be cut while it is read; that it grows is fine.
class Mapping {
public:
    [[nodiscard]] static Result<Mapping> open(const std::string& path);
    Mapping() = default;
    Mapping(Mapping&& other) noexcept;
    Mapping& operator=(Mapping&& other) noexcept;
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    ~Mapping();
    [[nodiscard]] std::span<const std::uint8_t> bytes() const { return {data_, size_}; }

private:
    const std::uint8_t* data_ = nullptr;
    std::size_t size_ = 0;
};

// What the header and the context of a packet say. Times in cycles.
struct Packet {
    std::uint64_t number = 0;            // in its file, from 0
    std::uint64_t offset = 0, size = 0;  // bytes, in the file
    std::uint64_t content = 0;           // bits, from the packet's begin
    std::uint64_t events_at = 0;         // bits, from the packet's begin; at most content
    const StreamLayout* stream = nullptr;
    std::optional<std::uint64_t> begin, end, sequence_number, events_discarded, cpu;
};

class StreamFile {
public:
    // Opens the file, and its index where there is one.
    [[nodiscard]] static Result<StreamFile> open(const std::string& directory, const std::string& name,
                                                 std::shared_ptr<const TraceLayout> layout);
    // A stream that is in memory already; `bytes` must outlive it.
    StreamFile(std::string name, std::shared_ptr<const TraceLayout> layout, std::span<const std::uint8_t> bytes)
        : name_(std::move(name)), layout_(std::move(layout)), bytes_(bytes) {}

    // Reads the packet that begins at byte `offset`, which is less than size(), and lets `decoder` begin with it. The
    // error says what is wrong with it, so that nothing behind it can be read either. `context`: null, or where the
    // fields of its context are added.
    [[nodiscard]] Result<Packet> packet_at(std::uint64_t offset, std::uint64_t number, Decoder& decoder,
                                           std::vector<Value>* context = nullptr) const;

    // A packet that ends before `cycles`, as late a one as the index knows. Only a hint where to begin to look: it was
    // compared with the packet itself.
    [[nodiscard]] std::optional<Packet> before(std::uint64_t cycles, Decoder& decoder) const;

    [[nodiscard]] const std::string& name() const { return name_; }
    [[nodiscard]] const TraceLayout& layout() const { return *layout_; }
    [[nodiscard]] std::uint64_t size() const { return bytes_.size(); }
    [[nodiscard]] const std::uint8_t* data() const { return bytes_.data(); }

private:
    [[nodiscard]] const StreamLayout* stream_of(const Decoder& decoder) const;

    std::string name_;
    std::shared_ptr<const TraceLayout> layout_;
    Mapping file_, index_;
    std::span<const std::uint8_t> bytes_;
};

}  // namespace cloister::ctf
