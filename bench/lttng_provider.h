// The same two events as lane.cpp's, for LTTng-UST. Compiled by lane.py.
#undef LTTNG_UST_TRACEPOINT_PROVIDER
#define LTTNG_UST_TRACEPOINT_PROVIDER book
#undef LTTNG_UST_TRACEPOINT_INCLUDE
#define LTTNG_UST_TRACEPOINT_INCLUDE "./lttng_provider.h"
#if !defined(LTTNG_PROVIDER_H) || defined(LTTNG_UST_TRACEPOINT_HEADER_MULTI_READ)
#define LTTNG_PROVIDER_H
#include <lttng/tracepoint.h>
#include <stdint.h>
LTTNG_UST_TRACEPOINT_EVENT(book, pair, LTTNG_UST_TP_ARGS(uint64_t, first, uint64_t, second),
                           LTTNG_UST_TP_FIELDS(lttng_ust_field_integer(uint64_t, first, first)
                                                   lttng_ust_field_integer(uint64_t, second, second)))
LTTNG_UST_TRACEPOINT_EVENT(book, named, LTTNG_UST_TP_ARGS(uint64_t, first, uint64_t, second, const char*, name),
                           LTTNG_UST_TP_FIELDS(lttng_ust_field_integer(uint64_t, first, first)
                                                   lttng_ust_field_integer(uint64_t, second, second)
                                                       lttng_ust_field_string(name, name)))
#endif
#include <lttng/tracepoint-event.h>
