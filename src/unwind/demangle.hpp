#pragma once

#include <string>
#include <string_view>

namespace cloister::unwind {

// For a person's eye: "_ZN4ring4pushEm" -> "ring::push", "copy.part.0" -> "copy", "memcpy@@GLIBC_2.14" -> "memcpy".
// Parameters, return type and what compilers append to the names of parts and clones go, and anonymous namespaces;
// template arguments stay.
[[nodiscard]] std::string display_name(const char* symbol);

// The same of a name that is demangled already: "void ns::f<int>(int) const" -> "ns::f<int>".
[[nodiscard]] std::string strip_signature(std::string_view demangled);

}  // namespace cloister::unwind
