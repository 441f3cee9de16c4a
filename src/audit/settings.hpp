// The catalog of settings: what each one lets interrupt a CPU, and what sets it. `cloister check` and
// `cloister explain` take their words from here.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace cloister::audit {

struct Setting {
    std::string_view id;          // "nohz_full": a word to ask `cloister explain` for
    std::string_view interrupts;  // what can interrupt the CPU because of it
    std::string_view now;         // the command that sets it until the next boot; "" where there is none
    std::string_view last;        // what makes it last
    bool reboot = false;          // nothing but a boot changes it
    std::string_view causes;      // of breach::Cause, by name, with ' ' between them
};

[[nodiscard]] std::span<const Setting> settings();
// Null where there is none of this id.
[[nodiscard]] const Setting* setting(std::string_view id);

// The catalog's text with its places filled: {cpus} the audited CPUs, {house} those for everything else, {mask} these
// as a mask in hex, {value} a value of the finding.
struct Places {
    std::string cpus = "CPUS", house = "OTHERS", mask = "MASK", value = "VALUE";
};
[[nodiscard]] std::string fill(std::string_view text, const Places& places);

}  // namespace cloister::audit
