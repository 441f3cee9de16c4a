#include "system/files.hpp"

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>

namespace cloister::system {
namespace {

constexpr std::string_view kSpace = " \t\r\n";

// mountinfo writes space, tab, newline and backslash as three octal digits.
std::string unescape(std::string_view text) {
    const auto octal = [&](std::size_t i) { return i < text.size() && text[i] >= '0' && text[i] <= '7'; };
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '\\' && octal(i + 1) && octal(i + 2) && octal(i + 3)) {
            out += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
            i += 3;
        } else {
            out += text[i];
        }
    }
    return out;
}

}  // namespace

std::optional<std::string> read_file(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    if (!in) return std::nullopt;
    std::string out;
    std::array<char, 4096> block{};
    while (in.read(block.data(), block.size()) || in.gcount() > 0) out.append(block.data(), std::size_t(in.gcount()));
    if (in.bad()) return std::nullopt;
    return out;
}

std::string read_word(const std::string& path) {
    const auto text = read_file(path);
    return text ? std::string(trim(*text)) : std::string();
}

std::string_view trim(std::string_view text) {
    const auto first = text.find_first_not_of(kSpace);
    if (first == std::string_view::npos) return {};
    return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

std::vector<std::string_view> split_lines(std::string_view text) {
    std::vector<std::string_view> out;
    while (!text.empty()) {
        const auto end = std::min(text.find('\n'), text.size());
        out.push_back(text.substr(0, end));
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return out;
}

std::vector<std::string_view> split_words(std::string_view text) {
    std::vector<std::string_view> out;
    for (text = trim(text); !text.empty(); text = trim(text)) {
        const auto end = std::min(text.find_first_of(kSpace), text.size());
        out.push_back(text.substr(0, end));
        text.remove_prefix(end);
    }
    return out;
}

std::string_view value_of(std::string_view text, std::string_view key) {
    for (const auto line : split_lines(text)) {
        if (line.starts_with(key)) return trim(line.substr(key.size()));
    }
    return {};
}

std::vector<Mount> read_mounts(const std::string& root) {
    // 34 31 0:28 / /sys/fs/cgroup/cpuset rw,relatime shared:9 - cgroup cgroup rw,cpuset
    std::vector<Mount> out;
    const auto text = read_file(root + "/proc/self/mountinfo");
    for (const auto line : split_lines(text ? *text : std::string_view())) {
        const auto words = split_words(line);
        const auto dash = std::find(words.begin(), words.end(), "-");
        if (words.size() < 6 || std::distance(dash, words.end()) < 4) continue;
        out.push_back({unescape(words[3]), unescape(words[4]), std::string(dash[1]), std::string(dash[3])});
    }
    return out;
}

}  // namespace cloister::system
