// This thread's registration for rseq(2), which the C library has made.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <vector>

namespace cloister::core::test {

inline struct rseq* rseq_area() {
    return reinterpret_cast<struct rseq*>(static_cast<char*>(__builtin_thread_pointer()) + __rseq_offset);
}

// What the kernel says to the same registration once more.
inline bool is_registered() {
    return static_cast<std::int32_t>(rseq_area()->cpu_id) >= 0 &&
           syscall(SYS_rseq, rseq_area(), sizeof(struct rseq), 0, RSEQ_SIG) != 0 && errno == EBUSY;
}

// From now on this thread is one without rseq; true if it is.
inline bool unregister() {
    if (static_cast<std::int32_t>(rseq_area()->cpu_id) < 0) return true;
    return syscall(SYS_rseq, rseq_area(), sizeof(struct rseq), RSEQ_FLAG_UNREGISTER, RSEQ_SIG) == 0;
}

// What a sandbox does: these system calls fail with EPERM from now on.
inline bool forbid(std::initializer_list<unsigned> calls) {
    std::vector<sock_filter> program = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
    for (const unsigned call : calls) {
        program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1));
        program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM));
    }
    program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

}  // namespace cloister::core::test
