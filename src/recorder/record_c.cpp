// The recording for programs in C: options with a size, and errors as text.
#include <algorithm>
#include <cstring>
#include <span>
#include <string>

#include <fmt/format.h>

#include "base/error.hpp"
#include "cloister/record.h"
#include "cloister/record.hpp"

namespace {

namespace record = cloister::record;

int in_c(const record::Outcome& outcome, char* error, std::size_t size) {
    if (size > 0) {
        const std::size_t length = std::min(outcome.error.size(), size - 1);
        std::memcpy(error, outcome.error.data(), length);
        error[length] = 0;
    }
    return outcome ? 0 : -1;
}

record::Channel channel_of(const cloister_record_channel& from) {
    record::Channel out;
    if (from.name) out.name = from.name;
    if (from.sub_buffers) out.sub_buffers = from.sub_buffers;
    if (from.sub_buffer_bytes) out.sub_buffer_bytes = from.sub_buffer_bytes;
    out.discard = from.discard != 0;
    if (from.events) out.events.clear();
    for (const auto& events : std::span(from.events, from.events ? from.event_count : 0)) {
        record::Events one;
        if (events.glob) one.glob = events.glob;
        if (events.level) one.level = *events.level;
        if (events.filter) one.filter = events.filter;
        out.events.push_back(std::move(one));
    }
    return out;
}

}  // namespace

extern "C" int cloister_record_start(const cloister_record_options* options, char* error, std::size_t size) {
    // Members that the caller's header did not have are zero, the default; those that this one does not have must be.
    cloister_record_options known{};
    if (options) {
        const auto* bytes = reinterpret_cast<const char*>(options);
        const bool newer = options->size > sizeof known && std::any_of(bytes + sizeof known, bytes + options->size,
                                                                       [](char byte) { return byte != 0; });
        if (options->size < sizeof options->size || newer)
            return in_c({cloister::Error{
                            .what = "cannot start to record with these options",
                            .needs = fmt::format("their size in `size`, and no member beyond {} bytes", sizeof known),
                            .found = fmt::format("size {}", options->size),
                            .set = "options.size = sizeof options"}
                             .text()},
                        error, size);
        std::memcpy(&known, options, std::min(options->size, sizeof known));
    }
    record::Options out;
    if (known.path) out.path = known.path;
    out.huge_pages = known.huge_pages != 0;
    for (const auto& channel : std::span(known.channels, known.channels ? known.channel_count : 0))
        out.channels.push_back(channel_of(channel));
    return in_c(record::start(out), error, size);
}

extern "C" int cloister_record_prepare(int cpu, char* error, std::size_t size) {
    return in_c(record::prepare(cpu), error, size);
}

extern "C" int cloister_record_refresh(char* error, std::size_t size) { return in_c(record::refresh(), error, size); }

extern "C" int cloister_record_snapshot(const char* directory, const char* const* channels, std::size_t count,
                                        char* error, std::size_t size) {
    return in_c(record::snapshot(directory, {channels, channels + count}), error, size);
}

extern "C" void cloister_record_stop() { record::stop(); }

namespace {

cloister_record_lost in_c(const record::Losses& losses) { return {losses.refused, losses.dropped, losses.unknown}; }

}  // namespace

extern "C" cloister_record_lost cloister_record_losses() { return in_c(record::losses()); }

extern "C" cloister_record_lost cloister_record_channel_losses(std::size_t channel) {
    return in_c(record::losses(channel));
}
