// What the test of libraries loads and unloads: three of them, with a class of the same name and other fields each.
#include <cloister/trace.hpp>

#if defined(VARIANT_a)
CLOISTER_EVENT_WITH(CLOISTER_INFO, CLOISTER_CALL_STACK, plugin, called, (std::uint32_t, a));
#elif defined(VARIANT_b)
CLOISTER_EVENT(plugin, called, (std::string_view, text), (std::uint64_t, b));
#else
CLOISTER_EVENT(plugin, called, (std::uint8_t, one), (std::int16_t, two), (std::uint64_t, c));
#endif

extern "C" [[gnu::noipa]] void plugin_call(std::uint64_t n) {
#if defined(VARIANT_a)
    CLOISTER_TRACE(plugin, called, static_cast<std::uint32_t>(n));
#elif defined(VARIANT_b)
    CLOISTER_TRACE(plugin, called, "of b", n);
#else
    CLOISTER_TRACE(plugin, called, 1, -2, n);
#endif
    asm volatile("");
}
