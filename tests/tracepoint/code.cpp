// What the test of the machine code looks at: the same functions with and without a tracepoint.
#include <cloister/trace.hpp>

CLOISTER_EVENT(code, two, (std::int64_t, a), (std::int64_t, b));

extern "C" {

__attribute__((noinline)) std::int64_t traced(std::int64_t a, std::int64_t b) {
    CLOISTER_TRACE(code, two, a, b);
    return a * 3 + b;
}
__attribute__((noinline)) std::int64_t untraced(std::int64_t a, std::int64_t b) { return a * 3 + b; }

__attribute__((noinline)) std::int64_t traced_loop(const std::int64_t* values, std::int64_t count) {
    std::int64_t sum = 0;
    for (std::int64_t i = 0; i < count; ++i) {
        CLOISTER_TRACE(code, two, i, sum);
        sum += values[i] ^ sum;
    }
    return sum;
}
}

volatile std::int64_t sink;  // so that the linker has a use for all of them

int main() {
    const std::int64_t values[] = {1, 2, 3};
    sink = traced(1, 2) + untraced(1, 2) + traced_loop(values, 3);
}
