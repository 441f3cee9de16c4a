#include "cli/progress.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string_view>

#include "system/clock.hpp"

namespace cloister::cli {
namespace {

constexpr std::uint64_t kInterval = 200'000'000;  // ns

}  // namespace

Progress::Progress() {
    const char* const kind = std::getenv("TERM");
    terminal_ = isatty(STDERR_FILENO) == 1 && kind && std::string_view(kind) != "dumb";
    last_ns_ = system::clock_ns(CLOCK_MONOTONIC);  // what is over sooner needs no progress
}

bool Progress::due() { return terminal_ && system::clock_ns(CLOCK_MONOTONIC) - last_ns_ >= kInterval; }

void Progress::show(const std::string& text) {
    if (!terminal_) return;
    last_ns_ = system::clock_ns(CLOCK_MONOTONIC);
    // A line that is wrapped could not be taken away again.
    winsize size{};
    const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1;
    const std::size_t room = known ? size.ws_col - std::size_t{1} : 79;
    std::fprintf(stderr, "\r%s\033[K", text.substr(0, room).c_str());
    std::fflush(stderr);
    shown_ = true;
}

void Progress::clear() {
    if (!shown_) return;
    std::fputs("\r\033[K", stderr);
    std::fflush(stderr);
    shown_ = false;
}

std::string amount(std::uint64_t bytes) {
    constexpr std::array kUnits{"bytes", "KB", "MB", "GB", "TB"};
    if (bytes < 1000) return fmt::format("{} bytes", bytes);
    auto value = static_cast<double>(bytes);
    std::size_t unit = 0;
    for (; value >= 1000 && unit + 1 < kUnits.size(); ++unit) value /= 1000;
    return value < 10 ? fmt::format("{:.1f} {}", value, kUnits[unit]) : fmt::format("{:.0f} {}", value, kUnits[unit]);
}

std::string share(std::uint64_t part, std::uint64_t whole) {
    return fmt::format("{:.0f}%", 100 * static_cast<double>(std::min(part, whole)) / static_cast<double>(whole));
}

}  // namespace cloister::cli
