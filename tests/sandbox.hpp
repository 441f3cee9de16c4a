// What a sandbox does to the calling thread from now on, and to whatever it starts: seccomp(2).
#pragma once

#include <cerrno>
#include <cstddef>
#include <initializer_list>
#include <vector>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <unistd.h>

namespace cloister::tests {

// These system calls are answered with `listed` (SECCOMP_RET_...), all others with `others`. A kernel that refuses ends
// the process.
inline void sandbox(std::initializer_list<unsigned> calls, unsigned listed, unsigned others) {
    std::vector<sock_filter> program = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
    for (const unsigned call : calls) {
        program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1));
        program.push_back(BPF_STMT(BPF_RET | BPF_K, listed));
    }
    program.push_back(BPF_STMT(BPF_RET | BPF_K, others));
    const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) _exit(77);
}

// They fail with EPERM.
inline void forbid(std::initializer_list<unsigned> calls) {
    sandbox(calls, SECCOMP_RET_ERRNO | EPERM, SECCOMP_RET_ALLOW);
}
// Any other one kills the process.
inline void allow_only(std::initializer_list<unsigned> calls) {
    sandbox(calls, SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS);
}

}  // namespace cloister::tests
