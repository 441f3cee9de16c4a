#include "breach/soft_events.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include <asm/perf_regs.h>
#include <time.h>

#include "system/cpu.hpp"
#include "system/perf_record.hpp"

namespace cloister::breach {
namespace {

// A sample is about 1.5 KiB. All rings together, with those of Mappings, stay within what perf_event_mlock_kb allows
// any user.
constexpr std::uint32_t kStackBytes = 1024;
constexpr std::size_t kHomeRingPages = 128, kOtherRingPages = 16, kAnyRingPages = 64;

// Register number in the kernel's mask, in the order in which the values come, and where each belongs.
struct Register {
    unsigned bit;
    cl_u64 cl_stack::*field;
};
constexpr std::array<Register, 17> kRegisters = {{
    {PERF_REG_X86_AX, &cl_stack::ax},
    {PERF_REG_X86_BX, &cl_stack::bx},
    {PERF_REG_X86_CX, &cl_stack::cx},
    {PERF_REG_X86_DX, &cl_stack::dx},
    {PERF_REG_X86_SI, &cl_stack::si},
    {PERF_REG_X86_DI, &cl_stack::di},
    {PERF_REG_X86_BP, &cl_stack::bp},
    {PERF_REG_X86_SP, &cl_stack::sp},
    {PERF_REG_X86_IP, &cl_stack::ip},
    {PERF_REG_X86_R8, &cl_stack::r8},
    {PERF_REG_X86_R9, &cl_stack::r9},
    {PERF_REG_X86_R10, &cl_stack::r10},
    {PERF_REG_X86_R11, &cl_stack::r11},
    {PERF_REG_X86_R12, &cl_stack::r12},
    {PERF_REG_X86_R13, &cl_stack::r13},
    {PERF_REG_X86_R14, &cl_stack::r14},
    {PERF_REG_X86_R15, &cl_stack::r15},
}};

enum Event : std::size_t { kMinor, kMajor };  // the order in which they are opened

std::vector<perf_event_attr> attributes() {
    perf_event_attr attr{};
    attr.type = PERF_TYPE_SOFTWARE;
    attr.sample_period = 1;
    attr.sample_type = PERF_SAMPLE_IDENTIFIER | PERF_SAMPLE_IP | PERF_SAMPLE_TID | PERF_SAMPLE_TIME | PERF_SAMPLE_ADDR |
                       PERF_SAMPLE_CPU | PERF_SAMPLE_CALLCHAIN | PERF_SAMPLE_REGS_USER | PERF_SAMPLE_STACK_USER;
    attr.exclude_kernel = attr.exclude_hv = attr.exclude_callchain_kernel = 1;
    attr.sample_max_stack = CL_STACK_FRAMES;
    for (const auto& reg : kRegisters) attr.sample_regs_user |= 1ULL << reg.bit;
    attr.sample_stack_user = kStackBytes;
    attr.use_clockid = 1;
    attr.clockid = CLOCK_MONOTONIC;
    std::vector<perf_event_attr> out(2, attr);
    out[kMinor].config = PERF_COUNT_SW_PAGE_FAULTS_MIN;
    out[kMajor].config = PERF_COUNT_SW_PAGE_FAULTS_MAJ;
    return out;
}

// Identifies the code: the process, the instruction, and the word at the stack pointer, often a return address.
std::uint64_t site_of(const cl_stack& stack) {
    std::uint64_t hash = stack.tgid, word = 0;
    if (stack.copy_n >= sizeof word) std::memcpy(&word, stack.copy, sizeof word);
    for (const std::uint64_t part : {stack.ip, word}) {
        hash = (hash ^ part) * 0x9e3779b97f4a7c15;
        hash ^= hash >> 32;
    }
    return hash | 1;  // 0 stands for none
}

void take_callchain(system::RecordReader& fields, cl_stack& stack) {
    const auto entries = fields.take<std::uint64_t>();
    bool user = false;
    for (std::uint64_t i = 0; i < entries && fields.ok(); ++i) {
        const auto pc = fields.take<std::uint64_t>();
        if (pc >= PERF_CONTEXT_MAX) {
            user = pc == PERF_CONTEXT_USER;
        } else if (user && stack.user_n < CL_STACK_FRAMES) {
            stack.user[stack.user_n++] = pc;
        }
    }
}

void take_registers(system::RecordReader& fields, cl_stack& stack) {
    if (fields.take<std::uint64_t>() == PERF_SAMPLE_REGS_ABI_NONE) return;
    for (const auto& reg : kRegisters) stack.*reg.field = fields.take<std::uint64_t>();
}

void take_copy(system::RecordReader& fields, cl_stack& stack) {
    const auto room = fields.take<std::uint64_t>();
    if (room == 0) return;
    const char* bytes = fields.skip(room);
    const auto valid = std::min({fields.take<std::uint64_t>(), room, std::uint64_t{CL_STACK_COPY}});
    if (!bytes || !fields.ok()) return;
    std::memcpy(stack.copy, bytes, valid);
    stack.copy_n = static_cast<std::uint32_t>(valid);
}

}  // namespace

Result<SoftEvents> SoftEvents::follow(pid_t pid) {
    // A pinned process faults on its own CPU; the other rings are for what it may yet move elsewhere.
    const auto home = system::get_affinity(pid).value_or(system::CpuSet());
    const auto pages = [&](int cpu) {
        if (home.size() != 1) return kAnyRingPages;
        return home.has(cpu) ? kHomeRingPages : kOtherRingPages;
    };
    auto events = system::TaskEvents::open(pid, attributes(), pages);
    if (!events) return fail(events.error());
    return SoftEvents(std::move(*events));
}

void SoftEvents::drain(const std::function<void(const cl_record&)>& record,
                       const std::function<void(std::shared_ptr<const cl_stack>)>& stack) {
    for (auto& ring : events_.rings()) {
        ring.ring.drain([&](const perf_event_header& header) {
            if (header.type == PERF_RECORD_SAMPLE) take(header, record, stack);
        });
    }
    lost_ = std::max(lost_, events_.lost());
}

void SoftEvents::take(const perf_event_header& sample, const std::function<void(const cl_record&)>& record,
                      const std::function<void(std::shared_ptr<const cl_stack>)>& stack) {
    ++seen_;
    system::RecordReader fields(sample);
    const auto event = events_.index_of(fields.take<std::uint64_t>());
    cl_record out{};
    out.kind = CL_FAULT;
    out.sys_nr = -1;
    out.b = fields.take<std::uint64_t>();
    out.tgid = fields.take<std::uint32_t>();
    out.tid = fields.take<std::uint32_t>();
    out.start = out.end = fields.take<std::uint64_t>();
    out.a = fields.take<std::uint64_t>();
    out.cpu = static_cast<cl_u16>(fields.take<std::uint32_t>());
    fields.take<std::uint32_t>();  // reserved
    out.c = 4;                     // user; the event does not tell a read from a write
    out.d = CL_FAULT_POINT;
    if (event == kMajor) out.d |= CL_FAULT_MAJOR;

    const auto copy = std::make_shared<cl_stack>();
    copy->start = copy->end = out.start;
    copy->kind = CL_STACK;
    copy->cpu = out.cpu;
    copy->tid = out.tid;
    copy->tgid = out.tgid;
    take_callchain(fields, *copy);
    take_registers(fields, *copy);
    take_copy(fields, *copy);
    if (!fields.ok()) return;  // shorter than its own fields say: counted by totals(), not shown
    copy->id = ++stacks_;
    copy->site = out.site = site_of(*copy);
    out.stack = copy->id;
    stack(copy);
    record(out);
}

Result<SoftEvents::Totals> SoftEvents::totals() {
    const auto counts = events_.counts();
    if (!counts) return fail(counts.error());
    const Totals out{counts->at(kMinor), counts->at(kMajor)};
    const auto all = out.minor + out.major;
    lost_ = std::max(lost_, all > seen_ ? all - seen_ : 0);
    return out;
}

std::uint64_t SoftEvents::lost() const { return lost_; }

std::vector<Header::Blind> SoftEvents::blind() {
    const std::string lift = "run it as root, or with CAP_BPF and CAP_PERFMON";
    return {{"faults inside syscalls", "without privilege the kernel leaves out what happens inside itself", lift},
            {"faults that end in a signal", "software page-fault events count only faults that succeed", lift}};
}

}  // namespace cloister::breach
