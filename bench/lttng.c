// What an event costs with LTTng-UST: {"pair": ns, "staged": ns}. Compiled and run by lane.py, in a session of its own.
#define _GNU_SOURCE
#define LTTNG_UST_TRACEPOINT_CREATE_PROBES
#define LTTNG_UST_TRACEPOINT_DEFINE
#include "lttng_provider.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { EVENTS = 1000000 };

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

int main(int argc, char** argv) {
    const char* volatile name = "XETRA:123456";
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(argc > 1 ? atoi(argv[1]) : 0, &one);
    if (sched_setaffinity(0, sizeof one, &one) != 0) return 1;
    for (uint64_t n = 0; n < EVENTS; ++n) lttng_ust_tracepoint(book, pair, n, ~n);
    const double begin = now_ns();
    for (uint64_t n = 0; n < EVENTS; ++n) lttng_ust_tracepoint(book, pair, n, ~n);
    const double middle = now_ns();
    for (uint64_t n = 0; n < EVENTS; ++n) lttng_ust_tracepoint(book, named, n, ~n, name);
    printf("{\"pair\": %.3f, \"staged\": %.3f}\n", (middle - begin) / EVENTS, (now_ns() - middle) / EVENTS);
    return 0;
}
