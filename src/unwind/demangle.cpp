#include "unwind/demangle.hpp"

#include <array>
#include <cctype>
#include <cstdlib>
#include <memory>

#include <cxxabi.h>

namespace cloister::unwind {
namespace {

constexpr std::string_view kOperator = "operator";
constexpr std::string_view kAnonymous = "(anonymous namespace)::";

bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$'; }

bool is_operator_at(std::string_view text, std::size_t at) {
    return text.substr(at).starts_with(kOperator) && (at == 0 || !is_word(text[at - 1])) &&
           (at + kOperator.size() == text.size() || !is_word(text[at + kOperator.size()]));
}

// Deeper than any name that a compiler makes from real code; the rest of a deeper one is left as it is.
constexpr int kMaxDepth = 200;
constexpr std::size_t kMaxName = 8192;

std::size_t skip_group(std::string_view text, std::size_t at, int depth = 0);

// Past "operator" and its symbol; for a conversion, past the type. `at` is at "operator".
std::size_t skip_operator(std::string_view text, std::size_t at, int depth = 0) {
    static constexpr std::array<std::string_view, 40> kSymbols = {
        "()", "[]", "<=>", "<<=", ">>=", "->*", "<<", ">>", "<=", ">=", "->", "==",  "!=", "&&",
        "||", "++", "--",  "+=",  "-=",  "*=",  "/=", "%=", "^=", "&=", "|=", "<",   ">",  "+",
        "-",  "*",  "/",   "%",   "^",   "&",   "|",  "~",  "!",  "=",  ",",  "\"\""};
    at += kOperator.size();
    for (const std::string_view symbol : kSymbols) {
        if (!text.substr(at).starts_with(symbol)) continue;
        at += symbol.size();
        // "operator<< <char>": the demangler's space keeps the two apart. operator"" _km: a name follows.
        if (symbol == "\"\"" && at < text.size()) ++at;
        if (text.substr(at).starts_with(" <")) ++at;
        return at;
    }
    // new, delete, co_await or a type: it ends where the parameters or the template arguments of a template begin.
    while (at < text.size() && text[at] != '(') at = text[at] == '<' ? skip_group(text, at, depth) : at + 1;
    return at;
}

// Past the bracket that closes the one at `at`.
std::size_t skip_group(std::string_view text, std::size_t at, int depth) {
    if (depth == kMaxDepth) return text.size();
    const char open = text[at];
    const char close = open == '(' ? ')' : open == '<' ? '>' : open == '{' ? '}' : ']';
    ++at;
    while (at < text.size()) {
        const char c = text[at];
        if (c == close) return at + 1;
        if (is_operator_at(text, at)) {
            at = skip_operator(text, at, depth + 1);
        } else if (c == '(' || c == '<' || c == '{' || c == '[') {
            at = skip_group(text, at, depth + 1);
        } else if (c == '-' && at + 1 < text.size() && text[at + 1] == '>') {
            at += 2;
        } else {
            ++at;
        }
    }
    return at;
}

// Whether the parameters that ended at `at` belong to a function around the one named: "f(int) const::{lambda()#1}".
bool goes_on(std::string_view text, std::size_t at) {
    for (const std::string_view qualifier : {" const", " volatile", " &&", " &"}) {
        if (text.substr(at).starts_with(qualifier)) at += qualifier.size();
    }
    return text.substr(at).starts_with("::");
}

}  // namespace

std::string strip_signature(std::string_view text) {
    std::size_t name = 0;
    std::size_t at = 0;
    while (at < text.size()) {
        const char c = text[at];
        if (is_operator_at(text, at)) {
            at = skip_operator(text, at);
        } else if (c == '(') {
            const std::size_t end = skip_group(text, at);
            const bool of_name = text.substr(at).starts_with(kAnonymous) || goes_on(text, end);
            // With nothing before it, it is part of the return type: "decltype (x) f<int>()".
            if (!of_name && at > name) return std::string(text.substr(name, at - name));
            at = end;
        } else if (c == '<' || c == '{' || c == '[') {
            at = skip_group(text, at);
        } else if (c == ' ') {
            // What stands before is the return type, unless it is the const of a function around it.
            if (!goes_on(text, at)) name = at + 1;
            ++at;
        } else {
            ++at;
        }
    }
    return std::string(text);
}

std::string display_name(const char* symbol) {
    const std::string_view full = std::string_view(symbol).substr(0, kMaxName);
    const std::string raw(full.substr(0, full.find('@', 1)));  // a symbol's version
    if (raw.starts_with("_Z")) {
        int status = 0;
        const std::unique_ptr<char, decltype(&std::free)> demangled(
            abi::__cxa_demangle(raw.c_str(), nullptr, nullptr, &status), &std::free);
        if (status == 0 && demangled) {
            std::string name = strip_signature(demangled.get());
            for (std::size_t at = 0; (at = name.find(kAnonymous, at)) != std::string::npos;)
                name.erase(at, kAnonymous.size());
            return name;
        }
    }
    for (const std::string_view suffix : {".part.", ".isra.", ".constprop.", ".cold", ".lto_priv."}) {
        const std::size_t at = raw.find(suffix);
        if (at != std::string::npos && at > 0) return raw.substr(0, at);
    }
    return raw;
}

}  // namespace cloister::unwind
