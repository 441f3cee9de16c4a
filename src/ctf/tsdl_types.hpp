// The part of TSDL that declares types: specifiers, declarators, typealias, typedef, and the scopes of their names.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "ctf/tsdl_token.hpp"
#include "ctf/type.hpp"

namespace cloister::ctf {

// The first error ends everything: from then on only the end of the text is seen, so that every loop ends, and types
// are a placeholder that nobody looks at.
class TypeParser {
public:
    explicit TypeParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

    [[nodiscard]] const TsdlError* error() const { return error_.why.empty() ? nullptr : &error_; }

protected:
    // What stands right of "=": clock.tsc.value, -5, "text", true.
    struct Value {
        std::size_t at = 0;
        enum class Kind { word, number, text } kind{};
        std::string text;  // words with dots between them
        std::uint64_t number = 0;
        bool negative = false;
    };

    // Tokens.
    [[nodiscard]] const Token& token(std::size_t ahead = 0) const;
    [[nodiscard]] bool at_end() const { return token().kind == Token::Kind::end; }
    [[nodiscard]] bool at_sign(std::string_view sign, std::size_t ahead = 0) const;
    [[nodiscard]] bool at_word(std::string_view word, std::size_t ahead = 0) const;
    void take() { at_ += at_end() ? 0 : 1; }
    bool take_sign(std::string_view sign);  // if it is there
    bool take_word(std::string_view word);
    void expect(std::string_view sign);
    std::string expect_word(std::string_view what);
    void wrong(std::size_t at, std::string why, std::string needs);

    // Parts that blocks need as well.
    std::string path();  // a.b.c
    Value value();
    std::int64_t signed_number();
    std::uint64_t number_of(const Value& value, std::string_view what);
    bool truth_of(const Value& value);
    ByteOrder order_of(const Value& value);

    // Types. A scope holds the names declared between a pair of braces.
    void enter() { scopes_.emplace_back(); }
    void leave() { scopes_.pop_back(); }
    TypeRef type();                  // a specifier
    TypeRef declared(TypeRef type);  // with the arrays that follow: [16][n]
    bool alias_statement();          // typealias, typedef
    bool type_statement();           // these, or a struct, variant or enum declared by its name
    [[nodiscard]] TypeRef placeholder() const;

private:
    TypeRef named_type();
    TypeRef integer();
    TypeRef floating_point();
    TypeRef string();
    TypeRef structure();
    TypeRef variant();
    TypeRef enumeration();
    std::vector<Member> members();
    void typealias();
    void type_definition();
    std::string alias_name();
    std::uint64_t alignment_of(const Value& value);
    [[nodiscard]] TypeRef find(const std::string& name) const;
    void declare(std::size_t at, const std::string& name, TypeRef type);
    TypeRef finished(std::size_t at, Type type);
    template <class Handle>
    void attributes(Handle handle);  // { name = value; ... }

    std::vector<Token> tokens_;
    std::size_t at_ = 0;
    unsigned nesting_ = 0;
    std::vector<std::map<std::string, TypeRef, std::less<>>> scopes_ =
        std::vector<std::map<std::string, TypeRef, std::less<>>>(1);
    TsdlError error_;
};

}  // namespace cloister::ctf
