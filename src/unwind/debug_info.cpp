#include "unwind/debug_info.hpp"

#include <algorithm>

#include <dwarf.h>

#include "unwind/demangle.hpp"

namespace cloister::unwind {
namespace {

// Bounds against malformed input; real programs stay far below.
constexpr int kMaxDepth = 48;
constexpr std::size_t kMaxDies = 20'000'000;
constexpr std::size_t kMaxUnits = 1'000'000;
constexpr int kMaxRanges = 100'000;
constexpr std::size_t kMaxInlined = 32;
constexpr int kLookBack = 16;  // ranges that may begin between an address and the start of the one it is in

template <class Visit>
void for_each_range(Dwarf_Die& die, Visit visit) {
    Dwarf_Addr base = 0;
    Dwarf_Addr start = 0;
    Dwarf_Addr end = 0;
    std::ptrdiff_t at = 0;
    for (int n = 0; n < kMaxRanges && (at = dwarf_ranges(&die, at, &base, &start, &end)) > 0; ++n) {
        // What the linker dropped is left at 0.
        if (start != 0 && start < end) visit(start, end);
    }
}

// The range that holds the address and begins last, or null.
template <class Ranges>
auto find(Ranges& ranges, std::uint64_t address) -> decltype(&ranges.front()) {
    auto after = std::partition_point(ranges.begin(), ranges.end(), [&](const auto& r) { return r.start <= address; });
    for (int i = 0; i < kLookBack && after != ranges.begin(); ++i) {
        --after;
        if (address < after->end) return &*after;
    }
    return nullptr;
}

std::string name_of(Dwarf_Die& die) {
    for (const unsigned kind : {unsigned{DW_AT_linkage_name}, unsigned{DW_AT_MIPS_linkage_name}}) {
        Dwarf_Attribute attribute;
        if (!dwarf_attr_integrate(&die, kind, &attribute)) continue;
        if (const char* name = dwarf_formstring(&attribute)) return display_name(name);
    }
    const char* name = dwarf_diename(&die);
    return name ? display_name(name) : std::string();
}

std::string base_name(const char* path) {
    const std::string_view view = path ? path : "";
    return std::string(view.substr(view.rfind('/') + 1));
}

std::uint64_t number(Dwarf_Die& die, unsigned kind) {
    Dwarf_Attribute attribute;
    Dwarf_Word value = 0;
    if (!dwarf_attr(&die, kind, &attribute) || dwarf_formudata(&attribute, &value) != 0) return 0;
    return value;
}

// Appends the functions inlined at the address, outermost first.
void collect_inlined(Dwarf_Die& parent, std::uint64_t address, std::vector<Dwarf_Die>& out, int depth) {
    Dwarf_Die child;
    if (depth == kMaxDepth || out.size() == kMaxInlined || dwarf_child(&parent, &child) != 0) return;
    do {
        const int tag = dwarf_tag(&child);
        const bool inlined = tag == DW_TAG_inlined_subroutine;
        if (!inlined && tag != DW_TAG_lexical_block && tag != DW_TAG_try_block && tag != DW_TAG_catch_block) continue;
        if (dwarf_haspc(&child, address) <= 0) continue;
        if (inlined) out.push_back(child);
        return collect_inlined(child, address, out, depth + 1);
    } while (dwarf_siblingof(&child, &child) == 0);
}

}  // namespace

DebugInfo::DebugInfo(Dwarf* dwarf) : dies_left_(kMaxDies) {
    Dwarf_CU* unit = nullptr;
    Dwarf_Die die;
    while (units_.size() < kMaxUnits && dwarf_get_units(dwarf, unit, &unit, nullptr, nullptr, &die, nullptr) == 0) {
        const int tag = dwarf_tag(&die);
        if (tag != DW_TAG_compile_unit && tag != DW_TAG_skeleton_unit) continue;
        for_each_range(die, [&](std::uint64_t start, std::uint64_t end) {
            ranges_.push_back({start, end, units_.size()});
        });
        units_.push_back({die, false, {}});
    }
    std::sort(ranges_.begin(), ranges_.end(), [](const Range& a, const Range& b) { return a.start < b.start; });
}

void DebugInfo::index(Unit& unit) {
    unit.indexed = true;
    index_below(unit.die, unit.functions, 0);
    std::stable_sort(unit.functions.begin(), unit.functions.end(),
                     [](const Function& a, const Function& b) { return a.start < b.start; });
}

void DebugInfo::index_below(Dwarf_Die& parent, std::vector<Function>& functions, int depth) {
    Dwarf_Die child;
    if (depth == kMaxDepth || dwarf_child(&parent, &child) != 0) return;
    do {
        if (dies_left_ == 0) return;
        --dies_left_;
        switch (dwarf_tag(&child)) {
            case DW_TAG_subprogram:
                for_each_range(child, [&](std::uint64_t start, std::uint64_t end) {
                    functions.push_back({start, end, child});
                });
                [[fallthrough]];
            case DW_TAG_namespace:
            case DW_TAG_module:
            case DW_TAG_class_type:
            case DW_TAG_structure_type:
            case DW_TAG_union_type:
            case DW_TAG_lexical_block:
                index_below(child, functions, depth + 1);
                break;
            default:
                break;
        }
    } while (dwarf_siblingof(&child, &child) == 0);
}

std::vector<SourcePlace> DebugInfo::at(std::uint64_t address) {
    const Range* range = find(ranges_, address);
    if (!range) return {};
    Unit& unit = units_[range->unit];
    if (!unit.indexed) index(unit);

    SourcePlace place;
    if (Dwarf_Line* line = dwarf_getsrc_die(&unit.die, address)) {
        if (dwarf_lineno(line, &place.line) != 0) place.line = 0;
        if (place.line != 0) place.file = base_name(dwarf_linesrc(line, nullptr, nullptr));
    }
    std::vector<SourcePlace> places;
    if (Function* function = find(unit.functions, address)) {
        std::vector<Dwarf_Die> inlined;
        collect_inlined(function->die, address, inlined, 0);
        Dwarf_Files* files = nullptr;
        std::size_t file_count = 0;
        if (dwarf_getsrcfiles(&unit.die, &files, &file_count) != 0) file_count = 0;
        for (auto die = inlined.rbegin(); die != inlined.rend(); ++die) {
            place.function = name_of(*die);
            places.push_back(std::move(place));
            // The next one out is where that one was called.
            const std::uint64_t file = number(*die, DW_AT_call_file);
            place = {};
            place.line = static_cast<int>(std::min<std::uint64_t>(number(*die, DW_AT_call_line), 1U << 30));
            if (place.line != 0 && file < file_count)
                place.file = base_name(dwarf_filesrc(files, file, nullptr, nullptr));
        }
        place.function = name_of(function->die);
    }
    places.push_back(std::move(place));
    return places;
}

}  // namespace cloister::unwind
