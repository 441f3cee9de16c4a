// Where a watch's results go: text for a person on stdout, JSON for a program where --json says.
#pragma once

#include <cstddef>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "breach/budget.hpp"
#include "breach/report.hpp"

namespace cloister::cli {

class Output {
public:
    struct Options {
        bool log = false, all_rows = false;
        std::string json;  // a path, "-" for stdout (then there is no text), "" for none
    };
    [[nodiscard]] static Result<Output> open(const Options& options);

    void header(const breach::Header& header);  // the text's, as soon as it is known what can be seen
    void begin(const breach::Header& header);   // the JSON's, once t = 0 is known
    void breach(const breach::Header& header, const breach::Breach& breach, const breach::Resolver& resolver);
    void notice(const breach::Notice& notice);
    void summary(const breach::Summary& summary, const breach::Resolver& resolver,
                 const std::vector<breach::Budget::Violation>& violations);
    // What was printed so far is with its readers. The error names the file that could not be written.
    [[nodiscard]] Result<void> flush();

    [[nodiscard]] bool text() const { return json_ != stdout; }
    [[nodiscard]] bool wants_breaches() const { return options_.log || json_; }

private:
    struct Close {
        void operator()(std::FILE* file) const { std::fclose(file); }
    };
    void line(const std::string& json);

    Options options_;
    std::unique_ptr<std::FILE, Close> file_;
    std::FILE* json_ = nullptr;
    breach::TextStyle style_;
    bool begun_ = false;
    std::size_t buffered_ = 0;  // bytes of JSON since the last flush
    int error_ = 0;             // errno of the first write that failed
};

}  // namespace cloister::cli
