// A trace in memory: metadata and one stream, each in a block of exactly its size, so that a read beyond it is seen.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ctf/cursor.hpp"
#include "ctf/fragments.hpp"
#include "ctf/query.hpp"
#include "ctf/show.hpp"

namespace cloister::ctf {

struct Seen {
    std::vector<std::string> lines;   // of events, "cycles name fields", and losses
    std::vector<std::string> joined;  // events that were put together
    std::string error;
    std::uint64_t events = 0;
};

inline Result<std::shared_ptr<const TraceLayout>> layout_of(std::string_view metadata) {
    const auto text = unpacked_metadata(metadata, "metadata");
    if (!text) return fail(text.error());
    auto parsed = parse_metadata(*text, "metadata");
    if (!parsed) return fail(parsed.error());
    return TraceLayout::compile(std::move(*parsed), "metadata");
}

// Every event with its fields, as text and as JSON; then once more counted, and once more from every moment there was.
inline Seen read_all(const std::shared_ptr<const TraceLayout>& layout, std::span<const std::uint8_t> bytes) {
    const auto exact = std::make_unique<std::uint8_t[]>(bytes.size());
    std::memcpy(exact.get(), bytes.data(), bytes.size());
    const StreamFile stream("book_0", layout, {exact.get(), bytes.size()});
    Seen seen;
    std::vector<std::uint64_t> times;
    std::vector<Value> values;
    Cursor cursor(stream);
    Joiner joiner(std::uint64_t{1} << 20U);
    bool rejected = false;  // for reasons that lie between the fragments, which counting does not ask for
    const auto show = [&](std::uint64_t cycles, const JoinedEvent& joined) {
        std::string line = std::to_string(cycles) + " joined " + joined.event->name + " ", json;
        std::size_t of_contexts = 0;
        line += joined.fields(values, of_contexts);
        append_text(line, values);
        append_json(json, values);
        if (!joined.complete()) append_text(line += " ", joined);
        seen.joined.push_back(line);
    };
    Cursor::Step step = Cursor::Step::end;
    while (step = cursor.next(), step == Cursor::Step::event || step == Cursor::Step::loss) {
        if (step == Cursor::Step::loss) {
            seen.lines.push_back("lost " + std::to_string(cursor.loss().events) + " " +
                                 std::to_string(cursor.loss().packets));
            continue;
        }
        ++seen.events;
        times.push_back(cursor.cycles());
        if (cursor.event().fragment) {
            Fragment fragment;
            FragmentPlace place{&stream, cursor.packet(), cursor.cycles(), 0, {}};
            if (!cursor.fragment(fragment, &place.context)) continue;
            const FragmentKey key{cursor.packet().stream, fragment.head.thread, fragment.head.instance};
            const std::string wrong = joiner.add(key, fragment, std::move(place));
            while (const auto joined = joiner.next_ended()) show(cursor.cycles(), *joined);
            rejected = !wrong.empty();
            if (rejected) cursor.reject(wrong, "fragments that fit together");
            seen.lines.push_back("a fragment");
            continue;
        }
        std::string line = std::to_string(cursor.cycles()) + " " + cursor.event().name + " ", json;
        if (!cursor.fields(values)) continue;
        append_text(line, values);
        append_json(json, values);
        seen.lines.push_back(line);
    }
    if (step == Cursor::Step::broken) seen.error = cursor.error().text();
    if (step == Cursor::Step::broken && cursor.next() != Cursor::Step::broken) seen.error = "it went on";

    joiner.end_all();
    while (const auto joined = joiner.next_ended()) show(0, *joined);

    Cursor counting(stream);
    Counts counts;
    FragmentCounts fragments;
    const bool whole = counting.count(counts, fragments);
    fragments.end_all();
    std::uint64_t sum = 0;
    for (const auto count : counts.events) sum += count;
    // An event whose fields are broken has been seen, and is not counted.
    if (!rejected && (sum != seen.lines.size() - static_cast<std::size_t>(std::count_if(
                                                     seen.lines.begin(), seen.lines.end(),
                                                     [](const auto& line) { return line.starts_with("lost "); })) ||
                      whole != seen.error.empty() || (!whole && counting.error().text() != seen.error)))
        seen.error += "\nthe count is another: " + std::to_string(sum);
    for (std::size_t i = 0; i < times.size(); i += 1 + times.size() / 8) {
        Cursor later(stream);
        later.seek(times[i]);
        while (step = later.next(), step == Cursor::Step::event || step == Cursor::Step::loss) continue;
    }
    return seen;
}

}  // namespace cloister::ctf
