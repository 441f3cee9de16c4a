/* The probe: follows watched threads through the kernel and writes what interrupts them.
 *
 * Roles. Each struct cl_cpu is written by the programs that run on that CPU (two fields of it, owed_*, also by the CPU
 * on which an owed thread surfaces again). Each struct cl_thread and its cells are written by the programs that run
 * while that thread is current or is being switched. The collector only reads, but for threads that it adds before the
 * watch begins. Tracing programs run with preemption off and do not nest with themselves on one CPU, so plain adds
 * are exact where one thread or CPU writes; what several share is added to atomically.
 *
 * What it must never do: wake anybody (records are submitted with BPF_RB_NO_WAKEUP, the collector polls), run long on
 * the watched CPU (stacks are sampled, by powers of two per site and by a token bucket), or touch a program's memory
 * in a way that pages it in (bpf_probe_read_user does not).
 */
#include "state.bpf.h"

char LICENSE[] SEC("license") = "GPL";

/* ---- Faults: from the exception's tracepoint to the moment in which the kernel accounts it as done ---- */

static __always_inline void end_fault(void* ctx, struct cl_cpu* c, struct cl_thread* th, __u64 t, __u32 flags) {
    struct cl_record* r;
    __u64 start = th->fault_enter, code = th->fault_code, addr = th->fault_addr, ip = th->fault_ip;
    bool sample = false;
    if (!(code & 4)) flags |= CL_FAULT_KERNEL;
    th->fault_enter = 0;
    if (flags & CL_FAULT_END_UNSEEN)
        th->faults_failed++;
    else if (flags & CL_FAULT_MAJOR)
        th->faults_major++;
    else
        th->faults_minor++;
    __u64 aux = (code & 0xffff) | (__u64)flags << 16;
    __u32 kind = away() ? CL_FAULT | CL_AWAY : CL_FAULT;
    __u64 key = mix(mix(mix(kind, th->tgid), ip), aux);
    __u64 seen_end = flags & CL_FAULT_END_UNSEEN ? start : t;
    struct cl_site* site = count_site(key, kind, th->tgid, ip, 0, aux, start, seen_end, &sample);
    if (in_own_code(c, th)) c->user_since = t;
    bool token = take_token(th, t);
    if (!token && !sample) return;
    __u32 stack = sample ? sample_stack(ctx, c, site, key, t) : 0;
    if (!token && !stack) return;
    r = reserve(c, CL_FAULT);
    if (!r) return;
    r->start = start;
    r->end = t;
    on_thread(r, c, th, false);
    r->a = addr;
    r->b = ip;
    r->c = code;
    r->d = flags;
    r->stack = stack;
    r->site = key;
    submit(r);
}

/* A fault that was never accounted ended in a signal or was spurious: the thread is seen to do something else. */
static __always_inline void close_fault(void* ctx, struct cl_cpu* c, struct cl_thread* th, __u64 t) {
    if (th->fault_enter) end_fault(ctx, c, th, t, CL_FAULT_END_UNSEEN);
}

static __always_inline void begin_fault(void* ctx, unsigned long address, struct pt_regs* regs, unsigned long code) {
    if (!watching()) return;
    struct cl_cpu* c = this_cpu();
    if (!c || c->probing || c->depth) return;
    struct cl_thread* th = current_thread(c);
    if (!th) return;
    __u64 t = bpf_ktime_get_ns();
    close_fault(ctx, c, th, t);
    if (th->sys_nr == CL_NO_SYSCALL) leave_user(c, t, true);
    th->fault_enter = t;
    th->fault_addr = address;
    th->fault_ip = regs->ip;
    th->fault_code = code;
}

SEC("tp_btf/page_fault_user")
int BPF_PROG(on_page_fault_user, unsigned long address, struct pt_regs* regs, unsigned long code) {
    begin_fault(ctx, address, regs, code | 4);
    return 0;
}

SEC("tp_btf/page_fault_kernel")
int BPF_PROG(on_page_fault_kernel, unsigned long address, struct pt_regs* regs, unsigned long code) {
    begin_fault(ctx, address, regs, code & ~4ul);
    return 0;
}

static __always_inline int fault_accounted(void* ctx, __u32 flags) {
    if (!watching()) return 0;
    struct cl_cpu* c = this_cpu();
    if (!c) return 0;
    struct cl_thread* th = current_thread(c);
    if (th && th->fault_enter) end_fault(ctx, c, th, bpf_ktime_get_ns(), flags);
    return 0;
}

SEC("perf_event")
int on_fault_minor(void* ctx) { return fault_accounted(ctx, 0); }

SEC("perf_event")
int on_fault_major(void* ctx) { return fault_accounted(ctx, CL_FAULT_MAJOR); }

/* ---- Syscalls: the only path that may run millions of times a second; what is not needed there is not there ---- */

SEC("tp_btf/sys_enter")
int BPF_PROG(on_sys_enter, struct pt_regs* regs, long nr) {
    struct cl_cpu* c = this_cpu();
    if (!c) return 0;
    struct cl_thread* th = current_thread(c);
    if (!th) return 0;
    __u64 t = bpf_ktime_get_ns();
    close_fault(ctx, c, th, t);
    leave_user(c, t, true);
    struct task_struct* task = bpf_get_current_task_btf();
    if (nr < 0 || nr >= CL_I386) nr = CL_I386 - 1;
    if (task->thread_info.status & TS_COMPAT) nr |= CL_I386;
    th->sys_nr = nr;
    th->sys_enter = t;
    th->nested = 0;
    return 0;
}

static __always_inline struct cl_cell* cell_of(const struct cl_cpu* c, __s32 nr) {
    __u32 bank = c->slot < CL_BANKS ? c->slot : CL_BANKS - 1;
    if (away()) bank += CL_BANKS;
    __u32 index = bank * CL_SYSCALLS + ((__u32)nr & (CL_SYSCALLS - 1));
    return bpf_map_lookup_elem(&cells, &index);
}

static __always_inline void count_syscall(const struct cl_cpu* c, struct cl_cell* cell, __u64 start, __u64 end) {
    __u64 duration = end - start;
    if (c->slot >= CL_BANKS - 1) { /* a bank for all of them */
        __sync_fetch_and_add(&cell->count, 1);
        __sync_fetch_and_add(&cell->total, duration);
    } else {
        cell->count++;
        cell->total += duration;
    }
    if (duration > cell->max) cell->max = duration;
    if (!cell->first) cell->first = start;
    cell->last = end;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(on_sys_exit, struct pt_regs* regs, long ret) {
    struct cl_cpu* c = this_cpu();
    if (!c) return 0;
    struct cl_thread* th = current_thread(c);
    if (!th) return 0;
    __u64 t = bpf_ktime_get_ns();
    close_fault(ctx, c, th, t);
    __s32 nr = th->sys_nr;
    __u64 start = th->sys_enter;
    bool nested = th->nested, start_unseen = false, sample = false, token;
    th->sys_nr = CL_NO_SYSCALL;
    c->user_since = t;
    if (!watching() || nr == CL_SYSCALL_UNWATCHED) return 0;
    if (nr == CL_NO_SYSCALL) { /* entered before this thread was watched */
        long orig = regs->orig_ax;
        if (orig < 0 || orig >= CL_I386) return 0;
        nr = orig;
        start = control.begin;
    }
    if (start <= control.begin) {
        start = control.begin;
        start_unseen = true;
    }
    if (t < start) return 0;

    struct cl_cell* cell = cell_of(c, nr);
    if (!cell) return 0;
    th->syscalls++;
    count_syscall(c, cell, start, t);

    token = take_token(th, t);
    if (!token && !nested) return 0;

    __u64 ip = regs->ip, sp = regs->sp, caller = 0;
    c->probing = 1;
    bpf_probe_read_user(&caller, sizeof(caller), (void*)sp);
    c->probing = 0;
    __u32 kind = away() ? CL_SYSCALL | CL_AWAY : CL_SYSCALL;
    __u64 key = mix(mix(mix(mix(kind, th->tgid), nr), ip), caller);
    struct cl_site* site = count_site(key, kind, th->tgid, ip, caller, nr, start, t, &sample);
    __u32 stack = sample ? sample_stack(ctx, c, site, key, t) : 0;
    struct cl_record* r = reserve(c, CL_SYSCALL);
    if (!r) return 0;
    cell->recorded++;
    r->start = start;
    r->end = t;
    r->tid = th->tid;
    r->tgid = th->tgid;
    r->a = (__u32)nr;
    r->b = ret;
    r->c = regs->di;
    r->d = regs->si;
    r->stack = stack;
    r->site = key;
    if (start_unseen) r->flags |= CL_START_UNSEEN;
    submit(r);
    return 0;
}

/* ---- Interrupt-side intervals: a small stack per CPU ---- */

/* Kept on every CPU, from the moment in which entries and exits are both seen: what a task sends is told from what an
 * interrupt sends on its time. On PREEMPT_RT softirqs are threads, and whoever preempts one is no softirq. */
static __always_inline bool is_interrupt(__u32 kind) {
    return kind == CL_VECTOR || kind == CL_IRQ || (kind == CL_SOFTIRQ && !constants.softirqs_are_threads);
}

static __always_inline void enter(__u32 kind, __u64 key, __u64 what, bool starts_departure) {
    struct cl_cpu* c = this_cpu();
    if (!c) return;
    if (is_interrupt(kind) && control.armed) c->interrupts++;
    if (!watching()) return;
    struct cl_thread* th = current_thread(c);
    if (!th && !c->owed_slot) return;
    __u64 t = bpf_ktime_get_ns();
    if (th && in_own_code(c, th)) leave_user(c, t, starts_departure);
    __u32 depth = c->depth;
    if (depth >= CL_NEST) {
        c->too_deep++;
        return;
    }
    struct cl_open* o = &c->open[depth & (CL_NEST - 1)];
    o->start = t;
    o->key = key;
    o->what = what;
    o->kind = kind;
    c->depth = depth + 1;
}

/* Closes the innermost open interval of that kind and key (and forgets any above it whose end was not seen). The record
 * comes back with a = what, b = key; the caller adds the rest and submits it. */
static __always_inline struct cl_record* leave(__u32 kind, __u64 key) {
    struct cl_cpu* c = this_cpu();
    if (!c) return 0;
    if (is_interrupt(kind) && c->interrupts) c->interrupts--;
    if (!watching()) return 0;
    struct cl_thread* th = current_thread(c);
    __u32 owed = c->owed_slot;
    __u32 depth = c->depth;
    if (!depth) return 0;
    __u64 t = bpf_ktime_get_ns();
    __u64 start = 0, what = 0;
    bool found = false;
    for (int i = 0; i < CL_NEST && depth && !found; i++) {
        depth--;
        struct cl_open* o = &c->open[depth & (CL_NEST - 1)];
        if (o->kind == kind && o->key == key) {
            found = true;
            start = o->start;
            what = o->what;
        }
    }
    if (!found) return 0;
    c->depth = depth;
    if (th && in_own_code(c, th)) c->user_since = t;
    if (!th) th = owed ? thread_at(owed) : 0;
    if (!th) return 0;
    struct cl_record* r = reserve(c, kind);
    if (!r) return 0;
    r->start = start;
    r->end = t;
    r->a = what;
    r->b = key;
    on_thread(r, c, th, depth != 0);
    return r;
}

static __always_inline int leave_and_submit(__u32 kind, __u64 key) {
    struct cl_record* r = leave(kind, key);
    if (r) submit(r);
    return 0;
}

#define VECTOR(name, id)                          \
    SEC("tp_btf/" #name "_entry")                 \
    int BPF_PROG(on_##name##_entry, int vector) { \
        enter(CL_VECTOR, vector, id, true);       \
        return 0;                                 \
    }                                             \
    SEC("tp_btf/" #name "_exit")                  \
    int BPF_PROG(on_##name##_exit, int vector) { return leave_and_submit(CL_VECTOR, vector); }

VECTOR(local_timer, CL_VEC_LOCAL_TIMER)
VECTOR(reschedule, CL_VEC_RESCHEDULE)
VECTOR(call_function, CL_VEC_CALL_FUNCTION)
VECTOR(call_function_single, CL_VEC_CALL_FUNCTION_SINGLE)
VECTOR(irq_work, CL_VEC_IRQ_WORK)
VECTOR(x86_platform_ipi, CL_VEC_PLATFORM_IPI)
VECTOR(error_apic, CL_VEC_ERROR)
VECTOR(spurious_apic, CL_VEC_SPURIOUS)
VECTOR(thermal_apic, CL_VEC_THERMAL)
VECTOR(threshold_apic, CL_VEC_THRESHOLD)
VECTOR(deferred_error_apic, CL_VEC_DEFERRED_ERROR)

SEC("tp_btf/irq_handler_entry")
int BPF_PROG(on_irq_handler_entry, int irq, struct irqaction* action) {
    enter(CL_IRQ, (__u64)action, irq, true);
    return 0;
}

SEC("tp_btf/irq_handler_exit")
int BPF_PROG(on_irq_handler_exit, int irq, struct irqaction* action, int ret) {
    struct cl_record* r = leave(CL_IRQ, (__u64)action);
    if (!r) return 0;
    r->b = ret;
    bpf_probe_read_kernel_str(r->comm, sizeof(r->comm), action->name);
    submit(r);
    return 0;
}

SEC("tp_btf/softirq_entry")
int BPF_PROG(on_softirq_entry, unsigned int vec) {
    enter(CL_SOFTIRQ, vec, vec, false);
    return 0;
}

SEC("tp_btf/softirq_exit")
int BPF_PROG(on_softirq_exit, unsigned int vec) { return leave_and_submit(CL_SOFTIRQ, vec); }

/* The functions are read at the entry: a timer may be gone when it has expired. */
SEC("tp_btf/hrtimer_expire_entry")
int BPF_PROG(on_hrtimer_entry, struct hrtimer* timer) {
    enter(CL_HRTIMER, (__u64)timer, (__u64)timer->function, false);
    return 0;
}

SEC("tp_btf/hrtimer_expire_exit")
int BPF_PROG(on_hrtimer_exit, struct hrtimer* timer) { return leave_and_submit(CL_HRTIMER, (__u64)timer); }

SEC("tp_btf/timer_expire_entry")
int BPF_PROG(on_timer_entry, struct timer_list* timer) {
    enter(CL_TIMER, (__u64)timer, (__u64)timer->function, false);
    return 0;
}

SEC("tp_btf/timer_expire_exit")
int BPF_PROG(on_timer_exit, struct timer_list* timer) { return leave_and_submit(CL_TIMER, (__u64)timer); }

/* raw_tp here and for csd_queue_cpu: pointers to functions are not arguments that tp_btf may read. */
SEC("raw_tp/csd_function_entry")
int BPF_PROG(on_csd_entry, void* function, void* csd) {
    /* without a csd it is this CPU's own share of a call that it makes: no IPI */
    if (csd) enter(CL_CSD, (__u64)csd, (__u64)function, false);
    return 0;
}

SEC("raw_tp/csd_function_exit")
int BPF_PROG(on_csd_exit, void* function, void* csd) { return leave_and_submit(CL_CSD, (__u64)csd); }

SEC("tp_btf/workqueue_execute_start")
int BPF_PROG(on_work_start, struct work_struct* work) {
    enter(CL_WORK, (__u64)work, (__u64)work->func, false);
    return 0;
}

SEC("tp_btf/workqueue_execute_end")
int BPF_PROG(on_work_end, struct work_struct* work) {
    struct cl_record* r = leave(CL_WORK, (__u64)work);
    if (!r) return 0;
    by_current(r);
    submit(r);
    return 0;
}

/* The tracepoint comes after the handler and carries its length. It may interrupt any other program here, so it
 * touches nothing of the CPU's state but the record. */
SEC("tp_btf/nmi_handler")
int BPF_PROG(on_nmi, void* handler, __s64 delta_ns, int handled) {
    if (!watching()) return 0;
    struct cl_cpu* c = this_cpu();
    if (!c) return 0;
    __u32 slot = slot_of((__u32)bpf_get_current_pid_tgid());
    if (!slot) slot = c->owed_slot;
    struct cl_thread* th = slot ? thread_at(slot) : 0;
    if (!th) return 0;
    __u64 t = bpf_ktime_get_ns();
    struct cl_record* r = reserve(c, CL_NMI);
    if (!r) return 0;
    r->start = t - delta_ns;
    r->end = t;
    r->a = (__u64)handler;
    r->b = handled;
    on_thread(r, c, th, c->depth != 0);
    submit(r);
    return 0;
}

/* ---- Who sent it ---- */

/* Is a watched thread on that CPU, or waiting for it? */
static __always_inline bool concerns(__u32 cpu) {
    struct cl_cpu* target = cpu_at(cpu);
    return target && (target->on || target->owed_slot);
}

static __always_inline void sent(void* ctx, __u32 kind, __u32 target, __u64 b, __u64 function, __u64 callsite) {
    struct cl_cpu* c = this_cpu();
    if (!c) return;
    __u64 t = bpf_ktime_get_ns();
    __u64 id = bpf_get_current_pid_tgid(), ip = 0, caller = callsite;
    struct task_struct* task = bpf_get_current_task_btf();
    if (id >> 32 && !(task->flags & PF_KTHREAD) && !in_interrupt()) {
        struct pt_regs* regs = (struct pt_regs*)bpf_task_pt_regs(task);
        __u64 sp = regs->sp;
        ip = regs->ip;
        c->probing = 1;
        bpf_probe_read_user(&caller, sizeof(caller), (void*)sp);
        c->probing = 0;
    }
    bool sample = false;
    __u64 key = mix(mix(mix(mix(mix(kind, id >> 32), function), ip), caller), callsite);
    struct cl_site* site = count_site(key, kind, id >> 32, ip, caller, function, t, t, &sample);
    __u32 stack = sample ? sample_stack(ctx, c, site, key, t) : 0;
    struct cl_record* r = reserve(c, kind);
    if (!r) return;
    r->start = r->end = t;
    r->a = target;
    r->b = b;
    r->c = function;
    r->d = callsite;
    r->stack = stack;
    r->site = key;
    by_current(r);
    submit(r);
}

SEC("raw_tp/csd_queue_cpu")
int BPF_PROG(on_csd_queue, unsigned int cpu, unsigned long callsite, void* function, void* csd) {
    if (watching() && concerns(cpu)) sent(ctx, CL_CSD_QUEUE, cpu, (__u64)csd, (__u64)function, callsite);
    return 0;
}

/* callback 0: a reschedule; function calls come through csd_queue_cpu */
SEC("tp_btf/ipi_send_cpu")
int BPF_PROG(on_ipi_send, unsigned int cpu, unsigned long callsite, void* callback) {
    if (!callback && watching() && concerns(cpu)) sent(ctx, CL_RESCHED_SEND, cpu, 0, 0, callsite);
    return 0;
}

SEC("tp_btf/workqueue_queue_work")
int BPF_PROG(on_work_queue, int req_cpu, struct pool_workqueue* pwq, struct work_struct* work) {
    if (!watching()) return 0;
    int cpu = pwq->pool->cpu;
    if (cpu >= 0 && concerns(cpu)) sent(ctx, CL_WORK_QUEUE, cpu, (__u64)work, (__u64)work->func, 0);
    return 0;
}

/* ---- Signals ---- */

SEC("tp_btf/signal_generate")
int BPF_PROG(on_signal_generate, int sig, struct kernel_siginfo* info, struct task_struct* task, int group) {
    if (!watching()) return 0;
    __u32 slot = slot_of(task->pid);
    struct cl_thread* th = slot ? thread_at(slot) : 0;
    struct cl_cpu* c = this_cpu();
    if (!th || !c) return 0;
    struct cl_record* r = reserve(c, CL_SIGNAL_GENERATE);
    if (!r) return 0;
    int code = 0;
    /* SEND_SIG_NOINFO and SEND_SIG_PRIV are 0 and 1 */
    if ((unsigned long)info == 1) code = 0x80; /* SI_KERNEL */
    if ((unsigned long)info > 1) bpf_probe_read_kernel(&code, sizeof(code), &info->si_code);
    r->start = r->end = bpf_ktime_get_ns();
    r->tid = task->pid;
    r->tgid = task->tgid;
    r->a = sig;
    r->b = (__s64)code;
    r->c = group;
    by_current(r);
    submit(r);
    return 0;
}

SEC("tp_btf/signal_deliver")
int BPF_PROG(on_signal_deliver, int sig, struct kernel_siginfo* info, struct k_sigaction* action) {
    if (!watching()) return 0;
    struct cl_cpu* c = this_cpu();
    struct cl_thread* th = c ? current_thread(c) : 0;
    if (!th) return 0;
    __u64 t = bpf_ktime_get_ns();
    close_fault(ctx, c, th, t);
    th->signals++;
    if (in_own_code(c, th)) {
        leave_user(c, t, false);
        c->user_since = t;
    }
    bool sample = false;
    struct task_struct* task = bpf_get_current_task_btf();
    struct pt_regs* regs = (struct pt_regs*)bpf_task_pt_regs(task);
    __u64 ip = regs->ip;
    __u64 key = mix(mix(mix(CL_SIGNAL_DELIVER, th->tgid), sig), ip);
    struct cl_site* site = count_site(key, CL_SIGNAL_DELIVER, th->tgid, ip, 0, sig, t, t, &sample);
    __u32 stack = sample ? sample_stack(ctx, c, site, key, t) : 0;
    struct cl_record* r = reserve(c, CL_SIGNAL_DELIVER);
    if (!r) return 0;
    int code = 0;
    void* address = 0;
    bpf_probe_read_kernel(&code, sizeof(code), &info->si_code);
    bpf_probe_read_kernel(&address, sizeof(address), &info->_sifields._sigfault._addr);
    r->start = r->end = t;
    on_thread(r, c, th, c->depth != 0);
    r->a = sig;
    r->b = (__s64)code;
    r->c = (__u64)action->sa.sa_handler;
    r->d = (__u64)address;
    r->stack = stack;
    r->site = key;
    submit(r);
    return 0;
}

/* ---- The scheduler: who is on the CPU, who waits, who came and went ---- */

static __always_inline void switched_out(void* ctx, struct cl_cpu* c, __u32 slot, struct cl_thread* th, __u64 t,
                                         bool preempt, struct task_struct* next, __u64 state) {
    bool runnable = preempt || !state;
    if (th->out_since) back_on_cpu(c, slot, th, t, CL_END_UNSEEN);
    /* A fault goes on while its page is read from a disk. A thread that dies or was stopped is through with it. */
    if (state & (TASK_DEAD | TASK_HELD)) close_fault(ctx, c, th, t);
    if (in_own_code(c, th)) leave_user(c, t, false);
    c->user_since = 0;
    th->out_since = t;
    th->out_cpu = bpf_get_smp_processor_id();
    th->out_state = state;
    th->out_involuntary = runnable;
    th->out_who = next->pid;
    th->out_who_tgid = next->tgid;
    bpf_probe_read_kernel_str(th->out_comm, sizeof(th->out_comm), next->comm);
    if (runnable) {
        th->switches_involuntary++;
        c->owed_slot = slot;
        c->other_since = 0;
    } else {
        th->switches_voluntary++;
        if (c->owed_slot == slot) c->owed_slot = 0;
    }
    if (th->sys_nr >= 0) th->nested = 1;
}

/* exit and exit_group do not return: the thread's last switch ends them. */
static __always_inline void end_last_syscall(struct cl_cpu* c, struct cl_thread* th, __u64 t) {
    __s32 nr = th->sys_nr;
    if (nr < 0 || !watching() || th->sys_enter <= control.begin) return;
    struct cl_cell* cell = cell_of(c, nr);
    if (!cell) return;
    th->syscalls++;
    count_syscall(c, cell, th->sys_enter, t);
    struct cl_record* r = reserve(c, CL_SYSCALL);
    if (!r) return;
    cell->recorded++;
    r->start = th->sys_enter;
    r->end = t;
    r->tid = th->tid;
    r->tgid = th->tgid;
    r->a = (__u32)nr;
    submit(r);
}

static __always_inline void thread_gone(struct cl_cpu* c, __u32 slot, struct cl_thread* th, __u64 t) {
    __u32 tid = th->tid;
    if (watching()) {
        struct cl_record* r = reserve(c, CL_EXIT);
        if (r) {
            r->start = r->end = t;
            r->tid = tid;
            r->tgid = th->tgid;
            r->a = th->syscalls;
            r->b = th->faults_minor + th->faults_major + th->faults_failed;
            r->c = th->switches_voluntary + th->switches_involuntary;
            r->d = th->migrations;
            __builtin_memcpy(r->comm, th->comm, sizeof(r->comm));
            submit(r);
        }
    }
    c->slot = 0;
    if (c->owed_slot == slot) c->owed_slot = 0;
    th->live = 0;
    th->out_since = 0;
    bpf_map_push_elem(&free_slots, &slot, 0);
}

static __always_inline void other_ran(struct cl_cpu* c, struct task_struct* prev, __u64 t) {
    struct cl_thread* th = thread_at(c->owed_slot);
    if (!th || !c->other_since || !watching()) return;
    struct cl_record* r = reserve(c, CL_OTHER);
    if (!r) return;
    r->start = c->other_since;
    r->end = t;
    on_thread(r, c, th, false);
    r->flags |= CL_IN_OFFCPU;
    by(r, prev->pid, prev->tgid);
    bpf_probe_read_kernel_str(r->comm, sizeof(r->comm), prev->comm);
    submit(r);
}

static __always_inline void switched_in(struct cl_cpu* c, __u32 slot, struct cl_thread* th, __u64 t) {
    th->seen = 1;
    c->depth = 0;
    back_on_cpu(c, slot, th, t, 0);
    if (th->sys_nr == CL_NO_SYSCALL && !th->fault_enter) c->user_since = t;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, bool preempt, struct task_struct* prev, struct task_struct* next) {
    struct cl_cpu* c = this_cpu();
    if (!c) return 0;
    __u32 prev_slot = c->tid == (__u32)prev->pid ? c->slot : prev->pid ? slot_of(prev->pid) : 0;
    __u32 next_slot = next->pid ? slot_of(next->pid) : 0;
    if (!constants.softirqs_are_threads) c->interrupts = 0; /* no switch happens inside one */
    if (!prev_slot && !next_slot && !c->owed_slot && !c->on) {
        c->tid = next->pid;
        c->slot = 0;
        return 0;
    }
    __u64 t = bpf_ktime_get_ns();
    if (prev_slot) {
        struct cl_thread* th = thread_at(prev_slot);
        if (th) {
            __u64 state = 0;
            if (constants.switch_has_state) state = (__u32)ctx[3];
            th->seen = 1;
            switched_out(ctx, c, prev_slot, th, t, preempt, next, state);
            if (state & TASK_DEAD) {
                __u32 tid = prev->pid;
                bpf_map_delete_elem(&slots, &tid);
                c->slot = prev_slot;
                end_last_syscall(c, th, t);
                thread_gone(c, prev_slot, th, t);
            }
        }
    } else if (c->owed_slot) {
        other_ran(c, prev, t);
    }
    c->on = 0;
    if (next_slot) {
        struct cl_thread* th = thread_at(next_slot);
        if (th) switched_in(c, next_slot, th, t);
    }
    c->other_since = c->owed_slot && !next_slot ? t : 0;
    c->tid = next->pid;
    c->slot = next_slot;
    return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct* parent, struct task_struct* child) {
    __u32 parent_slot = slot_of(parent->pid);
    struct cl_cpu* c = this_cpu();
    if (!parent_slot || !c) return 0;
    __u32 slot = 0, tid = child->pid;
    /* Slots that were never used come first, so that the counters of threads that are gone stay theirs for long. */
    if (control.slots_used < CL_SLOTS) slot = __sync_fetch_and_add(&control.slots_used, 1);
    if (!slot || slot >= CL_SLOTS) {
        slot = 0;
        if (bpf_map_pop_elem(&free_slots, &slot)) {
            __sync_fetch_and_add(&control.slots_exhausted, 1);
            return 0;
        }
    }
    struct cl_thread* th = thread_at(slot);
    if (!th) return 0;
    if (th->tid) th->reused = 1;
    th->tid = tid;
    th->tgid = child->tgid;
    th->live = 1;
    th->seen = 1;
    th->sys_nr = CL_SYSCALL_UNWATCHED; /* it returns from its parent's clone */
    th->fault_enter = 0;
    th->out_since = 0;
    th->tokens_at = 0;
    bpf_probe_read_kernel_str(th->comm, sizeof(th->comm), child->comm);
    bpf_map_update_elem(&slots, &tid, &slot, BPF_ANY);
    if (!watching()) return 0;
    struct cl_record* r = reserve(c, CL_FORK);
    if (!r) return 0;
    r->start = r->end = bpf_ktime_get_ns();
    r->tid = parent->pid;
    r->tgid = parent->tgid;
    r->a = tid;
    r->b = child->tgid;
    __builtin_memcpy(r->comm, th->comm, sizeof(r->comm));
    submit(r);
    return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct* task, int old_pid) {
    __u32 tid = task->pid, old = old_pid;
    __u32 slot = slot_of(old);
    struct cl_cpu* c = this_cpu();
    struct cl_thread* th = slot ? thread_at(slot) : 0;
    if (!th || !c) return 0;
    if (old != tid) { /* a thread that is not the leader takes over the leader's number */
        bpf_map_update_elem(&slots, &tid, &slot, BPF_ANY);
        bpf_map_delete_elem(&slots, &old);
        th->tid = tid;
        c->tid = tid;
        c->slot = slot;
    }
    bpf_probe_read_kernel_str(th->comm, sizeof(th->comm), task->comm);
    __u64 t = bpf_ktime_get_ns();
    if (control.begin_on_exec && control.begin_on_exec == tid && !control.begin) {
        th->sys_nr = CL_SYSCALL_UNWATCHED;
        th->fault_enter = 0;
        control.begin = t;
        control.begin_on_exec = 0;
    }
    if (!watching()) return 0;
    struct cl_record* r = reserve(c, CL_EXEC);
    if (!r) return 0;
    r->start = r->end = t;
    r->tid = tid;
    r->tgid = th->tgid;
    __builtin_memcpy(r->comm, th->comm, sizeof(r->comm));
    submit(r);
    return 0;
}

SEC("tp_btf/sched_migrate_task")
int BPF_PROG(on_migrate, struct task_struct* task, int to) {
    if (!watching()) return 0;
    __u32 slot = slot_of(task->pid);
    struct cl_thread* th = slot ? thread_at(slot) : 0;
    struct cl_cpu* c = this_cpu();
    if (!th || !c) return 0;
    __sync_fetch_and_add(&th->migrations, 1);
    struct cl_record* r = reserve(c, CL_MIGRATE);
    if (!r) return 0;
    r->start = r->end = bpf_ktime_get_ns();
    on_thread(r, c, th, false);
    r->a = task->thread_info.cpu;
    r->b = to;
    by_current(r);
    submit(r);
    return 0;
}
