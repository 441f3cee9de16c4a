// What the kernel's numbers are called: syscalls, signals, faults, softirqs, vectors, functions called by IPI.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace cloister::breach {

// `nr` as in cl_record: an x86-64 number, or an i386 one | CL_I386. "write", "i386:write", "syscall 999".
[[nodiscard]] std::string syscall_name(std::uint64_t nr);
// Whether `nr` is `name` ("sched_yield") in either table.
[[nodiscard]] bool is_syscall(std::int64_t nr, std::string_view name);

// From the x86 error code and enum cl_fault_flags, as in cl_record and cl_site: "minor, write", "major, read, in
// kernel", "failed, fetch". Rows and exact counters of faults meet by this text.
[[nodiscard]] std::string fault_detail(std::uint64_t error_code, std::uint64_t flags);

// "SIGALRM", "SIGRTMIN+2", "signal 99".
[[nodiscard]] std::string signal_name(int signal);
// "SIGFPE, integer divide by zero" when the kernel raised it for an exception of the thread's own; else empty.
[[nodiscard]] std::string trap_detail(int signal, int si_code);
// Whether a timer of the process sent it: there is no sender then but the kernel.
[[nodiscard]] bool is_timer_signal(int signal, int si_code);

// "TIMER"; "softirq 12" for a number that no kernel had yet.
[[nodiscard]] std::string softirq_name(std::uint64_t vector);
// Of an enum cl_vector that has no cause of its own: "irq_work", "thermal"; "vector 0xf3" when unknown.
[[nodiscard]] std::string vector_name(std::uint64_t vector, std::uint64_t apic_vector);

// Without what the compiler appends to clones: "flush_tlb_func.isra.0".
[[nodiscard]] std::string_view base_function(std::string_view function);
// What a function that was called by IPI is for: "TLB flush (flush_tlb_func)", "function call: NAME".
[[nodiscard]] std::string ipi_detail(std::string_view function);
// Whether a hrtimer's function is the scheduler tick.
[[nodiscard]] bool is_tick_function(std::string_view function);

// The name that all workers of a pool share: "kworker/1:2-events" and "kworker/1:0" are both "kworker/1".
[[nodiscard]] std::string_view steady_comm(std::string_view comm);
// Kernel threads that are told apart by name, because their ids change with the load.
[[nodiscard]] bool is_pooled(std::string_view comm);

}  // namespace cloister::breach
