// A program under ptrace: stopped at a syscall or after every instruction, and looked at as the probe looks at it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>
#include <sys/user.h>

#include "breach/probe/record.h"

namespace cloister::unwind::test {

class Traced {
public:
    // Starts it and stops it at its first instruction. `enter` runs in the child before exec, for tests that need
    // another view of the machine. Failures end the test program with what went wrong.
    explicit Traced(const std::vector<std::string>& command, void (*enter)(const std::string&) = nullptr);
    ~Traced();
    Traced(const Traced&) = delete;
    Traced& operator=(const Traced&) = delete;

    // On to the entry of the next such syscall whose first argument is `first`; false when the program ended before.
    [[nodiscard]] bool to_syscall(long number, std::optional<std::uint64_t> first = std::nullopt);
    [[nodiscard]] bool to_stop(long marker);  // see subject.cc
    void step();                              // one instruction
    // Ends it, so that nothing of it can be read any more.
    void end();

    [[nodiscard]] pid_t pid() const { return pid_; }
    [[nodiscard]] user_regs_struct registers() const;
    [[nodiscard]] std::vector<unsigned char> read(std::uint64_t address, std::size_t size) const;  // what is readable
    [[nodiscard]] std::uint64_t word(std::uint64_t address) const;                                 // 0 if unreadable
    // Registers, bytes, and the kernel's walk along the frame pointers.
    [[nodiscard]] std::unique_ptr<cl_stack> stack() const;

private:
    bool wait();

    pid_t pid_ = -1;
    bool ended_ = false;
    int pending_ = 0;  // a signal to pass on
};

}  // namespace cloister::unwind::test
