// How far long work has come: one line on stderr that is drawn again, and only where that is a terminal.
#pragma once

#include <cstdint>
#include <string>

namespace cloister::cli {

class Progress {
public:
    Progress();
    ~Progress() { clear(); }
    Progress(const Progress&) = delete;
    Progress& operator=(const Progress&) = delete;

    // Whether it is time to show() again: five times a second, and never where nobody would see it.
    [[nodiscard]] bool due();
    void show(const std::string& text);
    // Takes the line away, before anything else is printed.
    void clear();

private:
    bool terminal_ = false, shown_ = false;
    std::uint64_t last_ns_ = 0;
};

// "1.5 GB": to two digits or more, for a person.
[[nodiscard]] std::string amount(std::uint64_t bytes);
// "37%" of `whole`, which is not 0.
[[nodiscard]] std::string share(std::uint64_t part, std::uint64_t whole);

}  // namespace cloister::cli
