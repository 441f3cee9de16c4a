// What the library test loads and unloads.
#include <cloister/trace.hpp>

CLOISTER_EVENT(plugin, called, (int, number), (std::string_view, text));
CLOISTER_EVENT(plugin, unnamed_field, (int, other));

extern "C" int traced_library_call(int number) {
    CLOISTER_TRACE(plugin, called, number, "plugin");
    return number + 1;
}

extern "C" const cloister_site* traced_library_site() { return __start_cloister_sites; }

extern "C" void traced_library_other(int number) { CLOISTER_TRACE(plugin, unnamed_field, number); }
