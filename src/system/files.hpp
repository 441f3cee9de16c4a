// Small files of /proc and /sys.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace cloister::system {

// The whole file, or nothing if it cannot be read. Sizes that stat(2) reports are not trusted: /proc says 0.
[[nodiscard]] std::optional<std::string> read_file(const std::string& path);
// The same without white space at its ends; "" if it cannot be read.
[[nodiscard]] std::string read_word(const std::string& path);

[[nodiscard]] std::string_view trim(std::string_view text);
[[nodiscard]] std::vector<std::string_view> split_lines(std::string_view text);
[[nodiscard]] std::vector<std::string_view> split_words(std::string_view text);
// What follows "KEY" in the line that begins with it ("Cpus_allowed_list:"), trimmed; "" if there is none.
[[nodiscard]] std::string_view value_of(std::string_view text, std::string_view key);

struct Mount {
    std::string root, point, type, options;  // of /proc/self/mountinfo; options: those of the file system
};
[[nodiscard]] std::vector<Mount> read_mounts(const std::string& root);

}  // namespace cloister::system
