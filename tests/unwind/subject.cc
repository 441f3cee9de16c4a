// A program with known stacks, which tests stop and look into. "// line: NAME" marks a line that a test refers to.
//
// stop(n) is the syscall getppid with n as its first argument: the place where the test finds the program.
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>

#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef __clang__
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE __attribute__((noinline, noclone))
#endif
#define INLINE inline __attribute__((always_inline))
// Keeps a call from becoming a jump, and code from being moved past it.
#define BARRIER __asm__ volatile("" ::: "memory")

namespace {

INLINE void stop(long marker) {
    long result = SYS_getppid;
    __asm__ volatile("syscall" : "+a"(result) : "D"(marker) : "rcx", "r11", "memory");  // line: stop
}

NOINLINE void rotate_log(void* memory, std::size_t size) {
    munmap(memory, size);  // line: munmap
    BARRIER;
}

struct Config {
    int depth;
};

}  // namespace

namespace ring {

template <class T>
class Queue {
public:
    INLINE void note(T) {
        stop(2);  // line: note
        BARRIER;
    }
    NOINLINE void push(T value, const char*) {
        note(value);  // line: push
        BARRIER;
    }
    NOINLINE bool operator()(T value) const {
        const_cast<Queue*>(this)->push(value, "");  // line: call
        BARRIER;
        return value != T{};
    }
};

}  // namespace ring

namespace {

int g_compared;

NOINLINE int compare(const void* a, const void* b) {
    if (++g_compared == 3) stop(3);  // line: compare
    return *static_cast<const int*>(a) - *static_cast<const int*>(b);
}

NOINLINE void sort_prices() {
    int prices[6] = {5, 3, 4, 1, 2, 0};
    std::qsort(prices, 6, sizeof prices[0], compare);  // line: sort
    BARRIER;
}

NOINLINE void on_signal(int) {
    stop(4);  // line: handler
    BARRIER;
}

NOINLINE void interrupt_oneself() {
    std::signal(SIGUSR1, on_signal);
    std::raise(SIGUSR1);  // line: raise
    BARRIER;
}

// Twenty calls of more than 512 bytes each: beyond what is copied of a stack.
NOINLINE int descend(const Config& config) {
    char room[512] = {};
    __asm__ volatile("" : : "r"(room) : "memory");
    if (config.depth == 0) {
        stop(5);
    } else {
        descend(Config{config.depth - 1});
    }
    BARRIER;
    return room[config.depth];
}

[[noreturn]] NOINLINE void give_up() {
    stop(6);
    std::_Exit(1);
}

// The call is the last instruction: its return address belongs to what comes next in the file.
[[noreturn]] NOINLINE void last_call() {
    BARRIER;
    give_up();  // line: last call
}

NOINLINE void under_generated_code() {
    stop(7);
    BARRIER;
}

NOINLINE void run_generated_code() {
    // push rbp; mov rbp, rsp; call rdi; pop rbp; ret
    static const unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3};
    void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    std::memcpy(page, code, sizeof code);
    mprotect(page, 4096, PROT_READ | PROT_EXEC);
    reinterpret_cast<void (*)(void (*)())>(page)(under_generated_code);
    BARRIER;
}

NOINLINE void read_clock() {
    timespec now;
    stop(8);
    clock_gettime(CLOCK_MONOTONIC, &now);
    BARRIER;
}

NOINLINE void through_a_lambda(const Config& config) {
    const auto send = [&config](int more) __attribute__((noinline)) {
        stop(9 + config.depth + more);
        BARRIER;
    };
    send(0);  // line: lambda
    BARRIER;
}

// A stretch of code of many kinds, to be followed instruction by instruction between stop(20) and stop(21).
NOINLINE void stretch() {
    stop(20);
    sort_prices();
    char text[64];
    std::snprintf(text, sizeof text, "%d %s %.3f", std::atoi("42"), "packets", 1.5);
    void* memory = std::malloc(1000);
    std::memset(memory, 1, 1000);
    __asm__ volatile("" : : "r"(memory) : "memory");
    std::free(memory);
    // In the vdso, and not the clock, which tries again until the kernel leaves it alone for as long as a reading
    // takes.
    unsigned cpu = 0;
    getcpu(&cpu, nullptr);
    const std::function<bool(long)> again = ring::Queue<long>{};
    again(static_cast<long>(cpu) + 1);
    stop(21);
}

}  // namespace

int main(int argc, char** argv) {
    const char* const what = argc > 1 ? argv[1] : "";
    auto is = [&](const char* name) { return std::strcmp(what, name) == 0; };
    if (is("munmap")) rotate_log(mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 4096);
    if (is("template")) ring::Queue<ring::Queue<int>*>()(nullptr);
    if (is("qsort")) sort_prices();
    if (is("signal")) interrupt_oneself();
    if (is("deep")) descend(Config{20});
    if (is("noreturn")) last_call();
    if (is("generated")) run_generated_code();
    if (is("vdso")) read_clock();
    if (is("lambda")) through_a_lambda(Config{0});
    if (is("stretch")) stretch();
    return 0;
}
