// libFuzzer: any bytes as metadata; where they are a trace's, a packet of it is read as well.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "ctf/memory_trace.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto layout = cloister::ctf::layout_of({reinterpret_cast<const char*>(data), size});
    if (!layout) return 0;
    // The bytes of the text will do for a stream: what they decode to is not the point.
    (void)cloister::ctf::read_all(*layout, {data, std::min<std::size_t>(size, 512)});
    return 0;
}
