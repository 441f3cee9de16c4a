// One event in an inline function and in a template, for two units.
#pragma once

#include <cloister/trace.hpp>

CLOISTER_EVENT(shared, inlined, (int, value));

namespace cloister::tests {

__attribute__((noinline)) inline void fire_inline(int value) { CLOISTER_TRACE(shared, inlined, value); }

template <class T>
__attribute__((noinline)) void fire_template(T value) {
    CLOISTER_TRACE(shared, inlined, value);
}

void fire_in_other_unit(int value);  // fire_inline(value), fire_template(value + 1)

}  // namespace cloister::tests
