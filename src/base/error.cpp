#include "base/error.hpp"

namespace cloister {

std::string Error::text() const {
    std::string out = "cloister: " + what + "\n";
    const auto line = [&out](const char* label, const std::string& value) {
        if (!value.empty()) out += std::string("  ") + label + value + "\n";
    };
    line("needs  ", needs);
    line("found  ", found);
    line("set    ", set);
    return out;
}

}  // namespace cloister
