#include "breach/probe/probe.hpp"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>
#include <linux/perf_event.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <ctime>

#include "system/perf.hpp"
#include "system/proc.hpp"

// The compiled probe, put into this binary by the assembler (see CMakeLists.txt for CLOISTER_PROBE_OBJECT).
asm(".section .rodata\n"
    ".balign 16\n"
    "cloister_probe_begin:\n"
    ".incbin \"" CLOISTER_PROBE_OBJECT
    "\"\n"
    "cloister_probe_end:\n"
    ".byte 0\n"
    ".previous\n");
extern "C" const char cloister_probe_begin[];
extern "C" const char cloister_probe_end[];

namespace cloister::breach {

static_assert(sizeof(cl_record) == 112 && offsetof(cl_record, a) == 32 && offsetof(cl_record, comm) == 72);
static_assert(offsetof(cl_stack, kernel) % 8 == 0 && offsetof(cl_stack, copy) % 8 == 0);

namespace {

struct ObjectDelete {
    void operator()(bpf_object* object) const { bpf_object__close(object); }
};
struct LinkDelete {
    void operator()(bpf_link* link) const { bpf_link__destroy(link); }
};
struct RingDelete {
    void operator()(ring_buffer* ring) const { ring_buffer__free(ring); }
};
struct BtfDelete {
    void operator()(btf* types) const { btf__free(types); }
};

// Mapping of an array map, so that counters are read and threads added without a system call that other CPUs would
// feel.
template <class T>
class MappedArray {
public:
    MappedArray() = default;
    MappedArray(const MappedArray&) = delete;
    MappedArray& operator=(const MappedArray&) = delete;
    ~MappedArray() {
        if (data_) munmap(data_, bytes_);
    }
    [[nodiscard]] bool map(int fd, std::size_t entries) {
        entries_ = entries;
        const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
        bytes_ = (entries * sizeof(T) + page - 1) / page * page;
        void* p = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) return false;
        data_ = static_cast<T*>(p);
        return true;
    }
    [[nodiscard]] T& operator[](std::size_t i) const { return data_[i]; }
    [[nodiscard]] std::size_t size() const { return entries_; }

private:
    static_assert(sizeof(T) % 8 == 0, "array maps round the size of a value up to 8");
    T* data_ = nullptr;
    std::size_t bytes_ = 0, entries_ = 0;
};

// The probe writes these words while they are read here: single aligned 64-bit loads, each value true at some moment.
template <class T>
T peek(const T& word) {
    return __atomic_load_n(&word, __ATOMIC_RELAXED);
}

// libbpf speaks through a callback; the last warning is the one that says why.
thread_local std::string last_warning;

int keep_warning(libbpf_print_level level, const char* format, va_list arguments) {
    if (level != LIBBPF_WARN) return 0;
    std::array<char, 512> text{};
    std::vsnprintf(text.data(), text.size(), format, arguments);
    last_warning = text.data();
    while (last_warning.ends_with('\n')) last_warning.pop_back();
    return 0;
}

bool has_capabilities() {
    const auto privileges = system::read_privileges();
    return privileges.cap_sys_admin || (privileges.cap_bpf && privileges.cap_perfmon);
}

Error bpf_error(std::string what, int error) {
    Error e{.what = std::move(what)};
    if (error == EMFILE || error == ENFILE) {
        e.needs = "about 80 file descriptors";
        e.found = "the limit on open files was reached (RLIMIT_NOFILE)";
        e.set = "ulimit -n 1024; to make it last: nofile in /etc/security/limits.conf";
    } else if ((error == EPERM || error == EACCES) && !has_capabilities()) {
        e.needs = "CAP_BPF and CAP_PERFMON, or root";
        e.found = "bpf(2) refused: " + std::string(std::strerror(error));
        e.set = "run as root, or: setcap cap_bpf,cap_perfmon+ep on the cloister binary";
    } else if (error == EPERM || error == ENOSYS) {
        e.needs = "bpf(2)";
        e.found =
            std::string(std::strerror(error)) + ", although the capabilities are there: seccomp or kernel lockdown";
        e.set =
            "in a container, allow bpf and perf_event_open in its seccomp profile; see /sys/kernel/security/lockdown";
    } else {
        e.needs = "a kernel of 5.15 or newer with BTF";
        e.found = std::string(std::strerror(error)) + (last_warning.empty() ? "" : " (" + last_warning + ")");
    }
    return e;
}

unsigned tracepoint_arguments(const btf& types, const std::string& tracepoint) {
    const int id = btf__find_by_name_kind(&types, ("btf_trace_" + tracepoint).c_str(), BTF_KIND_TYPEDEF);
    if (id < 0) return 0;
    const btf_type* pointer = btf__type_by_id(&types, btf__type_by_id(&types, static_cast<cl_u32>(id))->type);
    const btf_type* function = btf__type_by_id(&types, pointer->type);
    return btf_vlen(function) - 1U;  // the first is the probe's own data
}

struct TracepointCause {
    const char* program;
    Cause cause;
};
// What is lost when the kernel has not got a program's tracepoint.
constexpr std::array kCauses = {
    TracepointCause{"on_sys_enter", Cause::syscall},     TracepointCause{"on_page_fault_user", Cause::fault},
    TracepointCause{"on_signal_deliver", Cause::signal}, TracepointCause{"on_local_timer_entry", Cause::tick},
    TracepointCause{"on_hrtimer_entry", Cause::timer},   TracepointCause{"on_irq_handler_entry", Cause::irq},
    TracepointCause{"on_softirq_entry", Cause::softirq}, TracepointCause{"on_call_function_entry", Cause::ipi},
    TracepointCause{"on_csd_queue", Cause::ipi},         TracepointCause{"on_csd_entry", Cause::ipi},
    TracepointCause{"on_ipi_send", Cause::ipi},          TracepointCause{"on_nmi", Cause::nmi},
    TracepointCause{"on_switch", Cause::preempted},      TracepointCause{"on_work_start", Cause::workqueue},
    TracepointCause{"on_migrate", Cause::migrated},
};

const char* kind_name(unsigned kind) {
    switch (kind) {
        case CL_SYSCALL:
            return "syscall";
        case CL_FAULT:
            return "fault";
        case CL_OFFCPU:
        case CL_OTHER:
            return "switch";
        case CL_VECTOR:
            return "vector";
        case CL_IRQ:
            return "irq";
        case CL_SOFTIRQ:
            return "softirq";
        case CL_HRTIMER:
        case CL_TIMER:
            return "timer";
        case CL_CSD:
            return "ipi function";
        case CL_WORK:
            return "workqueue";
        case CL_NMI:
            return "nmi";
        case CL_CSD_QUEUE:
        case CL_RESCHED_SEND:
        case CL_WORK_QUEUE:
            return "sender";
        case CL_STACK:
            return "stack";
        default:
            return "other";
    }
}

}  // namespace

struct Probe::Impl {
    std::unique_ptr<bpf_object, ObjectDelete> object;
    std::vector<system::Fd> inner_rings, perf_events;
    std::vector<std::unique_ptr<ring_buffer, RingDelete>> rings;
    std::vector<std::unique_ptr<bpf_link, LinkDelete>> links;
    std::vector<std::pair<Cause, std::string>> missing;
    MappedArray<cl_cpu> cpus;
    MappedArray<cl_thread> threads;
    MappedArray<cl_cell> cells;
    MappedArray<cl_control> control;  // the probe's only global variable, so it begins its .bss

    RecordSink* sink = nullptr;  // of the drain that runs
    std::size_t drained = 0, most = 0;

    [[nodiscard]] bpf_map* map(const char* name) const { return bpf_object__find_map_by_name(object.get(), name); }
    [[nodiscard]] int map_fd(const char* name) const { return bpf_map__fd(map(name)); }

    Result<void> open(int cpu_count);
    Result<void> attach(int cpu_count);
    Result<void> make_rings(int cpu_count, std::size_t bytes);
    static int on_sample(void* self, void* data, std::size_t size);
};

// Opens the object and leaves out the programs whose tracepoints this kernel does not have.
Result<void> Probe::Impl::open(int cpu_count) {
    libbpf_set_print(keep_warning);
    const std::size_t size = static_cast<std::size_t>(cloister_probe_end - cloister_probe_begin);
    object.reset(bpf_object__open_mem(cloister_probe_begin, size, nullptr));
    if (!object) return fail(bpf_error("cannot open the built-in probe", errno));

    const std::unique_ptr<btf, BtfDelete> types(btf__load_vmlinux_btf());
    if (!types)
        return fail(
            {.what = "cannot read the kernel's type information",
             .needs = "a kernel with CONFIG_DEBUG_INFO_BTF (Debian's are) and a readable /sys/kernel/btf/vmlinux",
             .found = std::strerror(errno),
             .set = "boot a kernel built with it, or mount sysfs in this container"});

    bpf_program* program = nullptr;
    bpf_object__for_each_program(program, object.get()) {
        const std::string section = bpf_program__section_name(program);
        if (!section.starts_with("tp_btf/") && !section.starts_with("raw_tp/")) continue;
        const std::string tracepoint = section.substr(7);
        if (btf__find_by_name_kind(types.get(), ("btf_trace_" + tracepoint).c_str(), BTF_KIND_TYPEDEF) >= 0) continue;
        bpf_program__set_autoload(program, false);
        for (const auto& [name, cause] : kCauses)
            if (std::string_view(bpf_program__name(program)) == name) missing.emplace_back(cause, tracepoint);
    }
    utsname machine{};
    uname(&machine);
    const cl_constants constants{
        .switch_has_state = tracepoint_arguments(*types, "sched_switch") >= 4,
        .softirqs_are_threads = std::string_view(machine.version).find("PREEMPT_RT") != std::string_view::npos};
    bpf_map* data = nullptr;
    bpf_object__for_each_map(data, object.get()) {
        if (!std::string_view(bpf_map__name(data)).ends_with(".rodata")) continue;
        if (bpf_map__set_initial_value(data, &constants, sizeof(constants)) < 0)
            return fail(bpf_error("cannot set the probe's constants", errno));
    }
    bpf_map__set_max_entries(map("cpus"), static_cast<std::uint32_t>(cpu_count));
    bpf_map__set_max_entries(map("rings"), static_cast<std::uint32_t>(cpu_count));
    return {};
}

Result<void> Probe::Impl::make_rings(int cpu_count, std::size_t bytes) {
    const int outer = map_fd("rings");
    for (int cpu = 0; cpu < cpu_count; ++cpu) {
        system::Fd inner(
            bpf_map_create(BPF_MAP_TYPE_RINGBUF, "cl_ring", 0, 0, static_cast<std::uint32_t>(bytes), nullptr));
        if (!inner) return fail(bpf_error(fmt::format("cannot make the ring of cpu {}", cpu), errno));
        const auto key = static_cast<std::uint32_t>(cpu);
        const int fd = inner.get();
        if (bpf_map_update_elem(outer, &key, &fd, BPF_ANY) < 0)
            return fail(bpf_error(fmt::format("cannot hand the ring of cpu {} to the probe", cpu), errno));
        rings.emplace_back(ring_buffer__new(fd, on_sample, this, nullptr));
        if (!rings.back()) return fail(bpf_error(fmt::format("cannot map the ring of cpu {}", cpu), errno));
        inner_rings.push_back(std::move(inner));
    }
    return {};
}

Result<void> Probe::Impl::attach(int cpu_count) {
    bpf_program* program = nullptr;
    bpf_object__for_each_program(program, object.get()) {
        if (!bpf_program__autoload(program)) continue;
        const std::string_view name = bpf_program__name(program);
        if (std::string_view(bpf_program__section_name(program)) == "perf_event") {
            perf_event_attr attr{};
            attr.size = sizeof(attr);
            attr.type = PERF_TYPE_SOFTWARE;
            attr.config = name == "on_fault_major" ? PERF_COUNT_SW_PAGE_FAULTS_MAJ : PERF_COUNT_SW_PAGE_FAULTS_MIN;
            attr.sample_period = 1;
            for (int cpu = 0; cpu < cpu_count; ++cpu) {
                auto event = system::perf_open(attr, -1, cpu);
                if (!event) {
                    if (errno == ENODEV) continue;  // possible but offline
                    return fail(event.error());
                }
                bpf_link* link = bpf_program__attach_perf_event(program, event->get());
                if (!link) return fail(bpf_error("cannot attach to page-fault events", errno));
                event->release();  // the link owns it now
                links.emplace_back(link);
            }
            continue;
        }
        bpf_link* link = bpf_program__attach(program);
        if (!link)
            return fail(bpf_error(fmt::format("cannot attach to {}", bpf_program__section_name(program)), errno));
        links.emplace_back(link);
    }
    return {};
}

Result<Probe> Probe::load(int cpu, const ProbeOptions& options) {
    auto impl = std::make_unique<Impl>();
    const int cpu_count = libbpf_num_possible_cpus();
    if (cpu_count <= 0 || cpu_count > CL_CPUS)
        return fail({.what = "cannot watch a machine of this size",
                     .needs = fmt::format("at most {} possible CPUs", static_cast<int>(CL_CPUS)),
                     .found = std::to_string(cpu_count)});
    if (auto ok = impl->open(cpu_count); !ok) return fail(ok.error());
    if (const int err = bpf_object__load(impl->object.get()); err < 0)
        return fail(bpf_error("cannot load the probe into the kernel", -err));

    const bool mapped = impl->cpus.map(impl->map_fd("cpus"), static_cast<std::size_t>(cpu_count)) &&
                        impl->threads.map(impl->map_fd("threads"), CL_SLOTS) &&
                        impl->cells.map(impl->map_fd("cells"), CL_CELLS);
    bpf_map* bss = nullptr;
    bpf_object__for_each_map(bss, impl->object.get()) {
        if (std::string_view(bpf_map__name(bss)).ends_with(".bss") && impl->control.map(bpf_map__fd(bss), 1)) break;
    }
    if (!mapped || !bss) return fail(bpf_error("cannot map the probe's counters", errno));

    if (auto ok = impl->make_rings(cpu_count, options.ring_bytes); !ok) return fail(ok.error());
    impl->control[0].cpu = cpu;
    impl->control[0].observer_tgid = static_cast<std::uint32_t>(getpid());
    impl->control[0].records_per_s = options.records_per_s;
    impl->control[0].records_burst = options.records_burst;
    impl->control[0].stacks_per_s = options.stacks_per_s;
    impl->control[0].stacks_burst = options.stacks_burst;
    impl->control[0].slots_used = 1;  // 0 means not watched
    if (auto ok = impl->attach(cpu_count); !ok) return fail(ok.error());
    __atomic_store_n(&impl->control[0].armed, 1U, __ATOMIC_RELEASE);
    return Probe(std::move(impl));
}

Probe::Probe(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Probe::Probe(Probe&&) noexcept = default;
Probe& Probe::operator=(Probe&&) noexcept = default;
Probe::~Probe() = default;

const std::vector<std::pair<Cause, std::string>>& Probe::missing() const { return impl_->missing; }

Result<void> Probe::add_thread(std::uint32_t tid, std::uint32_t tgid, const std::string& comm) {
    const std::uint64_t slot = __atomic_fetch_add(&impl_->control[0].slots_used, 1, __ATOMIC_RELAXED);
    if (slot >= CL_SLOTS)
        return fail({.what = fmt::format("cannot watch thread {}", tid),
                     .needs = fmt::format("at most {} threads", static_cast<int>(CL_SLOTS) - 1),
                     .found = "all slots are taken"});
    cl_thread& th = impl_->threads[slot];
    th.tid = tid;
    th.tgid = tgid;
    th.live = 1;
    th.sys_nr = CL_NO_SYSCALL;
    std::strncpy(th.comm, comm.c_str(), sizeof(th.comm) - 1);
    const auto value = static_cast<std::uint32_t>(slot);
    if (bpf_map_update_elem(impl_->map_fd("slots"), &tid, &value, BPF_ANY) < 0)
        return fail(bpf_error(fmt::format("cannot watch thread {}", tid), errno));
    // A CPU may hold "this tid is not watched" in its cache; the next switch there drops it.
    for (std::size_t cpu = 0; cpu < impl_->cpus.size(); ++cpu)
        if (peek(impl_->cpus[cpu].tid) == tid) __atomic_store_n(&impl_->cpus[cpu].tid, 0U, __ATOMIC_RELAXED);
    return {};
}

void Probe::begin_on_exec(std::uint32_t tid) {
    __atomic_store_n(&impl_->control[0].begin_on_exec, tid, __ATOMIC_RELEASE);
}
void Probe::begin(std::uint64_t now_ns) { __atomic_store_n(&impl_->control[0].begin, now_ns, __ATOMIC_RELEASE); }
void Probe::end(std::uint64_t now_ns) { __atomic_store_n(&impl_->control[0].end, now_ns, __ATOMIC_RELEASE); }
std::uint64_t Probe::began() const { return peek(impl_->control[0].begin); }

int Probe::Impl::on_sample(void* self, void* data, std::size_t size) {
    auto& impl = *static_cast<Impl*>(self);
    if (size == sizeof(cl_stack)) {
        impl.sink->stack(std::make_shared<const cl_stack>(*static_cast<const cl_stack*>(data)));
    } else if (size >= sizeof(cl_record)) {
        impl.sink->record(*static_cast<const cl_record*>(data));
    }
    // A negative value ends this ring's turn, so that a storm on one CPU cannot keep the others waiting.
    return ++impl.drained >= impl.most ? -EAGAIN : 0;
}

std::size_t Probe::drain(RecordSink& sink, std::size_t most) {
    std::size_t total = 0;
    impl_->sink = &sink;
    impl_->most = most;
    for (const auto& ring : impl_->rings) {
        impl_->drained = 0;
        (void)ring_buffer__consume(ring.get());  // a negative result is our own -EAGAIN
        total += impl_->drained;
    }
    impl_->sink = nullptr;
    return total;
}

void Probe::open(RecordSink& sink) const {
    const std::uint64_t begin = peek(impl_->control[0].begin), end = peek(impl_->control[0].end);
    for (std::size_t slot = 1; slot < CL_SLOTS; ++slot) {
        const cl_thread& th = impl_->threads[slot];
        const std::int32_t nr = peek(th.sys_nr);
        const std::uint64_t out = peek(th.out_since), enter = peek(th.sys_enter);
        if (!peek(th.live)) continue;
        cl_record record{};
        record.end = end;
        record.cpu = static_cast<cl_u16>(peek(th.out_cpu));
        record.tid = peek(th.tid);
        record.tgid = peek(th.tgid);
        record.sys_nr = nr >= 0 ? nr : CL_NO_SYSCALL;
        record.flags = CL_END_UNSEEN;
        if (out && out < end) {
            record.kind = CL_OFFCPU;
            record.start = std::max(out, begin);
            record.sys_enter = nr >= 0 ? enter : 0;
            record.flags |= nr >= 0 ? CL_IN_SYSCALL : 0;
            record.a = peek(th.out_state);
            record.b = peek(th.out_involuntary);
            record.c = record.cpu;
            record.who_tid = peek(th.out_who);
            record.who_tgid = peek(th.out_who_tgid);
            std::memcpy(record.comm, th.out_comm, sizeof(record.comm));
            sink.record(record);
        }
        if (nr >= 0 && enter < end) {
            record.kind = CL_SYSCALL;
            record.start = std::max(enter, begin);
            record.flags = CL_END_UNSEEN | (enter < begin ? CL_START_UNSEEN : 0);
            record.a = static_cast<cl_u64>(nr);
            record.b = record.c = record.d = record.sys_enter = 0;
            record.who_tid = record.who_tgid = 0;
            std::memset(record.comm, 0, sizeof(record.comm));
            sink.record(record);
        }
    }
}

std::vector<ThreadCounts> Probe::threads() const {
    std::vector<ThreadCounts> out;
    for (std::size_t slot = 1; slot < CL_SLOTS; ++slot) {
        const cl_thread& th = impl_->threads[slot];
        if (!peek(th.tid)) continue;
        ThreadCounts counts{.tid = peek(th.tid), .tgid = peek(th.tgid), .comm = {}, .shared = peek(th.reused) != 0};
        counts.comm.assign(th.comm, strnlen(th.comm, sizeof(th.comm)));
        counts.live = peek(th.live) != 0;
        counts.syscalls = peek(th.syscalls);
        counts.faults_minor = peek(th.faults_minor);
        counts.faults_major = peek(th.faults_major);
        counts.faults_failed = peek(th.faults_failed);
        counts.switches_voluntary = peek(th.switches_voluntary);
        counts.switches_involuntary = peek(th.switches_involuntary);
        counts.migrations = peek(th.migrations);
        counts.signals = peek(th.signals);
        out.push_back(std::move(counts));
    }
    return out;
}

std::vector<Probe::SyscallCount> Probe::syscalls(bool away) const {
    const std::size_t first_bank = away ? CL_BANKS : 0;
    std::vector<SyscallCount> out;
    for (unsigned nr = 0; nr < CL_SYSCALLS; ++nr) {
        cl_cell sum{};
        for (std::size_t bank = first_bank; bank < first_bank + CL_BANKS; ++bank) {
            const cl_cell& cell = impl_->cells[bank * CL_SYSCALLS + nr];
            const std::uint64_t count = peek(cell.count);
            if (!count) continue;
            const std::uint64_t first = peek(cell.first);
            sum.first = sum.count ? std::min(sum.first, first) : first;
            sum.count += count;
            sum.total += peek(cell.total);
            sum.max = std::max(sum.max, peek(cell.max));
            sum.last = std::max(sum.last, peek(cell.last));
            sum.recorded += peek(cell.recorded);
        }
        if (sum.count) out.push_back({nr, sum});
    }
    return out;
}

std::vector<std::pair<std::uint64_t, cl_site>> Probe::sites() const {
    std::vector<std::pair<std::uint64_t, cl_site>> out;
    const int fd = impl_->map_fd("sites");
    std::uint64_t key = 0, next = 0;
    cl_site site{};
    for (bool first = true; bpf_map_get_next_key(fd, first ? nullptr : &key, &next) == 0; first = false) {
        key = next;
        if (bpf_map_lookup_elem(fd, &key, &site) == 0) out.emplace_back(key, site);
    }
    return out;
}

std::uint64_t Probe::kept_ns(int cpu, std::uint64_t now_ns) const {
    if (cpu < 0 || static_cast<std::size_t>(cpu) >= impl_->cpus.size()) return 0;
    const cl_cpu& c = impl_->cpus[static_cast<std::size_t>(cpu)];
    std::uint64_t kept = peek(c.kept_ns);
    const std::uint64_t since = std::max(peek(c.user_since), began());
    if (peek(c.user_since) && peek(c.on) && now_ns > since) kept += now_ns - since;
    return kept;
}

Probe::Drops Probe::drops() const {
    Drops drops;
    for (std::size_t cpu = 0; cpu < impl_->cpus.size(); ++cpu) {
        for (unsigned kind = 0; kind < CL_KINDS; ++kind) {
            const std::uint64_t n = peek(impl_->cpus[cpu].dropped[kind]);
            if (!n) continue;
            drops.total += n;
            drops.by_kind[kind_name(kind)] += n;
        }
        if (const std::uint64_t n = peek(impl_->cpus[cpu].too_deep)) {
            drops.total += n;
            drops.by_kind["too deeply nested"] += n;
        }
    }
    // A program that was interrupted by itself on one CPU is not run a second time: the kernel counts that.
    bpf_program* program = nullptr;
    bpf_object__for_each_program(program, impl_->object.get()) {
        if (!bpf_program__autoload(program)) continue;
        bpf_prog_info info{};
        std::uint32_t size = sizeof(info);
        if (bpf_obj_get_info_by_fd(bpf_program__fd(program), &info, &size) < 0 || !info.recursion_misses) continue;
        drops.total += info.recursion_misses;
        drops.by_kind["missed by the probe"] += info.recursion_misses;
    }
    drops.threads_unwatched = peek(impl_->control[0].slots_exhausted);
    drops.sites_unknown = peek(impl_->control[0].sites_dropped);
    return drops;
}

}  // namespace cloister::breach
