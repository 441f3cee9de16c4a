// TSDL to Metadata: a recursive descent over the grammar of CTF 1.8.3, appendix C.
#pragma once

#include <string_view>

#include <tl/expected.hpp>

#include "ctf/metadata.hpp"
#include "ctf/tsdl_token.hpp"

namespace cloister::ctf {

[[nodiscard]] tl::expected<Metadata, TsdlError> parse_tsdl(std::string_view text);

}  // namespace cloister::ctf
