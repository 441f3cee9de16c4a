// One ELF file: its functions, its lines, its call frame information; all by address in the file, before relocation.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include <elfutils/libdw.h>
#include <libelf.h>

#include "unwind/call_frames.hpp"
#include "unwind/debug_info.hpp"
#include "unwind/mapped_file.hpp"

namespace cloister::unwind {

class ElfModule {
public:
    // Null when it is not an ELF program or library, or has sizes that no program has. Debug information that is not in
    // the file is looked for under debug_root/.build-id.
    [[nodiscard]] static std::unique_ptr<ElfModule> open(const MappedFile& file,
                                                         std::string debug_root = "/usr/lib/debug");

    // Where the byte of the file that was mapped ends up; empty when it is not loaded as code.
    [[nodiscard]] std::optional<std::uint64_t> address(std::uint64_t file_offset) const;
    [[nodiscard]] bool is_x86_64() const { return is_x86_64_; }
    // The linker's name for exactly this file (NT_GNU_BUILD_ID); empty without one.
    [[nodiscard]] std::vector<std::uint8_t> build_id() const;
    // The bytes before that one of the file; empty when there are not that many.
    static constexpr std::size_t kLongestCall = 7;
    [[nodiscard]] std::optional<std::array<unsigned char, kLongestCall>> bytes_before(std::uint64_t file_offset) const;

    // Null where there is none. Valid until the next call.
    [[nodiscard]] const FrameRow* row(std::uint64_t address);

    struct Names {
        std::vector<SourcePlace> places;     // innermost first, the last is not inlined; empty: nothing is known
        std::optional<std::uint64_t> start;  // of that last function
    };
    // A look-up when asked again. Valid until the next call.
    [[nodiscard]] const Names& names(std::uint64_t address);

private:
    struct Segment {
        std::uint64_t offset, address, size;  // bytes
    };
    struct Symbol {
        std::uint64_t address, size;
        const char* name;   // in an Elf; empty for a PLT entry, see plt
        std::uint32_t plt;  // index into plt_names_ + 1; 0: none
        std::uint8_t binding;
    };
    struct Section {  // executable, in memory from start to end
        std::uint64_t start, end, entry_size;
        std::string plt;  // its bytes, if it is a procedure linkage table
    };
    using ElfPtr = std::unique_ptr<Elf, int (*)(Elf*)>;
    using DwarfPtr = std::unique_ptr<Dwarf, int (*)(Dwarf*)>;
    using CfiPtr = std::unique_ptr<Dwarf_CFI, int (*)(Dwarf_CFI*)>;

    ElfModule() = default;
    bool read_segments();
    void read_sections();
    [[nodiscard]] const Section* section_at(std::uint64_t address) const;
    [[nodiscard]] bool at_plt_jump(std::uint64_t address) const;
    void open_debug_file();
    void load_names();
    bool read_symbols(Elf* elf, unsigned section_type);
    void read_plt();
    [[nodiscard]] const Symbol* symbol_at(std::uint64_t address) const;

    std::string debug_root_;
    // In the order in which they need each other.
    FileHandle handle_, debug_handle_;
    std::vector<char> image_;
    ElfPtr elf_{nullptr, &elf_end}, debug_elf_{nullptr, &elf_end};
    DwarfPtr dwarf_{nullptr, &dwarf_end};
    CfiPtr eh_{nullptr, &dwarf_cfi_end};
    std::unique_ptr<CallFrames> call_frames_;
    std::unique_ptr<DebugInfo> debug_info_;
    std::vector<Segment> segments_;  // executable ones
    std::vector<Section> sections_;
    std::vector<Symbol> symbols_;  // in order of address, the name to show first
    std::vector<std::string> plt_names_;
    std::unordered_map<std::uint64_t, Names> known_names_;
    bool is_x86_64_ = false;
    bool names_loaded_ = false;
    bool dwarf_opened_ = false;
};

}  // namespace cloister::unwind
