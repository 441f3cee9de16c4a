#include "unwind/elf_module.hpp"

#include <algorithm>
#include <cstring>
#include <string_view>

#include <elfutils/libdwelf.h>
#include <fmt/format.h>
#include <gelf.h>
#include <unistd.h>

#include "unwind/demangle.hpp"

namespace cloister::unwind {
namespace {

// Bounds against malformed files; the sizes that headers claim are what memory is taken for.
constexpr std::uint64_t kMaxSections = std::uint64_t{2} << 30;  // bytes of all of them together
constexpr std::uint64_t kMaxSizeless = 4096;                    // how far a function without a size may reach
constexpr std::size_t kMaxNames = 65536;                        // remembered addresses
constexpr int kLookBack = 16;                                   // symbols that may lie inside a larger one
constexpr std::uint64_t kPage = 4096;

template <class Visit>
void for_each_section(Elf* elf, Visit visit) {
    for (Elf_Scn* section = nullptr; (section = elf_nextscn(elf, section));) {
        GElf_Shdr header;
        if (gelf_getshdr(section, &header)) visit(section, header);
    }
}

bool sizes_are_sane(Elf* elf) {
    std::uint64_t total = 0;
    for_each_section(elf, [&](Elf_Scn* section, const GElf_Shdr& header) {
        std::uint64_t size = header.sh_type == SHT_NOBITS ? 0 : header.sh_size;
        GElf_Chdr compressed;
        if ((header.sh_flags & SHF_COMPRESSED) && gelf_getchdr(section, &compressed)) size += compressed.ch_size;
        total += std::min(size, kMaxSections);
    });
    return total < kMaxSections;
}

bool has_section(Elf* elf, std::string_view wanted) {
    std::size_t names = 0;
    if (elf_getshdrstrndx(elf, &names) != 0) return false;
    bool found = false;
    for_each_section(elf, [&](Elf_Scn*, const GElf_Shdr& header) {
        const char* name = elf_strptr(elf, names, header.sh_name);
        found = found || (header.sh_type != SHT_NOBITS && name && name == wanted);
    });
    return found;
}

bool has_debug_info(Elf* elf) { return has_section(elf, ".debug_info") || has_section(elf, ".zdebug_info"); }

std::uint8_t leading_underscores(const char* name) {
    return static_cast<std::uint8_t>(std::min<std::size_t>(std::strspn(name, "_"), 255));
}

}  // namespace

std::unique_ptr<ElfModule> ElfModule::open(const MappedFile& file, std::string debug_root) {
    elf_version(EV_CURRENT);
    std::unique_ptr<ElfModule> module(new ElfModule);
    module->debug_root_ = std::move(debug_root);
    if (!file.image().empty()) {
        module->image_ = file.image();
        module->elf_.reset(elf_memory(module->image_.data(), module->image_.size()));
    } else {
        module->handle_ = file.open();
        if (!module->handle_) return nullptr;
        // Read, not mapped: a file that is cut short while it is looked at must not kill us.
        module->elf_.reset(elf_begin(module->handle_.get(), ELF_C_READ, nullptr));
    }
    if (!module->elf_ || !module->read_segments() || !sizes_are_sane(module->elf_.get())) return nullptr;
    module->read_sections();
    return module;
}

bool ElfModule::read_segments() {
    GElf_Ehdr header;
    std::size_t count = 0;
    if (!gelf_getehdr(elf_.get(), &header) || elf_getphdrnum(elf_.get(), &count) != 0) return false;
    if (header.e_type != ET_EXEC && header.e_type != ET_DYN) return false;
    is_x86_64_ = header.e_machine == EM_X86_64 && header.e_ident[EI_CLASS] == ELFCLASS64;
    for (std::size_t i = 0; i < count; ++i) {
        GElf_Phdr segment;
        if (!gelf_getphdr(elf_.get(), static_cast<int>(i), &segment)) break;
        if (segment.p_type == PT_LOAD && (segment.p_flags & PF_X))
            segments_.push_back({segment.p_offset, segment.p_vaddr, segment.p_filesz});
    }
    return !segments_.empty();
}

void ElfModule::read_sections() {
    std::size_t names = 0;
    if (elf_getshdrstrndx(elf_.get(), &names) != 0) return;
    for_each_section(elf_.get(), [&](Elf_Scn* section, const GElf_Shdr& header) {
        if (!(header.sh_flags & SHF_EXECINSTR) || header.sh_type != SHT_PROGBITS) return;
        Section made{header.sh_addr, header.sh_addr + header.sh_size, header.sh_entsize, {}};
        const char* name = elf_strptr(elf_.get(), names, header.sh_name);
        const bool is_plt = name && std::string_view(name).starts_with(".plt");
        const Elf_Data* data = is_plt ? elf_rawdata(section, nullptr) : nullptr;
        if (data && data->d_buf) made.plt.assign(static_cast<const char*>(data->d_buf), data->d_size);
        sections_.push_back(std::move(made));
    });
}

const ElfModule::Section* ElfModule::section_at(std::uint64_t address) const {
    const auto at = std::find_if(sections_.begin(), sections_.end(),
                                 [&](const Section& s) { return s.start <= address && address < s.end; });
    return at == sections_.end() ? nullptr : &*at;
}

// Whether nothing has happened yet but the call: [endbr64;] [bnd] jmp *slot(%rip). Linkers describe these frames, but
// not in static programs.
bool ElfModule::at_plt_jump(std::uint64_t address) const {
    const Section* section = section_at(address);
    if (!section || address - section->start >= section->plt.size()) return false;
    std::string_view code = std::string_view(section->plt).substr(address - section->start);
    for (const std::string_view prefix : {"\xf3\x0f\x1e\xfa", "\xf2"}) {
        if (code.starts_with(prefix)) code.remove_prefix(prefix.size());
    }
    return code.starts_with("\xff\x25");
}

std::optional<std::uint64_t> ElfModule::address(std::uint64_t file_offset) const {
    for (const Segment& segment : segments_) {
        // Whole pages are mapped, so a little before the segment is code too.
        const std::uint64_t slack = segment.offset % kPage;
        const std::uint64_t at = file_offset - (segment.offset - slack);
        if (file_offset >= segment.offset - slack && at < segment.size + slack) return segment.address - slack + at;
    }
    return std::nullopt;
}

std::optional<std::array<unsigned char, ElfModule::kLongestCall>> ElfModule::bytes_before(
    std::uint64_t file_offset) const {
    std::array<unsigned char, kLongestCall> bytes;
    if (file_offset < bytes.size()) return std::nullopt;
    const std::uint64_t from = file_offset - bytes.size();
    if (!image_.empty()) {
        if (file_offset > image_.size()) return std::nullopt;
        std::memcpy(bytes.data(), image_.data() + from, bytes.size());
    } else if (::pread(handle_.get(), bytes.data(), bytes.size(), static_cast<off_t>(from)) != ssize_t{bytes.size()}) {
        return std::nullopt;
    }
    return bytes;
}

std::vector<std::uint8_t> ElfModule::build_id() const {
    const void* id = nullptr;
    const ssize_t size = dwelf_elf_gnu_build_id(elf_.get(), &id);
    if (size <= 0) return {};
    const auto* bytes = static_cast<const std::uint8_t*>(id);
    return {bytes, bytes + size};
}

// Only local files: nothing is ever asked of a debuginfod server.
void ElfModule::open_debug_file() {
    if (dwarf_opened_) return;
    dwarf_opened_ = true;
    const auto id = build_id();
    if (!has_debug_info(elf_.get()) && id.size() > 1) {
        std::string path = debug_root_ + "/.build-id/";
        for (const std::uint8_t& byte : id) path += fmt::format("{:02x}{}", byte, &byte == id.data() ? "/" : "");
        FileIdentity identity;
        debug_handle_ = open_regular(path + ".debug", identity);
        if (debug_handle_) debug_elf_.reset(elf_begin(debug_handle_.get(), ELF_C_READ, nullptr));
        if (debug_elf_ && !sizes_are_sane(debug_elf_.get())) debug_elf_.reset();
    }
    Elf* const source = debug_elf_ ? debug_elf_.get() : elf_.get();
    if (has_debug_info(source) || has_section(source, ".debug_frame"))
        dwarf_.reset(dwarf_begin_elf(source, DWARF_C_READ, nullptr));
}

const FrameRow* ElfModule::row(std::uint64_t address) {
    if (!is_x86_64_) return nullptr;
    if (!call_frames_) {
        open_debug_file();
        eh_.reset(dwarf_getcfi_elf(elf_.get()));
        call_frames_ = std::make_unique<CallFrames>(eh_.get(), dwarf_ ? dwarf_getcfi(dwarf_.get()) : nullptr);
    }
    if (const FrameRow* row = call_frames_->row(address)) return row;
    return at_plt_jump(address) ? &FrameRow::at_call() : nullptr;
}

bool ElfModule::read_symbols(Elf* elf, unsigned section_type) {
    const std::size_t before = symbols_.size();
    for_each_section(elf, [&](Elf_Scn* section, const GElf_Shdr& header) {
        if (header.sh_type != section_type || header.sh_entsize == 0) return;
        Elf_Data* data = elf_getdata(section, nullptr);
        const std::uint64_t count = data ? data->d_size / header.sh_entsize : 0;
        for (std::uint64_t i = 0; i < std::min<std::uint64_t>(count, 1U << 30); ++i) {
            GElf_Sym symbol;
            if (!gelf_getsym(data, static_cast<int>(i), &symbol)) break;
            const int type = GELF_ST_TYPE(symbol.st_info);
            if (symbol.st_shndx == SHN_UNDEF || symbol.st_shndx == SHN_ABS || symbol.st_value == 0) continue;
            if (type == STT_NOTYPE) {  // a function written in assembly, or a label
                GElf_Shdr where;
                Elf_Scn* const home = elf_getscn(elf, symbol.st_shndx);
                if (!home || !gelf_getshdr(home, &where) || !(where.sh_flags & SHF_EXECINSTR)) continue;
            } else if (type != STT_FUNC && type != STT_GNU_IFUNC) {
                continue;
            }
            const char* name = elf_strptr(elf, header.sh_link, symbol.st_name);
            if (!name || !*name || *name == '.' || *name == '$') continue;
            symbols_.push_back(
                {symbol.st_value, symbol.st_size, name, 0, static_cast<std::uint8_t>(GELF_ST_BIND(symbol.st_info))});
        }
    });
    return symbols_.size() > before;
}

// An entry of a procedure linkage table jumps through a slot, and a relocation names the slot's function.
void ElfModule::read_plt() {
    std::unordered_map<std::uint64_t, std::string> slots;
    for_each_section(elf_.get(), [&](Elf_Scn* section, const GElf_Shdr& header) {
        if (header.sh_type != SHT_RELA || header.sh_entsize == 0) return;
        GElf_Shdr symbols;
        Elf_Scn* const table = elf_getscn(elf_.get(), header.sh_link);
        if (!table || !gelf_getshdr(table, &symbols) || symbols.sh_type != SHT_DYNSYM) return;
        Elf_Data* data = elf_getdata(section, nullptr);
        Elf_Data* names = elf_getdata(table, nullptr);
        const std::uint64_t count = data && names ? data->d_size / header.sh_entsize : 0;
        for (std::uint64_t i = 0; i < std::min<std::uint64_t>(count, 1U << 30); ++i) {
            GElf_Rela relocation;
            GElf_Sym symbol;
            if (!gelf_getrela(data, static_cast<int>(i), &relocation)) break;
            const auto type = GELF_R_TYPE(relocation.r_info);
            if (type != R_X86_64_JUMP_SLOT && type != R_X86_64_GLOB_DAT) continue;
            if (!gelf_getsym(names, static_cast<int>(GELF_R_SYM(relocation.r_info)), &symbol)) continue;
            const char* name = elf_strptr(elf_.get(), symbols.sh_link, symbol.st_name);
            if (name && *name) slots.emplace(relocation.r_offset, display_name(name) + "@plt");
        }
    });
    for (const Section& section : sections_) {
        const std::uint64_t stride = section.entry_size == 8 ? 8 : 16;
        for (std::size_t at = 0; at + 6 <= section.plt.size(); ++at) {
            if (!std::string_view(section.plt).substr(at).starts_with("\xff\x25")) continue;  // jmp *slot(%rip)
            std::int32_t distance = 0;
            std::memcpy(&distance, section.plt.data() + at + 2, sizeof distance);
            const auto slot = slots.find(section.start + at + 6 + static_cast<std::uint64_t>(std::int64_t{distance}));
            if (slot == slots.end()) continue;
            plt_names_.push_back(slot->second);
            symbols_.push_back({section.start + at / stride * stride, stride, "",
                                static_cast<std::uint32_t>(plt_names_.size()), STB_LOCAL});
        }
    }
}

void ElfModule::load_names() {
    names_loaded_ = true;
    open_debug_file();
    if (dwarf_) debug_info_ = std::make_unique<DebugInfo>(dwarf_.get());
    if (!read_symbols(elf_.get(), SHT_SYMTAB) && !(debug_elf_ && read_symbols(debug_elf_.get(), SHT_SYMTAB)))
        read_symbols(elf_.get(), SHT_DYNSYM);
    if (is_x86_64_) read_plt();
    // Of several names of one function: the one that a program calls it by.
    std::sort(symbols_.begin(), symbols_.end(), [](const Symbol& a, const Symbol& b) {
        if (a.address != b.address) return a.address < b.address;
        if ((a.size == 0) != (b.size == 0)) return b.size == 0;
        const auto bare_a = leading_underscores(a.name);
        const auto bare_b = leading_underscores(b.name);
        if (bare_a != bare_b) return bare_a < bare_b;
        if ((a.binding == STB_LOCAL) != (b.binding == STB_LOCAL)) return b.binding == STB_LOCAL;
        const std::size_t size_a = std::strlen(a.name);
        const std::size_t size_b = std::strlen(b.name);
        return size_a != size_b ? size_a < size_b : std::strcmp(a.name, b.name) < 0;
    });
    const auto same = [](const Symbol& a, const Symbol& b) { return a.address == b.address; };
    symbols_.erase(std::unique(symbols_.begin(), symbols_.end(), same), symbols_.end());
}

const ElfModule::Symbol* ElfModule::symbol_at(std::uint64_t address) const {
    auto after = std::partition_point(symbols_.begin(), symbols_.end(),
                                      [&](const Symbol& symbol) { return symbol.address <= address; });
    const Section* const section = section_at(address);
    const Symbol* sizeless = nullptr;
    for (int i = 0; i < kLookBack && after != symbols_.begin(); ++i) {
        --after;
        const std::uint64_t distance = address - after->address;
        if (distance < after->size) return &*after;
        // One without a size reaches to the end of its section, where no other says that it is around.
        if (after->size == 0 && !sizeless && distance < kMaxSizeless && section_at(after->address) == section)
            sizeless = &*after;
    }
    return sizeless;
}

const ElfModule::Names& ElfModule::names(std::uint64_t address) {
    if (const auto known = known_names_.find(address); known != known_names_.end()) return known->second;
    if (!names_loaded_) load_names();
    if (known_names_.size() >= kMaxNames) known_names_.clear();
    Names& names = known_names_[address];
    if (debug_info_) names.places = debug_info_->at(address);
    if (const Symbol* symbol = symbol_at(address)) {
        if (names.places.empty()) names.places.emplace_back();
        names.places.back().function = symbol->plt != 0 ? plt_names_[symbol->plt - 1] : display_name(symbol->name);
        names.start = symbol->address;
    }
    return names;
}

}  // namespace cloister::unwind
