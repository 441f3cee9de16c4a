// TSDL as words, numbers, strings and punctuation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <tl/expected.hpp>

namespace cloister::ctf {

struct Token {
    enum class Kind { word, number, text, sign, end };
    Kind kind = Kind::end;
    std::size_t at = 0;        // in the text
    std::string_view spelled;  // as it stands there
    std::uint64_t number = 0;
    std::string text;  // a string's, escapes replaced
};

// What is wrong at one place of the text.
struct TsdlError {
    std::size_t at = 0;
    std::string why, needs;
};

// The last one is of kind end. The tokens point into the text.
[[nodiscard]] tl::expected<std::vector<Token>, TsdlError> tokens_of(std::string_view text);

}  // namespace cloister::ctf
