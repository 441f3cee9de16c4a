// Errors as values. An error teaches: what was needed, what was found, what to set (and how to make it last).
#pragma once

#include <string>
#include <utility>

#include <tl/expected.hpp>

namespace cloister {

struct Error {
    std::string what;        // one sentence: what could not be done
    std::string needs = {};  // what it takes
    std::string found = {};  // what is there instead
    std::string set = {};    // the command, file and value that mend it, and how it lasts
    int status = 125;        // exit status of `run`; `watch` and `check` turn any error into 2

    // "cloister: WHAT" and one indented line each for needs, found, set, where they are not empty.
    [[nodiscard]] std::string text() const;
};

template <class T>
using Result = tl::expected<T, Error>;

[[nodiscard]] inline tl::unexpected<Error> fail(Error error) { return tl::unexpected<Error>(std::move(error)); }

}  // namespace cloister
