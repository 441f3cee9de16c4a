// The modules, classes and sites of this process; which of them are on, and who is probing them. The only writer of all
// that events read.
//
// Rules and probes are kept as globs over "provider:name", so that they hold for the classes of modules that are loaded
// later. Of several rules that match a class the last one decides; naming a glob again replaces its rule and makes it
// the last. Nothing here is async-signal-safe; every function takes the lock.
#pragma once

#include <cloister/trace.h>

#include <mutex>
#include <string>
#include <string_view>

#include "base/error.hpp"

namespace cloister::tracepoint {

// Held while anything is replaced, and over fork(), so that a child has text, lists and lock in one piece.
[[nodiscard]] std::mutex& writers();

// Each returns how many classes match now.
[[nodiscard]] Result<int> enable(std::string_view glob, int level, std::string_view filter);
[[nodiscard]] Result<int> disable(std::string_view glob);

// For somebody else than the program, known by a number other than 0: what `entries` name, in the syntax of the
// environment variable CLOISTER_TRACE, until release() makes everything what the program's own rules say.
[[nodiscard]] Result<int> enable_for(int owner, std::string_view entries);
[[nodiscard]] Result<int> release(int owner);
// Whether that syntax is kept, without doing anything.
[[nodiscard]] Result<void> check_entries(std::string_view entries);

[[nodiscard]] Result<int> add_probe(std::string_view glob, cloister_probe probe, void* data, int tracer);  // its id
[[nodiscard]] Result<int> remove_probe(int id);

[[nodiscard]] Result<int> add_tracer(const cloister_tracer& tracer);  // its id, for remove_probe

// What went wrong while modules were loaded; "" for nothing. See cloister::trace::load_errors.
[[nodiscard]] std::string load_errors();

}  // namespace cloister::tracepoint
