#include "unwind/symbols.hpp"

#include <algorithm>
#include <span>
#include <unordered_map>

#include <fmt/format.h>

#include "unwind/elf_module.hpp"
#include "unwind/kallsyms.hpp"
#include "unwind/mapped_file.hpp"
#include "unwind/sampled_stack.hpp"

namespace cloister::unwind {
namespace {

constexpr std::size_t kMaxModules = 64;  // open at a time

// On top of every stack that a probe takes in the kernel.
bool is_of_probe(std::string_view function) {
    for (const std::string_view prefix : {"bpf_prog_", "bpf_trace_run", "bpf_trampoline_", "__bpf_trace_",
                                          "__traceiter_", "bpf_get_stack", "trace_call_bpf", "perf_trace_"}) {
        if (function.starts_with(prefix)) return true;
    }
    return false;
}

}  // namespace

std::string Frame::text() const {
    const char* const mark = guessed ? "? " : "";
    if (function.empty())
        return module.empty() ? fmt::format("{}{:#x}", mark, pc) : fmt::format("{}{}+{:#x}", mark, module, offset);
    if (!file.empty()) return fmt::format("{}{} {}:{}", mark, function, file, line);
    if (kernel && module != "[kernel]") return fmt::format("{}{} {}", mark, function, module);
    return mark + function;
}

struct Symbols::Impl {
    explicit Impl(AddressSpaces& in) : spaces(in) {}
    struct ProcessCode;

    struct Open {
        std::shared_ptr<const MappedFile> file;  // keeps the key alive
        std::unique_ptr<ElfModule> module;       // null: not one that can be read
        std::uint64_t used = 0;
    };
    struct Spot {
        AddressSpaces::Place place;
        std::uint64_t in_file;        // offset, bytes
        ElfModule* module = nullptr;  // null: none that can be read has code there
        std::uint64_t address = 0;    // in the module; without one, as in_file
    };

    AddressSpaces& spaces;
    std::unordered_map<const MappedFile*, Open> modules;
    std::uint64_t uses = 0;
    Kallsyms kallsyms;
    bool kallsyms_read = false;

    const Kallsyms& kernel() {
        if (!kallsyms_read) kallsyms = Kallsyms::read();
        kallsyms_read = true;
        return kallsyms;
    }

    ElfModule* module_of(const std::shared_ptr<const MappedFile>& file) {
        if (!file) return nullptr;
        auto found = modules.find(file.get());
        if (found == modules.end()) {
            if (modules.size() >= kMaxModules) {
                modules.erase(std::min_element(modules.begin(), modules.end(), [](const auto& a, const auto& b) {
                    return a.second.used < b.second.used;
                }));
            }
            found = modules.emplace(file.get(), Open{file, ElfModule::open(*file), 0}).first;
        }
        found->second.used = ++uses;
        return found->second.module.get();
    }

    std::optional<Spot> spot(std::uint32_t tgid, std::uint64_t pc, std::uint64_t at_ns) {
        auto place = spaces.find(tgid, pc, at_ns);
        if (!place) return std::nullopt;
        const std::uint64_t in_file = pc - place->map->start + place->map->offset;
        Spot spot{std::move(*place), in_file, nullptr, in_file};
        ElfModule* const module = module_of(spot.place.file);
        const auto address = module ? module->address(in_file) : std::nullopt;
        if (address) {
            spot.module = module;
            spot.address = *address;
        }
        return spot;
    }

    // Maps of a process that nobody reported: read while it is there.
    void meet(std::uint32_t tgid) {
        if (!spaces.knows(tgid)) (void)spaces.snapshot(tgid);
    }

    void append(std::uint32_t tgid, std::uint64_t at_ns, const StackPc& at, std::vector<Frame>& out) {
        Frame frame;
        frame.pc = at.pc;
        frame.guessed = at.guessed;
        const auto found = spot(tgid, at.lookup(), at_ns);
        if (found) {
            const std::uint64_t past = at.pc - at.lookup();
            frame.module = module_name(found->place.map->path);
            frame.offset = found->address + past;
            if (found->module) {
                const ElfModule::Names& names = found->module->names(found->address);
                for (const SourcePlace& place : names.places) {
                    Frame named = frame;
                    named.function = place.function;
                    named.file = place.file;
                    named.line = place.line;
                    if (names.start && !named.function.empty()) named.offset = frame.offset - *names.start;
                    out.push_back(std::move(named));
                }
                if (!names.places.empty()) return;
            }
        }
        out.push_back(std::move(frame));
    }
};

struct Symbols::Impl::ProcessCode final : Code {
    ProcessCode(Impl& in, std::uint32_t process, std::uint64_t at) : impl(in), tgid(process), at_ns(at) {}

    const FrameRow* row(std::uint64_t pc) override {
        const auto found = impl.spot(tgid, pc, at_ns);
        return found && found->module ? found->module->row(found->address) : nullptr;
    }
    bool executable(std::uint64_t pc) override { return impl.spaces.find(tgid, pc, at_ns).has_value(); }
    std::optional<std::array<unsigned char, 7>> bytes_before(std::uint64_t pc) override {
        const auto found = impl.spot(tgid, pc - 1, at_ns);
        return found && found->module ? found->module->bytes_before(found->in_file + 1) : std::nullopt;
    }
    bool readable(std::uint64_t pc) override {
        const auto found = impl.spot(tgid, pc, at_ns);
        return !found || !found->module || found->module->is_x86_64();
    }

    Impl& impl;
    std::uint32_t tgid;
    std::uint64_t at_ns;
};

Symbols::Symbols(AddressSpaces& spaces) : impl_(std::make_unique<Impl>(spaces)) {}
Symbols::~Symbols() = default;

std::string Symbols::kernel_function(std::uint64_t address) const {
    const Kallsyms::Function found = impl_->kernel().find(address);
    if (found.name.empty()) return fmt::format("{:#x}", address);
    return found.module.empty() ? std::string(found.name) : fmt::format("{} {}", found.name, found.module);
}

Frame Symbols::kernel(std::uint64_t pc) const {
    const Kallsyms::Function found = impl_->kernel().find(pc);
    Frame frame;
    frame.pc = pc;
    frame.kernel = true;
    if (found.name.empty()) return frame;
    frame.function = found.name;
    frame.module = found.module.empty() ? "[kernel]" : found.module;
    frame.offset = pc - found.start;
    return frame;
}

std::vector<Frame> Symbols::user(std::uint32_t tgid, std::uint64_t pc, bool is_return_address) const {
    impl_->meet(tgid);
    std::vector<Frame> out;
    impl_->append(tgid, 0, {pc, is_return_address, false}, out);
    return out;
}

std::vector<Frame> Symbols::user(const cl_stack& stack) const {
    impl_->meet(stack.tgid);
    Impl::ProcessCode code(*impl_, stack.tgid, stack.start);
    std::vector<Frame> out;
    for (const StackPc& at : walk(stack, code)) impl_->append(stack.tgid, stack.start, at, out);
    return out;
}

std::vector<Frame> Symbols::kernel(const cl_stack& stack) const {
    std::vector<Frame> out;
    for (const std::uint64_t pc : std::span(stack.kernel, std::min<std::size_t>(stack.kernel_n, CL_STACK_FRAMES))) {
        // Return addresses: the call is before them.
        Frame frame = kernel(pc - 1);
        frame.pc = pc;
        if (!frame.function.empty()) ++frame.offset;
        if (out.empty() && is_of_probe(frame.function)) continue;
        out.push_back(std::move(frame));
    }
    return out;
}

}  // namespace cloister::unwind
