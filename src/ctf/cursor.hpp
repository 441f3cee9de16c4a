// The way through the events of one stream, in the order in which they lie.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/error.hpp"
#include "ctf/decode.hpp"
#include "ctf/fragments.hpp"
#include "ctf/stream_file.hpp"

namespace cloister::ctf {

// What is missing between two packets of a stream.
struct Loss {
    // Cycles: the end of the packet before (or the begin of the first), and the end of the one behind, by which its
    // count has risen; where only packets are missing, the begin of the one behind.
    std::uint64_t from = 0, to = 0;
    std::uint64_t events = 0;   // by the rise of events_discarded
    std::uint64_t packets = 0;  // by a hole in packet_seq_num; how many events these had nobody knows
};

// How often each event class was seen, by its number.
struct Counts {
    std::vector<std::uint64_t> events;
    std::optional<std::uint64_t> first, last;  // cycles, of this stream
    std::uint64_t lost_events = 0, lost_packets = 0, packets = 0;
};

class Cursor {
public:
    // The stream must outlive it.
    explicit Cursor(const StreamFile& stream) : stream_(&stream), decoder_(stream.layout()) {}

    // To the first packet that does not end before `cycles`, without reading what lies before it. Its first events may
    // be earlier. Where packets have no times it stays at the begin. Before the first next() only.
    void seek(std::uint64_t cycles);

    enum class Step { event, loss, end, broken };
    // To the next event, or to what was lost before it. After end and broken it stays there.
    Step next();

    // The event: valid until the next next().
    [[nodiscard]] const EventLayout& event() const { return *event_; }
    [[nodiscard]] std::uint64_t cycles() const { return cycles_; }
    [[nodiscard]] const Packet& packet() const { return packet_; }
    // Its fields, behind those of the contexts of packet, stream and event. False where they are broken: then error()
    // says how. At most once for an event.
    [[nodiscard]] bool fields(std::vector<Value>& values);
    // How many of these values are the contexts'.
    [[nodiscard]] std::size_t of_contexts() const { return of_contexts_; }
    // Instead of that where event().fragment: the part of an event that it is. `context`: null, or where the fields of
    // the packet's and the stream's context are put.
    [[nodiscard]] bool fragment(Fragment& out, std::vector<Value>* context);
    // What was read last cannot be, for reasons that lie in other streams: it ends here, as broken.
    void reject(const std::string& what, std::string needs) { (void)broken(what, std::move(needs)); }

    [[nodiscard]] const Loss& loss() const { return loss_; }
    // The packet that cannot be read on, and why. Only after a step broken or fields() false.
    [[nodiscard]] const Error& error() const { return error_; }

    // Counts everything that is left. False where a packet is broken: what lies before that is counted. Fragments are
    // events here; `fragments` gets to know of them what makes them whole ones, and only of these are first and last.
    [[nodiscard]] bool count(Counts& counts, FragmentCounts& fragments);

    [[nodiscard]] const StreamFile& stream() const { return *stream_; }

private:
    [[nodiscard]] Step open_packet();
    [[nodiscard]] bool choose(std::uint64_t id);
    [[nodiscard]] bool header();
    [[nodiscard]] bool compact_header();
    [[nodiscard]] bool skip_fields();
    [[nodiscard]] bool run(std::vector<Value>* values);       // the programs of the fields
    void count_fixed(std::array<std::uint64_t, 32>& counts);  // by id
    bool broken(const std::string& what, std::string needs);
    void find_first_loss(const Packet& first);
    void find_loss(const Packet& before, const Packet& behind);

    const StreamFile* stream_;
    Decoder decoder_;
    Packet packet_;
    bool in_packet_ = false, seen_packet_ = false, broken_ = false, pending_ = false, lost_ = false;
    std::uint64_t next_packet_ = 0;        // where it begins, in bytes
    std::uint64_t event_at_ = 0, at_ = 0;  // bits from the packet's begin: of this event; where reading goes on
    std::vector<Value> packet_values_;     // what its context has beyond what a reader needs
    std::size_t of_contexts_ = 0;
    std::uint32_t size_ = 0;  // of this event in bytes, 0 where that is not known
    const EventLayout* event_ = nullptr;
    std::uint64_t cycles_ = 0;
    Loss loss_;
    Error error_;
};

}  // namespace cloister::ctf
