#include "step.hpp"

#include <Zydis/Zydis.h>
#include <elf.h>
#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <link.h>
#include <sys/ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <list>
#include <optional>
#include <set>

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

using Registers = greg_t[NGREG];

// Whoever the next trap is for: the innermost one.
class Trapper {
public:
    Trapper() : outer_(innermost) { innermost = this; }
    Trapper(const Trapper&) = delete;
    Trapper& operator=(const Trapper&) = delete;
    virtual ~Trapper() { innermost = outer_; }
    virtual void on_trap(bool stepped, Registers& registers) = 0;

    static Trapper* innermost;

private:
    Trapper* outer_;
};
Trapper* Trapper::innermost = nullptr;

// A byte of text is a breakpoint for as long as this lives.
class Breakpoint {
public:
    explicit Breakpoint(Address at) : at_(at), byte_(get(at)) { put(at_, kInt3); }
    Breakpoint(const Breakpoint&) = delete;
    Breakpoint& operator=(const Breakpoint&) = delete;
    ~Breakpoint() { put(at_, byte_); }
    // Back to its instruction. In a sequence the kernel has put the abort handler's address there already.
    void go_back(Registers& registers) const {
        if (is_at(registers)) registers[REG_RIP] = static_cast<greg_t>(at_);
    }
    [[nodiscard]] bool is_at(const Registers& registers) const {
        return static_cast<Address>(registers[REG_RIP]) == at_ + 1;
    }

private:
    Address at_;
    std::uint8_t byte_;
};

class Interruption : public Trapper {
public:
    Interruption(Address at, unsigned hit, const std::function<void()>& then) { plant(at, hit, then); }
    void plant(Address at, unsigned hit, const std::function<void()>& then) {
        at_ = at;
        hits_left_ = hit;
        then_ = &then;
        breakpoint_.emplace(at);
    }
    void on_trap(bool stepped, Registers& registers) override {
        if (stepped) {  // past the instruction: plant it again
            if (breakpoint_) give_up("a step that nobody asked for");
            breakpoint_.emplace(at_);
            registers[REG_EFL] &= ~kTrapFlag;
            return;
        }
        if (!breakpoint_) give_up("a trap from elsewhere");
        breakpoint_->go_back(registers);
        breakpoint_.reset();
        if (--hits_left_ > 0)
            registers[REG_EFL] |= kTrapFlag;
        else
            (*then_)();  // then_at() puts another in its place
    }
    [[nodiscard]] bool reached() const { return hits_left_ == 0; }

private:
    Address at_ = 0;
    unsigned hits_left_ = 0;
    const std::function<void()>* then_ = nullptr;
    std::optional<Breakpoint> breakpoint_;
};

ZydisDecodedInstruction decoded(Address at, std::size_t most) {
    static const ZydisDecoder decoder = [] {
        ZydisDecoder out;
        ZydisDecoderInit(&out, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
        return out;
    }();
    ZydisDecodedInstruction out;
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, nullptr, reinterpret_cast<const void*>(at), most, &out)))
        give_up("an instruction that cannot be decoded");
    return out;
}

// Where code goes on that has entered a sequence: behind its commit, at its abort handler, or where it jumps to.
std::vector<Address> ways_out_of(const Sequence& sequence) {
    std::vector<Address> out = {sequence.commit, sequence.abort};
    for (Address at = sequence.start; at < sequence.commit;) {
        const auto instruction = decoded(at, sequence.commit - at);
        at += instruction.length;
        const auto& operand = instruction.raw.imm[0];
        if (operand.size == 0 || !operand.is_relative) continue;
        const Address target = at + static_cast<Address>(operand.value.s);
        if (!sequence.holds(target) && std::ranges::find(out, target) == out.end()) out.push_back(target);
    }
    return out;
}

class Stepping : public Trapper {
public:
    Stepping(const std::vector<Code>& where, AtSequences at_sequences, const std::function<void(Address)>& then)
        : where_(where), at_sequences_(at_sequences), then_(then) {
        __builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() | static_cast<std::uint64_t>(kTrapFlag));
    }
    Stepping(const Stepping&) = delete;
    Stepping& operator=(const Stepping&) = delete;
    ~Stepping() override {
        __builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() & ~static_cast<std::uint64_t>(kTrapFlag));
    }
    void on_trap(bool stepped, Registers& registers) override {
        if (!stepped) {
            if (ways_out_.empty()) give_up("a breakpoint that nobody planted");
            for (const auto& way_out : ways_out_) way_out.go_back(registers);
            ways_out_.clear();
            registers[REG_EFL] |= kTrapFlag;
        }
        const auto at = static_cast<Address>(registers[REG_RIP]);
        for (const Code& code : where_)
            if (at >= code.begin && at < code.end) {
                then_(at);
                break;
            }
        enter_sequence(at, registers);
    }

private:
    // If the next instruction, which tells the kernel of it, is the last one before a sequence.
    void enter_sequence(Address at, Registers& registers) {
        static const auto all = sequences();
        const Address next = at + decoded(at, ZYDIS_MAX_INSTRUCTION_LENGTH).length;
        const auto sequence = std::ranges::find(all, next, &Sequence::start);
        if (sequence == all.end()) return;
        if (at_sequences_ == AtSequences::abort_once && aborted_.insert(sequence->start).second)
            ways_out_.emplace_back(sequence->start);
        else
            for (const Address way_out : ways_out_of(*sequence)) ways_out_.emplace_back(way_out);
        registers[REG_EFL] &= ~kTrapFlag;
    }

    const std::vector<Code>& where_;
    AtSequences at_sequences_;
    const std::function<void(Address)>& then_;
    std::list<Breakpoint> ways_out_;  // of the sequence that is running without traps
    std::set<Address> aborted_;
};

void on_trap(int, siginfo_t* info, void* context) {
    Trapper* const mine = Trapper::innermost;
    if (!mine) give_up("a trap that nobody planted");
    mine->on_trap(info->si_code == TRAP_TRACE, static_cast<ucontext_t*>(context)->uc_mcontext.gregs);
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
    std::vector<Address> out;
    for (Address at = code.begin; at < code.end;) {
        const auto instruction = decoded(at, code.end - at);
        if (instruction.mnemonic != ZYDIS_MNEMONIC_NOP) out.push_back(at);  // between functions' blocks: never reached
        at += instruction.length;
    }
    return out;
}

bool interrupt_at(Address at, unsigned hit, const std::function<void()>& then, const std::function<void()>& code) {
    install();
    const Interruption interruption(at, hit, then);
    code();
    return interruption.reached();
}

void then_at(Address at, const std::function<void()>& then) {
    dynamic_cast<Interruption&>(*Trapper::innermost).plant(at, 1, then);
}

void step_through(const std::vector<Code>& where, AtSequences sequences, const std::function<void(Address)>& then,
                  const std::function<void()>& code) {
    install();
    const Stepping stepping(where, sequences, then);
    code();
}

}  // namespace cloister::step
