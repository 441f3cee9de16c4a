// Fragments of large events, and how they become events again. include/cloister/core/fragment.hpp specifies them.
//
// A fragment is an event of the class `cloister:fragment`, declared in every channel, so that any reader of CTF shows
// it as what it is. Those of one event belong together by {channel, thread, instance}; other events and fragments of
// other events may lie between them, and they may lie in the streams of several CPUs.
#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "cloister/core/fragment.hpp"
#include "ctf/decode.hpp"
#include "ctf/layout.hpp"
#include "ctf/stream_file.hpp"

namespace cloister::ctf {

// The declaration of the class, for a channel.
[[nodiscard]] EventClass fragment_class(std::uint32_t stream_id);
// Whether that is what a trace declares: another tracer's class of that name may have other fields.
[[nodiscard]] bool is_fragment_class(const Metadata::Event& event, ByteOrder order);

struct Fragment {
    core::FragmentHead head{};
    std::span<const std::uint8_t> bytes;
};

// The event that fragments are of. Instances are never used again by a thread, nor by a later one of the same id.
struct FragmentKey {
    const StreamLayout* channel = nullptr;  // and by that the trace
    std::uint32_t thread = 0;
    std::uint64_t instance = 0;
    bool operator==(const FragmentKey&) const = default;
};
struct FragmentKeyHash {
    std::size_t operator()(const FragmentKey& key) const {
        return static_cast<std::size_t>(key.instance * 0x9e3779b97f4a7c15U) ^ key.thread ^
               reinterpret_cast<std::uintptr_t>(key.channel);
    }
};

// Where and when a fragment was found.
struct FragmentPlace {
    const StreamFile* file = nullptr;
    Packet packet;
    std::uint64_t cycles = 0;
    std::int64_t ns = 0;
    std::vector<Value> context;  // of packet and stream
};

// An event whose fragments have been put together, as far as they were there.
struct JoinedEvent {
    const EventLayout* event = nullptr;
    FragmentPlace place;              // of its newest fragment: the last is its commit
    std::vector<std::uint8_t> bytes;  // of its payload, from its begin to the first gap
    std::uint64_t begun = 0;          // cycles
    std::uint32_t fragments = 0;      // that were there
    std::uint64_t next = 0;           // index of the fragment after the newest
    bool gap = false, last = false, abandoned = false;

    [[nodiscard]] bool complete() const { return last && !gap; }
    // Its fields, behind those of the contexts, of which there are `of_contexts`; of an incomplete event those that are
    // there, and the last may be cut short. Texts are in `bytes`. Empty, or what is wrong with a complete one.
    [[nodiscard]] std::string fields(std::vector<Value>& values, std::size_t& of_contexts) const;
    // How many fragments it had; nothing where its last is missing.
    [[nodiscard]] std::optional<std::uint64_t> of() const { return last ? std::optional(next) : std::nullopt; }
};

// Puts fragments together that come in the order of time. Memory is bounded, whatever the fragments say: at most
// kMostOpen events are in the making, with kMostBytes together; the one that has waited longest gives way, and is an
// incomplete one then.
class Joiner {
public:
    static constexpr std::size_t kMostOpen = std::size_t{1} << 16U;
    static constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 30U;

    explicit Joiner(std::uint64_t most_bytes = kMostBytes) : most_bytes_(most_bytes) {}

    // The next fragment. Empty, or what is wrong with it, in words that follow "fragment 3 of thread 77: ".
    [[nodiscard]] std::string add(const FragmentKey& key, const Fragment& fragment, FragmentPlace place);
    // Events that have ended since, complete or not, and those that gave way; in the order in which they did.
    [[nodiscard]] std::optional<JoinedEvent> next_ended();

    [[nodiscard]] bool knows(const FragmentKey& key) const { return open_.contains(key); }
    // Takes an event out, as it is by now.
    [[nodiscard]] std::optional<JoinedEvent> take(const FragmentKey& key);
    // Puts in one that another has begun.
    void put(const FragmentKey& key, JoinedEvent event);
    // Nothing more comes: those without an end have ended, by the time of their newest fragments.
    void end_all();
    [[nodiscard]] bool empty() const { return open_.empty(); }

private:
    struct Open {
        JoinedEvent event;
        std::list<FragmentKey>::iterator waiting;
    };
    using Map = std::unordered_map<FragmentKey, Open, FragmentKeyHash>;
    JoinedEvent remove(Map::iterator at);
    void give_way();

    std::uint64_t most_bytes_, bytes_ = 0;
    Map open_;
    std::list<FragmentKey> waiting_;  // in the order of their newest fragments
    std::list<JoinedEvent> ended_;
};

// Counts events by their fragments, which may come in any order. At most kMostOpen are remembered at a time.
class FragmentCounts {
public:
    static constexpr std::size_t kMostOpen = std::size_t{1} << 20U;

    // False if the event that it is of is not declared.
    [[nodiscard]] bool add(const StreamLayout& channel, const core::FragmentHead& head, std::int64_t ns);
    // Nothing more comes.
    void end_all();

    std::unordered_map<const EventLayout*, std::uint64_t> events;
    std::uint64_t incomplete = 0;             // of these
    std::optional<std::int64_t> first, last;  // ns
    std::uint64_t fragments = 0;

private:
    struct Open {
        const EventLayout* event = nullptr;
        std::uint64_t seen = 0;
        std::uint64_t of = 0;  // 0: not known yet
        std::int64_t newest = INT64_MIN;
    };
    void count(const Open& open);
    std::unordered_map<FragmentKey, Open, FragmentKeyHash> open_;
};

}  // namespace cloister::ctf
