#include "recorder/modules.hpp"

#include <elf.h>
#include <link.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <span>

namespace cloister::recorder {
namespace {

constexpr std::uint64_t kPage = core::kPage;

struct Raw {
    std::string name;
    std::uint64_t base;
    std::vector<ElfW(Phdr)> segments;
    std::vector<std::uint8_t> build_id;
};

// The GNU build id among the notes that are in memory: name "GNU", type NT_GNU_BUILD_ID.
std::vector<std::uint8_t> build_id_of(const dl_phdr_info& info) {
    for (const ElfW(Phdr) & segment : std::span(info.dlpi_phdr, info.dlpi_phnum)) {
        if (segment.p_type != PT_NOTE) continue;
        const std::uint64_t align = segment.p_align == 8 ? 8 : 4;
        const auto padded = [align](std::uint64_t size) { return (size + align - 1) / align * align; };
        const auto* at = reinterpret_cast<const std::uint8_t*>(info.dlpi_addr + segment.p_vaddr);
        for (const auto* end = at + segment.p_memsz; end - at >= static_cast<std::ptrdiff_t>(sizeof(ElfW(Nhdr)));) {
            ElfW(Nhdr) note;
            std::memcpy(&note, at, sizeof note);
            const std::uint8_t* const name = at + sizeof note;
            const std::uint64_t size = padded(sizeof note + note.n_namesz) + padded(note.n_descsz);
            if (size > static_cast<std::uint64_t>(end - at)) break;
            if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && std::memcmp(name, "GNU", 4) == 0) {
                const std::uint8_t* const id = at + padded(sizeof note + note.n_namesz);
                return {id, id + note.n_descsz};
            }
            at += size;
        }
    }
    return {};
}

std::string path_of(const std::string& name, bool is_program) {
    std::error_code error;
    if (is_program) return std::filesystem::read_symlink("/proc/self/exe", error).string();
    if (name.find('/') == std::string::npos) return "[vdso]";  // linux-vdso.so.1 has no file
    const auto path = std::filesystem::canonical(name, error);
    return error ? name : path.string();
}

template <class T>
void append(std::string& out, T value) {
    out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

}  // namespace

std::vector<Module> loaded_modules() {
    std::vector<Raw> all;
    // The loader's lock is held in there: only what has to be copied is.
    dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* to) {
            static_cast<std::vector<Raw>*>(to)->push_back({info->dlpi_name ? info->dlpi_name : "",
                                                           info->dlpi_addr,
                                                           {info->dlpi_phdr, info->dlpi_phdr + info->dlpi_phnum},
                                                           build_id_of(*info)});
            return 0;
        },
        &all);
    std::vector<Module> out;
    for (const Raw& raw : all) {
        const std::string path = path_of(raw.name, &raw == all.data());
        for (const ElfW(Phdr) & segment : raw.segments) {
            if (segment.p_type != PT_LOAD || (segment.p_flags & PF_X) == 0) continue;
            const std::uint64_t slack = segment.p_vaddr % kPage;
            const std::uint64_t bytes = (segment.p_memsz + slack + kPage - 1) / kPage * kPage;
            out.push_back({raw.base + segment.p_vaddr - slack, bytes, segment.p_offset - slack, path, raw.build_id});
        }
    }
    return out;
}

Result<void> ModuleLog::note(Segment& segment) {
    std::uint64_t loaded = 0;
    dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* to) {
            *static_cast<std::uint64_t*>(to) = info->dlpi_adds;
            return 1;  // of all modules, so the first one will do
        },
        &loaded);
    if (loaded == loaded_) return {};
    loaded_ = loaded;
    Result<void> all;
    for (const Module& module : loaded_modules()) {
        if (std::ranges::find(noted_, module) != noted_.end()) continue;
        std::string record;
        append(record, __builtin_ia32_rdtsc());
        append(record, module.start);
        append(record, module.bytes);
        append(record, module.offset);
        record += module.path;
        record += '\0';
        append(record, static_cast<std::uint32_t>(module.build_id.size()));
        record.append(module.build_id.begin(), module.build_id.end());
        if (auto ok = segment.append_module(record); !ok) {
            all = ok;
            continue;
        }
        std::erase_if(noted_, [&](const Module& old) {
            return old.start < module.start + module.bytes && module.start < old.start + old.bytes;
        });
        noted_.push_back(module);
    }
    return all;
}

ctf::EventClass module_class() {
    ctf::EventClass out{.name = "cloister:module", .id = 0, .stream_id = kModulesStreamId, .fields = {}};
    out.fields = {ctf::Field::of_pointer("start"), ctf::Field::of_integer("bytes", {.bits = 64}),
                  ctf::Field::of_integer("offset", {.bits = 64}), ctf::Field::of_string("path"),
                  ctf::Field::of_integer("build_id", {.bits = 8, .base = 16}).sequence()};
    return out;
}

bool encode_module(std::string_view record, std::uint64_t not_before, ctf::Encoder& encoder) {
    std::uint64_t tsc = 0;
    // What a hostile peer has put there must not spoil the stream: exactly these fields.
    constexpr std::size_t kFixed = 3 * sizeof(std::uint64_t);
    if (record.size() < sizeof tsc + kFixed) return false;
    std::memcpy(&tsc, record.data(), sizeof tsc);
    const std::string_view fields = record.substr(sizeof tsc);
    const std::size_t end = fields.find('\0', kFixed);
    std::uint32_t build_id = 0;
    if (end == std::string_view::npos || fields.size() - end - 1 < sizeof build_id) return false;
    std::memcpy(&build_id, fields.data() + end + 1, sizeof build_id);
    if (fields.size() - end - 1 - sizeof build_id != build_id) return false;
    encoder.event(0, std::max({tsc, not_before, encoder.last()}));
    encoder.put_array(std::span(fields.data(), fields.size()));
    return true;
}

}  // namespace cloister::recorder
