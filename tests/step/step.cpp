#include "step.hpp"

#include <Zydis/Zydis.h>
#include <elf.h>
#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <link.h>
#include <sys/ucontext.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>

extern "C" {
// The linker's names for the section's begin and end.
struct RseqDescriptor {
    std::uint32_t version, flags;
    std::uint64_t start, post_commit_offset, abort;
};
extern const RseqDescriptor __start___rseq_cs[], __stop___rseq_cs[];
}

namespace cloister::step {
namespace {

constexpr std::uint8_t kInt3 = 0xcc;
constexpr greg_t kTrapFlag = 0x100;

[[noreturn]] void give_up(const char* what) {
    std::fprintf(stderr, "step: %s\n", what);
    std::abort();
}

// An open one goes on to mean the memory of the process that opened it, after a fork as well.
int own_memory() {
    static int fd = -1;
    static pid_t owner = 0;
    if (owner != getpid()) {
        owner = getpid();
        fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
    }
    if (fd < 0) give_up("cannot open /proc/self/mem");
    return fd;
}

void put(Address at, std::uint8_t byte) {
    if (pwrite(own_memory(), &byte, 1, static_cast<off_t>(at)) != 1) give_up("cannot write a byte of text");
}

std::uint8_t get(Address at) { return *reinterpret_cast<const std::uint8_t*>(at); }

struct Planted {
    Address at = 0;
    unsigned hits_left = 0;
    const std::function<void()>* then = nullptr;
    std::uint8_t byte = 0;
    bool reached = false, stepping = false;
};
Planted* planted = nullptr;  // the innermost one

void on_trap(int, siginfo_t* info, void* context) {
    auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    Planted* const mine = planted;
    if (!mine) give_up("a trap that nobody planted");
    if (mine->stepping && info->si_code == TRAP_TRACE) {  // past the instruction: plant it again
        mine->stepping = false;
        put(mine->at, kInt3);
        registers[REG_EFL] &= ~kTrapFlag;
        return;
    }
    if (mine->reached || info->si_code == TRAP_TRACE) give_up("a trap from elsewhere");
    put(mine->at, mine->byte);
    // In a sequence the kernel has put the abort handler's address there already.
    if (static_cast<Address>(registers[REG_RIP]) == mine->at + 1) registers[REG_RIP] = static_cast<greg_t>(mine->at);
    if (--mine->hits_left > 0) {
        mine->stepping = true;
        registers[REG_EFL] |= kTrapFlag;
        return;
    }
    mine->reached = true;
    const auto* then = mine->then;  // then_at() puts another in its place
    (*then)();
}

void install() {
    static const bool once = [] {
        struct sigaction action {};
        action.sa_sigaction = on_trap;
        action.sa_flags = SA_SIGINFO | SA_NODEFER;  // what runs in it is interrupted as well
        return sigaction(SIGTRAP, &action, nullptr) == 0;
    }();
    if (!once) give_up("cannot handle SIGTRAP");
}

Address load_bias() {
    Address bias = 0;
    dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* out) {
            *static_cast<Address*>(out) = info->dlpi_addr;  // the program itself comes first
            return 1;
        },
        &bias);
    return bias;
}

}  // namespace

std::vector<Code> functions(const std::vector<std::string>& parts) {
    elf_version(EV_CURRENT);
    const int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    Elf* elf = elf_begin(fd, ELF_C_READ, nullptr);
    if (!elf) give_up("cannot read its own program");
    std::vector<Code> out;
    for (Elf_Scn* section = nullptr; (section = elf_nextscn(elf, section)) != nullptr;) {
        GElf_Shdr header;
        if (!gelf_getshdr(section, &header) || header.sh_type != SHT_SYMTAB) continue;
        Elf_Data* data = elf_getdata(section, nullptr);
        for (std::size_t i = 0; i < header.sh_size / header.sh_entsize; ++i) {
            GElf_Sym symbol;
            gelf_getsym(data, static_cast<int>(i), &symbol);
            if (GELF_ST_TYPE(symbol.st_info) != STT_FUNC || symbol.st_size == 0) continue;
            const std::string name = elf_strptr(elf, header.sh_link, symbol.st_name);
            for (const auto& part : parts)
                if (name.find(part) != std::string::npos) {
                    const Address begin = load_bias() + symbol.st_value;
                    out.push_back({name, begin, begin + symbol.st_size});
                    break;
                }
        }
    }
    elf_end(elf);
    close(fd);
    return out;
}

std::vector<Sequence> sequences() {
    std::vector<Sequence> out;
    for (const auto* at = __start___rseq_cs; at != __stop___rseq_cs; ++at)
        out.push_back({at->start, at->start + at->post_commit_offset, at->abort});
    return out;
}

std::vector<Address> instructions(const Code& code) {
    ZydisDecoder decoder;
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    std::vector<Address> out;
    for (Address at = code.begin; at < code.end;) {
        ZydisDecodedInstruction instruction;
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, nullptr, reinterpret_cast<const void*>(at),
                                                        code.end - at, &instruction)))
            give_up("an instruction that cannot be decoded");
        if (instruction.mnemonic != ZYDIS_MNEMONIC_NOP) out.push_back(at);  // between functions' blocks: never reached
        at += instruction.length;
    }
    return out;
}

bool interrupt_at(Address at, unsigned hit, const std::function<void()>& then, const std::function<void()>& code) {
    install();
    Planted mine{.at = at, .hits_left = hit, .then = &then, .byte = get(at)};
    Planted* const outer = planted;
    planted = &mine;
    put(at, kInt3);
    code();
    if (!mine.reached) put(mine.at, mine.byte);  // then_at() may have moved it
    planted = outer;
    return mine.reached;
}

void then_at(Address at, const std::function<void()>& then) {
    *planted = {.at = at, .hits_left = 1, .then = &then, .byte = get(at)};
    put(at, kInt3);
}

}  // namespace cloister::step
