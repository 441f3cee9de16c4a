/* The kernel's types, as far as the probe reads them. Offsets come from the running kernel's BTF when it is loaded, so
 * a structure here names its fields and nothing else. */
#ifndef CLOISTER_BREACH_PROBE_KERNEL_BPF_H
#define CLOISTER_BREACH_PROBE_KERNEL_BPF_H

#include "record.h"

#define KERNEL __attribute__((preserve_access_index))

struct pt_regs {
    unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
} KERNEL;
struct thread_info {
    __u32 status, cpu;
} KERNEL;
struct task_struct {
    struct thread_info thread_info;
    __u32 flags;
    int pid, tgid;
    char comm[CL_COMM];
} KERNEL;
struct irqaction {
    const char* name;
} KERNEL;
struct hrtimer {
    void* function;
} KERNEL;
struct timer_list {
    void* function;
} KERNEL;
struct work_struct {
    void* func;
} KERNEL;
struct worker_pool {
    int cpu;
} KERNEL;
struct pool_workqueue {
    struct worker_pool* pool;
} KERNEL;
struct kernel_siginfo {
    int si_signo, si_errno, si_code;
    union {
        struct {
            void* _addr;
        } _sigfault;
    } _sifields;
} KERNEL;
struct sigaction {
    void* sa_handler;
} KERNEL;
struct k_sigaction {
    struct sigaction sa;
} KERNEL;

#define PF_KTHREAD 0x00200000
#define TS_COMPAT 0x0002
#define TASK_DEAD 0x80
#define TASK_HELD (0x4 | 0x8) /* stopped or traced */

#endif
