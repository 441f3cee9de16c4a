#include "traced.hpp"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

namespace cloister::unwind::test {
namespace {

[[noreturn]] void give_up(const char* what) {
    std::perror(what);
    std::abort();
}

}  // namespace

Traced::Traced(const std::vector<std::string>& command, void (*enter)(const std::string&)) {
    std::vector<char*> argv;
    for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ < 0) give_up("fork");
    if (pid_ == 0) {
        if (enter) enter(command[0]);
        ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
        ::execv(argv[0], argv.data());
        ::_exit(127);
    }
    if (!wait()) give_up("the program did not start");
    if (::ptrace(PTRACE_SETOPTIONS, pid_, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) != 0) give_up("ptrace");
    pending_ = 0;  // the SIGTRAP of exec
}

Traced::~Traced() { end(); }

void Traced::end() {
    if (ended_) return;
    ::kill(pid_, SIGKILL);
    while (wait()) ::ptrace(PTRACE_CONT, pid_, nullptr, nullptr);
}

bool Traced::wait() {
    int status = 0;
    pid_t got = 0;
    do {
        got = ::waitpid(pid_, &status, 0);
    } while (got < 0 && errno == EINTR);
    ended_ = got != pid_ || WIFEXITED(status) || WIFSIGNALED(status);
    const int signal = ended_ ? 0 : WSTOPSIG(status);
    pending_ = signal == SIGTRAP || signal == (SIGTRAP | 0x80) ? 0 : signal;
    return !ended_;
}

bool Traced::to_syscall(long number, std::optional<std::uint64_t> first) {
    while (::ptrace(PTRACE_SYSCALL, pid_, nullptr, pending_) == 0 && wait()) {
        __ptrace_syscall_info info{};
        if (pending_ != 0 || ::ptrace(PTRACE_GET_SYSCALL_INFO, pid_, sizeof info, &info) <= 0) continue;
        if (info.op != PTRACE_SYSCALL_INFO_ENTRY || info.entry.nr != static_cast<std::uint64_t>(number)) continue;
        if (!first || info.entry.args[0] == *first) return true;
    }
    return false;
}

bool Traced::to_stop(long marker) { return to_syscall(SYS_getppid, marker); }

void Traced::step() {
    if (::ptrace(PTRACE_SINGLESTEP, pid_, nullptr, pending_) != 0 || !wait()) give_up("single step");
}

user_regs_struct Traced::registers() const {
    user_regs_struct registers{};
    if (::ptrace(PTRACE_GETREGS, pid_, nullptr, &registers) != 0) give_up("registers");
    return registers;
}

std::vector<unsigned char> Traced::read(std::uint64_t address, std::size_t size) const {
    std::vector<unsigned char> bytes(size);
    const iovec local{bytes.data(), size};
    const iovec remote{reinterpret_cast<void*>(address), size};
    const ssize_t got = ::process_vm_readv(pid_, &local, 1, &remote, 1, 0);
    bytes.resize(std::max<ssize_t>(got, 0));
    return bytes;
}

std::uint64_t Traced::word(std::uint64_t address) const {
    std::uint64_t value = 0;
    const auto bytes = read(address, sizeof value);
    if (bytes.size() == sizeof value) std::memcpy(&value, bytes.data(), sizeof value);
    return value;
}

std::unique_ptr<cl_stack> Traced::stack() const {
    auto stack = std::make_unique<cl_stack>();
    const user_regs_struct r = registers();
    stack->kind = CL_STACK;
    stack->tid = stack->tgid = static_cast<std::uint32_t>(pid_);
    stack->ax = r.rax, stack->bx = r.rbx, stack->cx = r.rcx, stack->dx = r.rdx, stack->si = r.rsi, stack->di = r.rdi;
    stack->bp = r.rbp, stack->sp = r.rsp, stack->ip = r.rip, stack->r8 = r.r8, stack->r9 = r.r9, stack->r10 = r.r10;
    stack->r11 = r.r11, stack->r12 = r.r12, stack->r13 = r.r13, stack->r14 = r.r14, stack->r15 = r.r15;
    const auto bytes = read(r.rsp, CL_STACK_COPY);
    std::copy(bytes.begin(), bytes.end(), stack->copy);
    stack->copy_n = static_cast<cl_u32>(bytes.size());
    stack->user[stack->user_n++] = r.rip;
    for (std::uint64_t frame = r.rbp; stack->user_n < CL_STACK_FRAMES;) {
        const std::uint64_t next = word(frame);
        const std::uint64_t pc = word(frame + 8);
        if (pc == 0) break;
        stack->user[stack->user_n++] = pc;
        if (next <= frame) break;
        frame = next;
    }
    return stack;
}

}  // namespace cloister::unwind::test
