#include "unwind/kallsyms.hpp"

#include <algorithm>
#include <charconv>
#include <fstream>

namespace cloister::unwind {
namespace {

// No function is longer: beyond it is a gap between modules.
constexpr std::uint64_t kMaxFunction = 1 << 20;

bool is_code(char type) { return type == 't' || type == 'T' || type == 'w' || type == 'W'; }

// Of several names of one address: a global one, then the first in the table.
int rank(char type) { return type == 'T' ? 0 : type == 't' ? 1 : 2; }

std::string_view take_word(std::string_view& rest) {
    const std::size_t end = std::min(rest.find_first_of(" \t"), rest.size());
    const std::string_view word = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    return word;
}

}  // namespace

Kallsyms Kallsyms::parse(std::string_view text) {
    struct Candidate {
        std::uint64_t address;
        std::string_view name, module;
        int rank;
    };
    std::vector<Candidate> candidates;
    bool shown = false;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        std::uint64_t address = 0;
        const std::string_view digits = take_word(line);
        const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), address, 16);
        const std::string_view type = take_word(line);
        if (error != std::errc{} || stop != digits.data() + digits.size() || type.size() != 1) continue;
        const std::string_view name = take_word(line);
        if (name.empty() || !is_code(type[0])) continue;
        shown = shown || address != 0;
        candidates.push_back({address, name, take_word(line), rank(type[0])});
    }
    Kallsyms table;
    if (!shown) return table;
    std::stable_sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
        return a.address != b.address ? a.address < b.address : a.rank < b.rank;
    });
    table.entries_.reserve(candidates.size());
    for (const Candidate& c : candidates) {
        if (!table.entries_.empty() && table.entries_.back().address == c.address) continue;
        table.entries_.push_back({c.address, static_cast<std::uint32_t>(table.names_.size()),
                                  static_cast<std::uint32_t>(c.name.size()),
                                  static_cast<std::uint32_t>(c.module.size())});
        table.names_.append(c.name).append(c.module);
    }
    return table;
}

Kallsyms Kallsyms::read(const std::string& path) {
    constexpr std::size_t kPiece = 1 << 20;  // files in /proc do not say how large they are
    std::ifstream file(path, std::ios::binary);
    std::string text;
    std::size_t size = 0;
    do {
        text.resize(size + kPiece);
        file.read(text.data() + size, kPiece);
        size += static_cast<std::size_t>(file.gcount());
    } while (file);
    return parse(std::string_view(text).substr(0, size));
}

Kallsyms::Function Kallsyms::find(std::uint64_t address) const {
    const auto after = std::upper_bound(entries_.begin(), entries_.end(), address,
                                        [](std::uint64_t value, const Entry& entry) { return value < entry.address; });
    if (after == entries_.begin()) return {};
    const Entry& entry = *(after - 1);
    const std::string_view names = names_;
    const std::string_view name = names.substr(entry.name, entry.name_size);
    // _etext and the like are the ends of code, not functions.
    if (address - entry.address >= kMaxFunction || name == "_etext" || name == "_einittext") return {};
    return {name, names.substr(entry.name + entry.name_size, entry.module_size), entry.address};
}

}  // namespace cloister::unwind
