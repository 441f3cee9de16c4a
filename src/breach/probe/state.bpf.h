/* What the probe keeps and how it writes: maps, finding the thread that an event concerns, records, stacks, sites. */
#ifndef CLOISTER_BREACH_PROBE_STATE_BPF_H
#define CLOISTER_BREACH_PROBE_STATE_BPF_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "kernel.bpf.h"
#include "record.h"

/* A softirq or switch that follows an interrupt within this time belongs to the same departure (see correlate.hpp). */
#define TAIL_NS 20000

/* ---- Maps ---- */

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, CL_CPUS);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct cl_cpu);
} cpus SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, CL_SLOTS);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct cl_thread);
} threads SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, CL_CELLS);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct cl_cell);
} cells SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 32768);
    __type(key, __u32);   /* tid */
    __type(value, __u32); /* slot */
} slots SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_QUEUE);
    __uint(max_entries, CL_SLOTS);
    __type(value, __u32);
} free_slots SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 8192);
    __type(key, __u64);
    __type(value, struct cl_site);
} sites SEC(".maps");

struct ring {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1 << 20);
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
    __uint(max_entries, CL_CPUS);
    __type(key, __u32);
    __array(values, struct ring);
} rings SEC(".maps");

struct cl_control control;
const volatile struct cl_constants constants;

/* ---- Finding out who this is ---- */

static __always_inline bool watching(void) { return control.begin && !control.end; }

static __always_inline struct cl_cpu* cpu_at(__u32 cpu) { return bpf_map_lookup_elem(&cpus, &cpu); }
static __always_inline struct cl_cpu* this_cpu(void) { return cpu_at(bpf_get_smp_processor_id()); }
static __always_inline struct cl_thread* thread_at(__u32 slot) { return bpf_map_lookup_elem(&threads, &slot); }

static __always_inline __u32 slot_of(__u32 tid) {
    __u32* slot = bpf_map_lookup_elem(&slots, &tid);
    return slot ? *slot : 0;
}

/* The slot of the current thread, 0 if it is not watched; cached per CPU until another thread shows up. */
static __always_inline __u32 current_slot(struct cl_cpu* c) {
    __u32 tid = (__u32)bpf_get_current_pid_tgid();
    if (c->tid != tid || !tid) {
        c->slot = tid ? slot_of(tid) : 0;
        c->tid = tid;
    }
    return c->slot;
}

static __always_inline void leave_user(struct cl_cpu* c, __u64 t, bool starts_departure) {
    if (!c->user_since) return;
    if (starts_departure || t - c->user_since > TAIL_NS) {
        __u64 since = c->user_since > control.begin ? c->user_since : control.begin;
        if (control.begin && t > since) c->kept_ns += t - since;
    }
    c->user_since = 0;
}

static __always_inline bool in_own_code(const struct cl_cpu* c, const struct cl_thread* th) {
    return th->sys_nr == CL_NO_SYSCALL && !th->fault_enter && !c->depth;
}

/* Is this CPU another than the watched one? */
static __always_inline bool away(void) { return control.cpu >= 0 && bpf_get_smp_processor_id() != (__u32)control.cpu; }

/* ---- Writing ---- */

static __always_inline struct cl_record* reserve(struct cl_cpu* c, __u16 kind) {
    __u32 cpu = bpf_get_smp_processor_id();
    void* ring = bpf_map_lookup_elem(&rings, &cpu);
    struct cl_record* r = ring ? bpf_ringbuf_reserve(ring, sizeof(*r), 0) : 0;
    if (!r) {
        c->dropped[kind & (CL_KINDS - 1)]++;
        return 0;
    }
    __builtin_memset(r, 0, sizeof(*r));
    r->kind = kind;
    r->cpu = cpu;
    r->sys_nr = CL_NO_SYSCALL;
    c->written++;
    return r;
}

static __always_inline void submit(void* r) { bpf_ringbuf_submit(r, BPF_RB_NO_WAKEUP); }

/* Which thread it happened to and what that thread was in. */
static __always_inline void on_thread(struct cl_record* r, const struct cl_cpu* c, struct cl_thread* th, bool nested) {
    r->tid = th->tid;
    r->tgid = th->tgid;
    if (th->sys_nr >= 0) {
        r->sys_nr = th->sys_nr;
        r->sys_enter = th->sys_enter;
        r->flags |= CL_IN_SYSCALL;
        th->nested = 1;
    }
    if (th->fault_enter) r->flags |= CL_IN_FAULT;
    if (th->out_since) r->flags |= CL_IN_OFFCPU;
    if (nested) r->flags |= CL_IN_IRQ;
    if (r->start < control.begin) {
        r->start = control.begin;
        r->flags |= CL_START_UNSEEN;
    }
}

static __always_inline void by(struct cl_record* r, __u32 tid, __u32 tgid) {
    r->who_tid = tid;
    r->who_tgid = tgid;
    if (tgid == control.observer_tgid && tgid) r->flags |= CL_BY_OBSERVER;
}

/* The thread has a CPU again: closes the interval in which it had none. With CL_END_UNSEEN the switch itself was not
 * shown (some kernels hide switches away from tasks of theirs) and the thread is seen to do something else. Not
 * inlined: rare but on every path. */
static __noinline int back_on_cpu(struct cl_cpu* c, __u32 slot, struct cl_thread* th, __u64 t, __u32 flags) {
    if (!c || !th) return 0;
    __u64 since = th->out_since;
    __u32 from = th->out_cpu;
    th->out_since = 0;
    c->on = 1;
    if (c->owed_slot == slot) c->owed_slot = 0;
    if (since && from != bpf_get_smp_processor_id()) {
        struct cl_cpu* old = cpu_at(from);
        if (old && old->owed_slot == slot) old->owed_slot = 0;
    }
    if (!since || !watching()) return 0;
    struct cl_record* r = reserve(c, CL_OFFCPU);
    if (!r) return 0;
    r->start = since;
    r->end = t;
    on_thread(r, c, th, false);
    r->flags |= flags;
    r->a = th->out_state;
    r->b = th->out_involuntary;
    r->c = from;
    by(r, th->out_who, th->out_who_tgid);
    __builtin_memcpy(r->comm, th->out_comm, sizeof(r->comm));
    submit(r);
    return 0;
}

/* The current thread if it is watched. Seen for the first time in the middle of its own code (attached while it ran),
 * it is taken to have been there since the watch began. */
static __always_inline struct cl_thread* current_thread(struct cl_cpu* c) {
    __u32 slot = current_slot(c);
    if (!slot) return 0;
    struct cl_thread* th = thread_at(slot);
    if (th && th->out_since) back_on_cpu(c, slot, th, bpf_ktime_get_ns(), CL_END_UNSEEN);
    if (th && !th->seen) {
        th->seen = 1;
        if (!c->on) {
            c->on = 1;
            if (th->sys_nr == CL_NO_SYSCALL) c->user_since = control.begin;
        }
    }
    return th;
}

/* Does an interrupt or softirq run here? Then the current task has nothing to do with it. */
static __always_inline bool in_interrupt(void) {
    struct cl_cpu* c = this_cpu();
    return c && c->interrupts;
}

static __always_inline void by_current(struct cl_record* r) {
    __u64 id = bpf_get_current_pid_tgid();
    by(r, (__u32)id, id >> 32);
    if (in_interrupt()) {
        r->flags |= CL_BY_INTERRUPT;
        r->flags &= ~CL_BY_OBSERVER;
    }
    bpf_get_current_comm(r->comm, sizeof(r->comm));
}

/* The smaller steps first: a program near the top of its stack has less than CL_STACK_COPY mapped above sp. */
static __always_inline __u32 copy_stack(__u8* to, __u64 sp) {
    const void* from = (const void*)sp;
    if (!bpf_probe_read_user(to, CL_STACK_COPY, from)) return CL_STACK_COPY;
    if (!bpf_probe_read_user(to, CL_STACK_COPY / 2, from)) return CL_STACK_COPY / 2;
    if (!bpf_probe_read_user(to, CL_STACK_COPY / 4, from)) return CL_STACK_COPY / 4;
    if (!bpf_probe_read_user(to, CL_STACK_COPY / 16, from)) return CL_STACK_COPY / 16;
    return 0;
}

static __always_inline bool take_stack_token(struct cl_cpu* c, __u64 t) {
    if (!c->stack_tokens_at) {
        c->stack_tokens = control.stacks_burst;
        c->stack_tokens_at = t;
    } else if (t - c->stack_tokens_at > 1000000) {
        __u64 more = (t - c->stack_tokens_at) * control.stacks_per_s / 1000000000;
        if (more) {
            c->stack_tokens += more;
            if (c->stack_tokens > control.stacks_burst) c->stack_tokens = control.stacks_burst;
            c->stack_tokens_at = t;
        }
    }
    if (!c->stack_tokens) return false;
    c->stack_tokens--;
    return true;
}

/* The current task's stacks, as a record of their own; 0 when there was no room. Not inlined: it is large. */
static __noinline __u32 write_stack(void* ctx, struct cl_cpu* c, __u64 site) {
    __u32 cpu = bpf_get_smp_processor_id();
    if (!c || !ctx) return 0;
    void* ring = bpf_map_lookup_elem(&rings, &cpu);
    struct cl_stack* s = ring ? bpf_ringbuf_reserve(ring, sizeof(*s), 0) : 0;
    if (!s) {
        c->dropped[CL_STACK]++;
        return 0;
    }
    __u64 id = bpf_get_current_pid_tgid();
    s->start = s->end = bpf_ktime_get_ns();
    s->kind = CL_STACK;
    s->cpu = cpu;
    s->id = (cpu << 22) | (++c->stacks & 0x3fffff);
    s->tid = (__u32)id;
    s->tgid = id >> 32;
    s->site = site;
    s->kernel_n = s->user_n = s->copy_n = s->reserved = 0;
    s->ax = s->bx = s->cx = s->dx = s->si = s->di = s->bp = s->sp = 0;
    s->r8 = s->r9 = s->r10 = s->r11 = s->r12 = s->r13 = s->r14 = s->r15 = s->ip = 0;
    long n = bpf_get_stack(ctx, s->kernel, sizeof(s->kernel), 0);
    if (n > 0) s->kernel_n = n / 8;
    struct task_struct* task = bpf_get_current_task_btf();
    /* Of an interrupt on another task's time, that task's own stack is no part. Watched threads' stacks are taken
     * when they enter the kernel, or when it lets them go. */
    if (!(task->flags & PF_KTHREAD) && id >> 32 && !in_interrupt()) {
        struct pt_regs* regs = (struct pt_regs*)bpf_task_pt_regs(task);
        s->ax = regs->ax;
        s->bx = regs->bx;
        s->cx = regs->cx;
        s->dx = regs->dx;
        s->si = regs->si;
        s->di = regs->di;
        s->bp = regs->bp;
        s->sp = regs->sp;
        s->r8 = regs->r8;
        s->r9 = regs->r9;
        s->r10 = regs->r10;
        s->r11 = regs->r11;
        s->r12 = regs->r12;
        s->r13 = regs->r13;
        s->r14 = regs->r14;
        s->r15 = regs->r15;
        s->ip = regs->ip;
        c->probing = 1;
        n = bpf_get_stack(ctx, s->user, sizeof(s->user), BPF_F_USER_STACK);
        if (n > 0) s->user_n = n / 8;
        s->copy_n = copy_stack(s->copy, s->sp);
        c->probing = 0;
    }
    __u32 result = s->id;
    submit(s);
    c->written++;
    return result;
}

/* Counts an event at its site; a sample of its stack is due at the 1st (or as soon as there is a token for it), 2nd,
 * 4th, 8th ... occurrence. */
static __always_inline struct cl_site* count_site(__u64 key, __u32 kind, __u32 tgid, __u64 ip, __u64 ret, __u64 aux,
                                                  __u64 start, __u64 end, bool* sample) {
    struct cl_site* s = bpf_map_lookup_elem(&sites, &key);
    if (!s) {
        struct cl_site fresh = {.ip = ip, .ret = ret, .tgid = tgid, .kind = kind, .aux = aux, .first = start};
        if (bpf_map_update_elem(&sites, &key, &fresh, BPF_NOEXIST) < 0) {
            s = bpf_map_lookup_elem(&sites, &key);
            if (!s) {
                __sync_fetch_and_add(&control.sites_dropped, 1);
                *sample = true; /* no memory of it: let the token bucket alone decide */
                return 0;
            }
        } else {
            s = bpf_map_lookup_elem(&sites, &key);
        }
        if (!s) return 0;
    }
    __u64 duration = end - start;
    __u64 n = __sync_fetch_and_add(&s->count, 1) + 1;
    __sync_fetch_and_add(&s->total, duration);
    if (duration > s->max) s->max = duration;
    s->last = end;
    *sample = !s->stacks || (n & (n - 1)) == 0;
    return s;
}

static __always_inline __u64 mix(__u64 h, __u64 v) {
    h ^= v;
    h *= 0x9e3779b97f4a7c15ull;
    return h ^ (h >> 29);
}

static __always_inline __u32 sample_stack(void* ctx, struct cl_cpu* c, struct cl_site* site, __u64 key, __u64 t) {
    if (!take_stack_token(c, t)) return 0;
    __u32 id = write_stack(ctx, c, key);
    if (id && site) site->stacks++;
    return id;
}

/* May the thread write one more record of its own doing? */
static __always_inline bool take_token(struct cl_thread* th, __u64 t) {
    if (!th->tokens_at) {
        th->tokens = control.records_burst;
        th->tokens_at = t;
    } else if (t - th->tokens_at > 1000000) {
        __u64 more = (t - th->tokens_at) * control.records_per_s / 1000000000;
        th->tokens += more;
        if (th->tokens > control.records_burst) th->tokens = control.records_burst;
        th->tokens_at = t;
    }
    if (!th->tokens) return false;
    th->tokens--;
    return true;
}

#endif
