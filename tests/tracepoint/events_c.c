#include "events_c.h"

CLOISTER_EVENT(c, other, (_Bool, flag), (const void*, pointer), (struct cloister_sequence_u16, values), (int8_t, last));

void fire_in_c(uint64_t order, double price, const char* venue, const uint16_t* values, uint32_t count) {
    CLOISTER_TRACE(c, shared, order, price, venue);
    CLOISTER_TRACE(c, other, count, values, ((struct cloister_sequence_u16){values, count}), -1);
}

const struct cloister_class* class_in_c(void) { return &cloister_class_c_shared; }
const struct cloister_class* other_class_in_c(void) { return &cloister_class_c_other; }
