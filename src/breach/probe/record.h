/* The records that the kernel-side probe writes and the collector reads.
 *
 * Included by probe.bpf.c (compiled for BPF) and by C++; so: fixed-width types, no pointers, no padding that
 * matters, and the layout is asserted in probe.cpp.
 *
 * Rules that the rest relies on:
 *  R1  A record carries its own interval [start, end], in CLOCK_MONOTONIC nanoseconds, and is written at its end.
 *      A dropped record therefore never confuses the state of a later one.
 *  R2  Inner intervals end before outer ones, so on one CPU children are written before their parents.
 *  R3  Every ring belongs to one CPU; records in it are in order of `end`, except that an interrupt taken between
 *      the clock and the reservation may put a later record first (a few hundred nanoseconds).
 *  R4  What is not written for want of room is counted in cl_cpu.dropped[kind]; what is not written by choice
 *      (storms) is counted in cl_cell and cl_site, which are exact.
 */
#ifndef CLOISTER_BREACH_PROBE_RECORD_H
#define CLOISTER_BREACH_PROBE_RECORD_H

#ifdef __cplusplus
#include <cstdint>
typedef std::uint64_t cl_u64;
typedef std::uint32_t cl_u32;
typedef std::int32_t cl_s32;
typedef std::uint16_t cl_u16;
typedef std::uint8_t cl_u8;
#else
#include <linux/types.h>
typedef __u64 cl_u64;
typedef __u32 cl_u32;
typedef __s32 cl_s32;
typedef __u16 cl_u16;
typedef __u8 cl_u8;
#endif

enum {
    CL_COMM = 16,    /* TASK_COMM_LEN */
    CL_CPUS = 1024,  /* the highest CPU number + 1 that the probe can follow */
    CL_SLOTS = 4096, /* threads that can be watched at a time, less one: slot 0 means not watched */
    CL_BANKS = 256,  /* sets of syscall counters: slots below CL_BANKS - 1 have one each, the others share the last */
    CL_SYSCALLS = 1024, /* cells per bank: 0..511 x86-64 numbers, 512..1023 i386 numbers + 512 */
    CL_I386 = 512,
    CL_CELLS = 2 * CL_BANKS * CL_SYSCALLS, /* on the watched CPU, and on others */
    CL_NEST = 8,                           /* how deep interrupt-side intervals are followed on one CPU */
    CL_STACK_FRAMES = 32,                  /* frames kept of each of the two frame-pointer walks */
    CL_STACK_COPY = 4096,                  /* bytes of the user stack copied from its pointer upwards */
    CL_KINDS = 32,
    CL_AWAY = 0x100, /* of a site's kind: on another CPU than the watched one */
};

enum cl_kind {
    CL_NONE = 0,
    /* Intervals of a watched thread or of the CPU under it; `tid` is the watched thread that lost the time. */
    CL_SYSCALL = 1, /* a nr (|CL_I386 when 32-bit), b return value, c d first two arguments */
    CL_FAULT = 2,   /* a address, b pc, c x86 error code (1 present, 2 write, 4 user, 16 fetch), d CL_FAULT_* */
    CL_OFFCPU = 3,  /* was switched out: a prev_state, b 1 if involuntary (as counted in nivcsw), c CPU it left; who =
                       the task that took the CPU first */
    CL_OTHER = 4,   /* inside CL_OFFCPU of a thread that is still runnable: who ran on the CPU for this time */
    CL_VECTOR = 5,  /* a enum cl_vector, b APIC vector number */
    CL_IRQ = 6,     /* a irq number, b handler's return; comm = name of the action */
    CL_SOFTIRQ = 7, /* a vector (0 HI .. 9 RCU) */
    CL_HRTIMER = 8, /* a function, b the hrtimer */
    CL_TIMER = 9,   /* a function, b the timer */
    CL_CSD = 10,    /* a function, b csd: a function call by IPI; joins CL_CSD_QUEUE on (cpu, csd) in time order */
    CL_WORK = 11,   /* a function, b work; who = the kworker */
    CL_NMI = 12,    /* a handler, b handled */
    /* Points: start == end. */
    CL_SIGNAL_GENERATE = 16, /* to a watched thread: a signal, b si_code, c 1 if to the whole process; who = sender */
    CL_SIGNAL_DELIVER = 17,  /* a signal, b si_code, c handler (0 default, 1 ignore), d si_addr for faults */
    CL_CSD_QUEUE = 18,       /* who = sender, a target CPU, b csd, c function, d call site; stack of the sender */
    CL_RESCHED_SEND = 19,    /* who = sender, a target CPU, d call site */
    CL_WORK_QUEUE = 20,      /* who = sender, a target CPU, b work, c function */
    CL_MIGRATE = 21,         /* a from CPU, b to CPU; who = the task that moved it */
    CL_FORK = 22,            /* a child tid, b child tgid */
    CL_EXEC = 23,            /* comm = the new name */
    CL_EXIT = 24,  /* the thread's last switch: a syscalls, b faults, c switches, d migrations since it began */
    CL_STACK = 31, /* struct cl_stack */
};

enum {
    CL_NO_SYSCALL = -1,
    CL_SYSCALL_UNWATCHED =
        -2, /* in one that began before the watch did (the exec, the clone): its end is not an event */
};

enum cl_fault_flags {
    CL_FAULT_MAJOR = 1,
    CL_FAULT_END_UNSEEN = 2, /* the kernel did not account this fault (it ended in a signal, or was spurious): end is
                                when the thread was next seen, not when the fault was over */
    CL_FAULT_POINT = 8,      /* known only as an event: neither how long it took nor what kind of access it was */
    CL_FAULT_KERNEL = 4,     /* taken in the kernel on the thread's behalf (inside a syscall) */
};

enum cl_vector {
    CL_VEC_LOCAL_TIMER = 1,
    CL_VEC_RESCHEDULE = 2,
    CL_VEC_CALL_FUNCTION = 3,
    CL_VEC_CALL_FUNCTION_SINGLE = 4,
    CL_VEC_IRQ_WORK = 5,
    CL_VEC_PLATFORM_IPI = 6,
    CL_VEC_ERROR = 7,
    CL_VEC_SPURIOUS = 8,
    CL_VEC_THERMAL = 9,
    CL_VEC_THRESHOLD = 10,
    CL_VEC_DEFERRED_ERROR = 11,
};

enum cl_record_flags {
    CL_IN_SYSCALL = 1,     /* the watched thread was inside sys_nr (since sys_enter) when this began */
    CL_IN_FAULT = 2,       /* ... inside a page fault */
    CL_IN_IRQ = 4,         /* ... inside another interrupt-side interval */
    CL_IN_OFFCPU = 8,      /* the watched thread was switched out (and runnable) when this began */
    CL_END_UNSEEN = 64,    /* still open when the watch ended: end is the end of the watch */
    CL_START_UNSEEN = 16,  /* open already when the watch began: start is the beginning of the watch */
    CL_BY_INTERRUPT = 128, /* who only happened to run on that CPU: an interrupt or a softirq did it */
    CL_BY_OBSERVER = 32,   /* who is cloister itself */
};

struct cl_record {
    cl_u64 start, end;
    cl_u16 kind, cpu;
    cl_u32 flags;
    cl_u32 tid, tgid; /* the watched thread; 0 for CL_CSD_QUEUE, CL_RESCHED_SEND, CL_WORK_QUEUE */
    cl_u64 a, b, c, d;
    cl_u32 who_tid, who_tgid; /* the other party, see cl_kind */
    char comm[CL_COMM];       /* its name, or the irq action's */
    cl_s32 sys_nr;            /* the syscall that the watched thread is in, or -1 */
    cl_u32 stack;             /* id of the cl_stack written just before on this CPU, 0 for none */
    cl_u64 sys_enter;         /* when that syscall began, 0 if none */
    cl_u64 site;              /* identifies the code that did it (see cl_site); 0 for none */
};

struct cl_stack {
    cl_u64 start, end;
    cl_u16 kind, cpu;
    cl_u32 id;        /* unique in a watch */
    cl_u32 tid, tgid; /* whose stack it is: of a send, the sender's */
    cl_u64 site;
    cl_u64 ax, bx, cx, dx, si, di, bp, sp, r8, r9, r10, r11, r12, r13, r14, r15,
        ip;                                    /* user registers, 0 for kernel threads */
    cl_u32 kernel_n, user_n, copy_n, reserved; /* entries and bytes that are valid */
    cl_u64 kernel[CL_STACK_FRAMES];
    cl_u64 user[CL_STACK_FRAMES]; /* the kernel's frame-pointer walk of the user stack */
    cl_u8 copy[CL_STACK_COPY];    /* user memory at [sp, sp + copy_n) */
};

/* Exact counters: one per (place, bank, syscall); place 1 is any CPU but the watched one. */
struct cl_cell {
    cl_u64 count, total, max, first, last; /* ns; first = start of the first, last = end of the last */
    cl_u64 recorded;                       /* how many of them were also written as records */
};

/* Exact counters of a place in the program: for faults (by pc), for syscalls and sends (by call site). */
struct cl_site {
    cl_u64 count, total, max, first, last;
    cl_u64 ip, ret;    /* user pc, and the word at the stack pointer */
    cl_u32 tgid, kind; /* enum cl_kind, | CL_AWAY */
    cl_u64 stacks;     /* how many were sampled here */
    cl_u64 aux;        /* CL_SYSCALL: nr; CL_FAULT: (error code & 0xffff) | CL_FAULT_* << 16; sends: function */
};

struct cl_thread {
    cl_u32 tid, tgid;
    cl_u32 live, reused;   /* reused: counters hold more than this one thread */
    cl_u32 seen, reserved; /* seen: it has been current at an event */
    cl_s32 sys_nr;         /* CL_NO_SYSCALL, or the one it is in */
    cl_u32 nested;         /* something was recorded inside the open syscall, so record it too */
    cl_u64 sys_enter, sys_a, sys_b;
    cl_u64 sys_ip, sys_sp;
    cl_u64 fault_enter, fault_addr, fault_ip, fault_code; /* fault_enter 0: none open */
    cl_u64 out_since;                                     /* 0: on a CPU */
    cl_u32 out_runnable, out_cpu;
    cl_u32 out_who, out_who_tgid;
    cl_u64 out_state, out_involuntary;
    char out_comm[CL_COMM];
    cl_u64 tokens, tokens_at; /* how many records of its own doing may still be written, refilled by time */
    cl_u64 syscalls, faults_minor, faults_major, faults_failed;
    cl_u64 switches_voluntary, switches_involuntary, migrations, signals;
    char comm[CL_COMM];
};

struct cl_open {
    cl_u64 start, key, what; /* what: becomes the record's `a` */
    cl_u32 kind, reserved;
};

struct cl_cpu {
    cl_u32 tid, slot; /* cache: the thread that was last looked up here, and its slot (0: not watched) */
    cl_u32 on;        /* a watched thread is current on this CPU */
    cl_u32 owed_slot; /* the watched thread that was switched out here while runnable, 0 for none */
    cl_u32 owed_tid, owed_tgid;
    cl_u32 interrupts, pad; /* interrupts and softirqs that run here now, watched or not */
    cl_u32 depth, too_deep; /* open interrupt-side intervals */
    struct cl_open open[CL_NEST];
    cl_u64 user_since;  /* when the task went (back) to its own code; 0 while it is not there */
    cl_u64 kept_ns;     /* time in which a watched thread ran its own code here */
    cl_u64 other_since; /* when the task that runs while a thread is owed got the CPU */
    cl_u32 stacks;      /* stack ids given out here */
    cl_u32 probing;     /* the probe itself is reading user memory: a fault now is its own */
    cl_u64 stack_tokens, stack_tokens_at;
    cl_u64 written;           /* records */
    cl_u64 dropped[CL_KINDS]; /* records for which the ring had no room */
};

/* What the collector knows of the kernel before the probe is loaded; the verifier sees constants. The only object in
 * the probe's .rodata. */
struct cl_constants {
    cl_u32 switch_has_state;     /* sched_switch gives the previous task's state: since 5.18 */
    cl_u32 softirqs_are_threads; /* PREEMPT_RT */
};

/* Set by the collector, read by the probe. */
struct cl_control {
    cl_u64 begin, end;      /* the watch, CLOCK_MONOTONIC ns; begin 0: not yet; end 0: open */
    cl_s32 cpu;             /* the watched CPU; -1: all */
    cl_u32 observer_tgid;   /* cloister's own process */
    cl_u32 armed;           /* every program is attached */
    cl_u32 begin_on_exec;   /* tid whose next exec begins the watch, 0 for none */
    cl_u64 slots_used;      /* next slot that was never used */
    cl_u64 slots_exhausted; /* written by the probe: threads that could not be watched for want of a slot */
    cl_u64 sites_dropped;   /* written by the probe: events whose site found no room in the table */
    cl_u64 records_per_s, records_burst; /* per thread, of its own doing */
    cl_u64 stacks_per_s, stacks_burst;   /* per CPU */
};

#endif
