// What a person and a program see: the header, the log, the table, the balance sheet; text and JSON from the same data.
#pragma once

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "breach/breach.hpp"
#include "breach/budget.hpp"
#include "unwind/symbols.hpp"

namespace cloister::breach {

// Symbolized stack frames on demand; tests give their own.
struct Resolver {
    virtual ~Resolver() = default;
    [[nodiscard]] virtual std::vector<unwind::Frame> user(const cl_stack&) const = 0;
    [[nodiscard]] virtual std::vector<unwind::Frame> kernel(const cl_stack&) const = 0;
    [[nodiscard]] virtual std::vector<unwind::Frame> user_pc(std::uint32_t tgid, std::uint64_t pc) const = 0;
};

struct TextStyle {
    bool colour = false;  // on a tty, without NO_COLOR and TERM=dumb
    int width = 100;      // columns; rows are cut for a person's eye only on a tty
};
[[nodiscard]] TextStyle style_for(std::FILE* out);

[[nodiscard]] std::string text_header(const Header&, const TextStyle&);
// One breach as --log prints it, with its children, stack, sender and remedy; t relative to the header's begin.
[[nodiscard]] std::string text_breach(const Header&, const Breach&, const Resolver&, const TextStyle&);
// The table, the threads, the notices, the balance sheet.
[[nodiscard]] std::string text_summary(const Summary&, const Resolver&, const TextStyle&, bool all_rows);
[[nodiscard]] std::string text_violations(const Summary&, const std::vector<Budget::Violation>&, const TextStyle&);

// One JSON object a line, without the newline; docs/json.md has the schema.
[[nodiscard]] std::string json_header(const Header&);
[[nodiscard]] std::string json_breach(const Header&, const Breach&, const Resolver&);
[[nodiscard]] std::vector<std::string> json_summary(const Summary&, const Resolver&,
                                                    const std::vector<Budget::Violation>&);

}  // namespace cloister::breach
