#include "inline_event.hpp"

namespace cloister::tests {

void fire_in_other_unit(int value) {
    fire_inline(value);
    fire_template(static_cast<short>(value + 1));
}

}  // namespace cloister::tests
