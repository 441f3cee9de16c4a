// Loops of one thing.
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#include <algorithm>
#include <cstdio>

#include "actor.hpp"

namespace actor {

int spin(Arguments arguments) {
    spin_for(number(arguments, 0, "SECONDS", 0, 1e6));
    return 0;
}

int syscalls(Arguments arguments) {
    const auto count = static_cast<std::uint64_t>(number(arguments, 0, "N", 0, 1e12));
    const auto begin = now_ns();
    for (std::uint64_t i = 0; i < count; ++i) syscall(SYS_getppid);
    const auto ns = now_ns() - begin;
    std::printf("{\"getppid\": %llu, \"ns\": %llu}\n", static_cast<unsigned long long>(count),
                static_cast<unsigned long long>(ns));
    return 0;
}

int faults(Arguments arguments) {
    const auto count = static_cast<std::uint64_t>(number(arguments, 0, "N", 0, 1e12));
    constexpr std::uint64_t pages = 256, page = 4096;
    auto* memory = static_cast<volatile char*>(
        mmap(nullptr, pages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (memory == MAP_FAILED) die("mmap");
    madvise(const_cast<char*>(memory), pages * page, MADV_NOHUGEPAGE);
    const auto begin = now_ns();
    for (std::uint64_t done = 0; done < count; done += pages) {
        for (std::uint64_t i = 0; i < std::min(pages, count - done); ++i) memory[i * page] = 1;
        madvise(const_cast<char*>(memory), pages * page, MADV_DONTNEED);
    }
    const auto ns = now_ns() - begin;
    std::printf("{\"touches\": %llu, \"ns\": %llu}\n", static_cast<unsigned long long>(count),
                static_cast<unsigned long long>(ns));
    return 0;
}

int pace(Arguments arguments) {
    const double per_second = number(arguments, 0, "PER_SECOND", 1, 1e6);
    const double seconds = number(arguments, 1, "SECONDS", 0, 1e6);
    const double hz = tsc_hz();
    const auto count = static_cast<std::uint64_t>(per_second * seconds);
    const auto begin = __rdtsc();
    for (std::uint64_t i = 1; i <= count; ++i) {
        const auto due = static_cast<std::uint64_t>(static_cast<double>(i) / per_second * hz);
        while (__rdtsc() - begin < due) {
        }
        syscall(SYS_getppid);
    }
    std::printf("{\"getppid\": %llu}\n", static_cast<unsigned long long>(count));
    return 0;
}

}  // namespace actor
