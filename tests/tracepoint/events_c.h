/* An event that units in C and in C++ share, and one that is only in C. */
#pragma once

#ifdef __cplusplus
#include <cloister/trace.hpp>
CLOISTER_EVENT(c, shared, (std::uint64_t, order), (double, price), (const char*, venue));
extern "C" {
#else
#include <cloister/trace.h>
CLOISTER_EVENT(c, shared, (uint64_t, order), (double, price), (const char*, venue));
#endif

void fire_in_c(uint64_t order, double price, const char* venue, const uint16_t* values, uint32_t count);
const struct cloister_class* class_in_c(void);
const struct cloister_class* other_class_in_c(void);

#ifdef __cplusplus
}
#endif
