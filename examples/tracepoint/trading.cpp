// Tracepoints in C++: an event class, where it happens, and a probe that prints it.
//
//     trading               traces by itself, for a while
//     CLOISTER_TRACE='book:filled if price > 100' trading      what the environment asks for is on from the start
#include <cloister/trace.hpp>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string_view>

enum class Side : std::uint8_t { buy, sell };
CLOISTER_ENUM(Side, (buy), (sell));
CLOISTER_EVENT(book, filled, (std::uint64_t, order), (double, price), (Side, side), (std::string_view, venue));

namespace {

// Reads the payload by the description of the class, as any tracer can. A tracer that is used in earnest writes it to a
// buffer instead: a probe is called in whatever context the event happens, so it must be async-signal-safe.
void print(void*, const cloister_event* event) {
    const cloister_class& event_class = *event->event_class;
    const char* at = static_cast<const char*>(event->payload);
    std::printf("%s:%s", event_class.provider, event_class.name);
    for (std::uint32_t i = 0; i < event_class.field_count; ++i) {
        const cloister_field& field = event_class.fields[i];
        if (field.kind == CLOISTER_STRING) {
            std::printf(" %s=\"%s\"", field.name, at);
            at += std::strlen(at) + 1;
        } else if (field.kind == CLOISTER_REAL) {
            double value = 0;
            std::memcpy(&value, at, sizeof value);
            std::printf(" %s=%g", field.name, value);
            at += sizeof value;
        } else {
            std::uint64_t value = 0;
            std::memcpy(&value, at, field.bits / 8U);
            const bool named = value < field.enumerator_count;
            named ? std::printf(" %s=%s", field.name, field.enumerators[value].name)
                  : std::printf(" %s=%ju", field.name, static_cast<std::uintmax_t>(value));
            at += field.bits / 8U;
        }
    }
    std::putchar('\n');
}

void fill(std::uint64_t order, double price, Side side) { CLOISTER_TRACE(book, filled, order, price, side, "XETR"); }

void trade(std::uint64_t first) {
    for (std::uint64_t order = first; order < first + 3; ++order)
        fill(order, 99.5 + static_cast<double>(order), order % 2 ? Side::buy : Side::sell);
}

}  // namespace

int main() {
    if (const auto added = cloister::trace::add_probe("book:*", print, nullptr); !added) {
        std::fputs(added.error.c_str(), stderr);
        return 1;
    }
    std::fputs(cloister::trace::load_errors().c_str(), stderr);
    std::puts("as the environment says:");
    trade(0);
    if (const auto enabled = cloister::trace::enable("book:*", CLOISTER_INFO, "side == buy"); !enabled) {
        std::fputs(enabled.error.c_str(), stderr);
        return 1;
    }
    std::puts("where side == buy:");
    trade(10);
    (void)cloister::trace::disable("*");
    std::puts("off:");
    trade(20);
}
