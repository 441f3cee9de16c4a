#include "ctf/tsdl_token.hpp"

#include <algorithm>
#include <array>
#include <cctype>

#include <fmt/format.h>

namespace cloister::ctf {
namespace {

bool word_begin(char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_'; }
bool word_part(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

int digit_of(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return 99;
}

class Lexer {
public:
    explicit Lexer(std::string_view text) : text_(text) {}

    tl::expected<std::vector<Token>, TsdlError> run() {
        std::vector<Token> out;
        while (skip_space() && at_ < text_.size()) {
            Token token;
            token.at = at_;
            const char c = text_[at_];
            const bool fine = word_begin(c)                                      ? word(token)
                              : std::isdigit(static_cast<unsigned char>(c)) != 0 ? number(token)
                              : c == '"'                                         ? string(token)
                                                                                 : sign(token);
            if (!fine) break;
            token.spelled = text_.substr(token.at, at_ - token.at);
            out.push_back(std::move(token));
        }
        if (!error_.why.empty()) return tl::unexpected(error_);
        Token end;
        end.at = text_.size();
        out.push_back(end);
        return out;
    }

private:
    bool wrong(std::size_t at, std::string why, std::string needs) {
        error_ = {at, std::move(why), std::move(needs)};
        return false;
    }

    bool skip_space() {
        while (at_ < text_.size()) {
            const std::string_view rest = text_.substr(at_);
            if (std::isspace(static_cast<unsigned char>(rest.front())) != 0) {
                ++at_;
            } else if (rest.starts_with("//")) {
                at_ = std::min(text_.find('\n', at_), text_.size());
            } else if (rest.starts_with("/*")) {
                const auto end = text_.find("*/", at_ + 2);
                if (end == std::string_view::npos) return wrong(at_, "a comment without an end", "*/");
                at_ = end + 2;
            } else {
                break;
            }
        }
        return true;
    }

    bool word(Token& token) {
        token.kind = Token::Kind::word;
        while (at_ < text_.size() && word_part(text_[at_])) ++at_;
        return true;
    }

    bool number(Token& token) {
        token.kind = Token::Kind::number;
        std::uint64_t base = 10;
        if (text_.substr(at_).starts_with("0x") || text_.substr(at_).starts_with("0X")) {
            base = 16;
            at_ += 2;
        } else if (text_[at_] == '0') {
            base = 8;
        }
        const std::size_t digits = at_;
        for (; at_ < text_.size() && static_cast<unsigned>(digit_of(text_[at_])) < base; ++at_)
            if (__builtin_mul_overflow(token.number, base, &token.number) ||
                __builtin_add_overflow(token.number, static_cast<std::uint64_t>(digit_of(text_[at_])), &token.number))
                return wrong(token.at, "a number larger than 64 bits hold", "at most 18446744073709551615");
        if (at_ == digits) return wrong(token.at, "not a number", "digits");
        constexpr std::string_view kSuffixes = "uUlL";
        while (at_ < text_.size() && kSuffixes.find(text_[at_]) != std::string_view::npos) ++at_;
        if (at_ < text_.size() && word_part(text_[at_])) return wrong(token.at, "not a number", "digits");
        return true;
    }

    bool string(Token& token) {
        token.kind = Token::Kind::text;
        for (++at_; at_ < text_.size() && text_[at_] != '"'; ++at_) {
            if (text_[at_] == '\\')
                escape(token.text);
            else
                token.text += text_[at_];
        }
        if (at_ >= text_.size()) return wrong(token.at, "a string without an end", "\"");
        ++at_;
        return true;
    }

    // At the backslash; leaves at_ on the last character of the escape.
    void escape(std::string& out) {
        constexpr std::string_view kLetters = "abfnrtv", kMeanings = "\a\b\f\n\r\t\v";
        if (at_ + 1 >= text_.size()) return;
        const char c = text_[++at_];
        if (const auto letter = kLetters.find(c); letter != std::string_view::npos) {
            out += kMeanings[letter];
        } else if (c == 'x' || digit_of(c) < 8) {
            const int base = c == 'x' ? 16 : 8;
            const std::size_t last = std::min(text_.size() - 1, at_ + 2);
            int value = c == 'x' ? 0 : digit_of(c);
            while (at_ < last && digit_of(text_[at_ + 1]) < base) value = value * base + digit_of(text_[++at_]);
            out += static_cast<char>(value);
        } else {
            out += c;
        }
    }

    bool sign(Token& token) {
        constexpr std::array<std::string_view, 18> kSigns{"...", ":=", "->", "{", "}", "[", "]", "(", ")",
                                                          "<",   ">",  ";",  ":", "=", ",", ".", "-", "*"};
        token.kind = Token::Kind::sign;
        for (const auto sign : kSigns)
            if (text_.substr(at_).starts_with(sign)) {
                at_ += sign.size();
                return true;
            }
        const auto byte = static_cast<unsigned char>(text_[at_]);
        return wrong(at_,
                     byte > 0x20 && byte < 0x7f ? fmt::format("a stray '{}'", text_[at_])
                                                : fmt::format("a stray byte {:#04x}", byte),
                     "a word, a number, a string or one of { } [ ] ( ) < > ; : := = , . ... -");
    }

    std::string_view text_;
    std::size_t at_ = 0;
    TsdlError error_;
};

}  // namespace

tl::expected<std::vector<Token>, TsdlError> tokens_of(std::string_view text) { return Lexer(text).run(); }

}  // namespace cloister::ctf
