// Real code interrupted at each of its instructions: a breakpoint is planted at one of them, the code is run, and when
// it gets there something else happens first.
//
// That is the way to interrupt a restartable sequence where one wants: a signal inside of it aborts it, so it cannot be
// single-stepped through, but it can be aborted at any of its instructions. What has been stored by then stays stored.
// All other code can also be stepped through, so that something happens before each of its instructions in one run.
// One thread; not for code that blocks SIGTRAP. A breakpoint is a byte of this program's text, written through
// /proc/self/mem; a step is the trap flag of the CPU.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace cloister::step {

using Address = std::uintptr_t;

// A piece of code: [begin, end).
struct Code {
    std::string name;
    Address begin = 0, end = 0;
};

// The functions of this program whose (mangled) names hold one of `parts`, from its symbol table.
[[nodiscard]] std::vector<Code> functions(const std::vector<std::string>& parts);

// A restartable sequence of this program, from its section __rseq_cs: a signal at an address in [start, commit) goes on
// at `abort`.
struct Sequence {
    Address start = 0, commit = 0, abort = 0;
    [[nodiscard]] bool holds(Address at) const { return at >= start && at < commit; }
};
[[nodiscard]] std::vector<Sequence> sequences();

// Where its instructions begin. Code that cannot be decoded to its end ends the program: coverage would be a guess.
[[nodiscard]] std::vector<Address> instructions(const Code& code);

// Runs `code` with a breakpoint at `at`. When it is reached for the `hit`th time, it is removed and `then` runs, in the
// signal handler; the code goes on after that (a sequence from its abort handler). False if it was not reached that
// often; then the breakpoint is removed after `code`. May be called again from `then`, for code that is interrupted
// while it interrupts. `hit` above 1 only outside of sequences.
bool interrupt_at(Address at, unsigned hit, const std::function<void()>& then, const std::function<void()>& code);

// What becomes of the restartable sequences that step_through() comes to. As every trap in one aborts it, they run
// without traps to wherever they are left, and stepping goes on there.
enum class AtSequences {
    run,
    abort_once,  // each is aborted at its first instruction when it is entered for the first time
};

// Runs `code` one instruction at a time, and `then` before each that lies in one of `where` (and in no sequence), in
// the signal handler. May be called again from `then`.
void step_through(const std::vector<Code>& where, AtSequences sequences, const std::function<void(Address)>& then,
                  const std::function<void()>& code);

// From `then` of interrupt_at(): one more breakpoint, at `at`, for the way on. Whether it was reached is what
// interrupt_at() returns.
void then_at(Address at, const std::function<void()>& then);

}  // namespace cloister::step
