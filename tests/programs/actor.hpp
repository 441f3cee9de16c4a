// What the subcommands of `actor` share. They use bare syscalls and no allocation inside what is counted, so that what
// they say they did is all that they did.
#pragma once

#include <cstdint>
#include <span>

namespace actor {

// Arguments after the subcommand's name.
using Arguments = std::span<char*>;

// Every subcommand returns the exit status of the program.
int known(Arguments);

int spin(Arguments);
int syscalls(Arguments);
int faults(Arguments);
int pace(Arguments);

int exit_at_once(Arguments);
int print_time(Arguments);
int die_by_signal(Arguments);
int fork_exec(Arguments);
int daemonise(Arguments);
int change_affinity(Arguments);
int on_sigint(Arguments);
int thread_storm(Arguments);
int fork_storm(Arguments);
int print_ids(Arguments);

// The whole of argument `index` as a number in [low, high]; prints what is wrong and exits with 2 otherwise.
double number(Arguments, std::size_t index, const char* name, double low, double high);
double number(const char* text, const char* name, double low, double high);

// Prints "actor: WHAT: errno's text" and exits with 3.
[[noreturn]] void die(const char* what);

// Runs in user space alone for `seconds`: no syscall, only rdtsc.
void spin_for(double seconds);
// Ticks of the TSC in a second, measured over 5 ms against the vDSO's clock.
double tsc_hz();

// CLOCK_MONOTONIC, ns, through the vDSO.
std::uint64_t now_ns();

// Pins the calling thread to `cpu`; false with errno if the kernel refuses.
bool pin(int cpu);
// The one CPU that this thread may use; where there are several it pins itself to the highest first.
int pin_to_one();

}  // namespace actor
