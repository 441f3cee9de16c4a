// libFuzzer: any bytes as a stream of a trace, once of ours and once of LTTng's; the first byte says of which.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

#include "ctf/memory_trace.hpp"

namespace {

using Layout = std::shared_ptr<const cloister::ctf::TraceLayout>;

Layout read_layout(const char* path) {
    std::ifstream in(path, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    auto layout = cloister::ctf::layout_of(text);
    if (layout) return *layout;
    std::fputs(layout.error().text().c_str(), stderr);
    std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const std::array<Layout, 2> layouts{read_layout(CLOISTER_CORPUS "/metadata/own"),
                                               read_layout(CLOISTER_CORPUS "/metadata/lttng")};
    if (size == 0) return 0;
    const auto seen = cloister::ctf::read_all(layouts[data[0] % layouts.size()], {data + 1, size - 1});
    // Counted without a look at the fields, and read with them: both must have come to the same.
    if (seen.error.find("the count is another") != std::string::npos ||
        seen.error.find("it went on") != std::string::npos)
        std::abort();
    return 0;
}
