// The name of the thread that a recorder adds to its program. `run` and `watch` know by it whose doing its IPIs are.
#pragma once

#include <string_view>

namespace cloister {

inline constexpr std::string_view kControlThread = "cloister-ctl";  // prctl(2), PR_SET_NAME: at most 15 characters

}  // namespace cloister
