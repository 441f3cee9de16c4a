#include "ctf/metadata.hpp"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "ctf/tsdl_parser.hpp"

namespace cloister::ctf {
namespace {

// {u32 magic, u8 uuid[16], u32 checksum, u32 content_size, u32 packet_size (bits), u8 compression, encryption,
// checksum scheme, major, minor}: CTF 1.8.3, 7.1.
constexpr std::uint32_t kMetadataMagic = 0x75D11D57;
constexpr std::size_t kMetadataHeader = 37;

std::uint32_t word_at(std::string_view file, std::size_t at, bool swap) {
    std::uint32_t value = 0;
    std::memcpy(&value, file.data() + at, sizeof value);
    return swap ? __builtin_bswap32(value) : value;
}

// The line around a place, and where in it that is. Long lines are cut, tabs become spaces: the caret has to stand.
std::string shown(std::string_view text, std::size_t at) {
    constexpr std::size_t kBefore = 60, kAfter = 40;
    at = std::min(at, text.size());
    const std::size_t newline = at == 0 ? std::string_view::npos : text.rfind('\n', at - 1);
    const std::size_t line = newline == std::string_view::npos ? 0 : newline + 1;
    const std::size_t begin = at - line > kBefore ? at - kBefore : line;
    const std::size_t end = std::min({text.find('\n', at), text.size(), at + kAfter});
    std::string out(text.substr(begin, end - begin));
    std::replace_if(
        out.begin(), out.end(), [](unsigned char c) { return c < 0x20 || c >= 0x7f; }, ' ');
    return fmt::format("{}\n{:>{}}", out, "^", 9 + (at - begin) + 1);  // Error::text() puts "  found  " before it
}

}  // namespace

Result<std::string> unpacked_metadata(std::string_view file, const std::string& name) {
    const bool here = file.size() >= kMetadataHeader && word_at(file, 0, false) == kMetadataMagic;
    const bool swapped = file.size() >= kMetadataHeader && word_at(file, 0, true) == kMetadataMagic;
    if (!here && !swapped) return std::string(file);
    std::string text;
    std::size_t at = 0;
    for (std::size_t packet = 0; at < file.size(); ++packet) {
        const auto wrong = [&](std::string needs, std::string found) {
            return fail(
                {fmt::format("{} cannot be read: packet {}", name, packet), std::move(needs), std::move(found), ""});
        };
        const std::string_view rest = file.substr(at);
        if (rest.size() < kMetadataHeader)
            return wrong(fmt::format("{} bytes of header", kMetadataHeader), fmt::format("{} bytes", rest.size()));
        if (word_at(rest, 0, swapped) != kMetadataMagic)
            return wrong("magic 0x75d11d57", fmt::format("{:#x}", word_at(rest, 0, swapped)));
        const std::uint64_t content = word_at(rest, 24, swapped), size = word_at(rest, 28, swapped);
        if (rest[32] != 0 || rest[33] != 0) return wrong("neither compression nor encryption", "one of them");
        if (size % 8 != 0 || content % 8 != 0 || content < kMetadataHeader * 8 || content > size ||
            size / 8 > rest.size())
            return wrong(
                fmt::format("{} <= content_size <= packet_size <= {}, in bits", kMetadataHeader * 8, rest.size() * 8),
                fmt::format("content_size {}, packet_size {}", content, size));
        text += rest.substr(kMetadataHeader, content / 8 - kMetadataHeader);
        at += size / 8;
    }
    return text;
}

Result<Metadata> parse_metadata(std::string_view text, const std::string& name) {
    auto parsed = parse_tsdl(text);
    if (parsed) return std::move(*parsed);
    const TsdlError& error = parsed.error();
    const auto before = text.substr(0, std::min(error.at, text.size()));
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    return fail({fmt::format("{}:{}: {}", name, line, error.why), error.needs, shown(text, error.at),
                 "the metadata must be CTF 1.8 (TSDL)"});
}

}  // namespace cloister::ctf
