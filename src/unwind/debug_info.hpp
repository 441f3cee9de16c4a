// What a program's DWARF says of an address: the line, and the functions that were inlined there.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <elfutils/libdw.h>

namespace cloister::unwind {

struct SourcePlace {
    std::string function;  // for display; empty when not known
    std::string file;      // base name; empty when not known
    int line = 0;
};

class DebugInfo {
public:
    explicit DebugInfo(Dwarf* dwarf);  // not owned
    // Innermost first; all but the last are inlined in the next. Empty when the address is not described.
    [[nodiscard]] std::vector<SourcePlace> at(std::uint64_t address);

private:
    struct Range {
        std::uint64_t start, end;
        std::size_t unit;
    };
    struct Function {
        std::uint64_t start, end;
        Dwarf_Die die;
    };
    struct Unit {
        Dwarf_Die die;
        bool indexed = false;
        std::vector<Function> functions;  // in order of start
    };
    void index(Unit& unit);
    void index_below(Dwarf_Die& die, std::vector<Function>& functions, int depth);

    std::vector<Unit> units_;
    std::vector<Range> ranges_;  // in order of start
    std::size_t dies_left_;
};

}  // namespace cloister::unwind
