#include "cli/output.hpp"

#include <cerrno>
#include <cstring>

namespace cloister::cli {

namespace {

constexpr std::size_t kBuffer = std::size_t{1} << 20;

}  // namespace

Result<Output> Output::open(const Options& options) {
    Output out;
    out.options_ = options;
    out.style_ = breach::style_for(stdout);
    if (options.json == "-") {
        out.json_ = stdout;
        std::setvbuf(stdout, nullptr, _IOFBF, kBuffer);
    } else if (!options.json.empty()) {
        out.file_.reset(std::fopen(options.json.c_str(), "we"));
        if (!out.file_)
            return fail({.what = "cannot write " + options.json,
                         .needs = "a file that can be created",
                         .found = std::strerror(errno),
                         .set = "--json FILE with another path, or --json - for standard output"});
        out.json_ = out.file_.get();
    }
    return out;
}

void Output::header(const breach::Header& header) {
    if (!text()) return;
    std::fputs(breach::text_header(header, style_).c_str(), stdout);
    if (std::fflush(stdout) != 0) error_ = errno;  // the command's own output comes after it
}

void Output::line(const std::string& json) {
    std::fputs(json.c_str(), json_);
    std::fputc('\n', json_);
    // The command may write to the same pipe: whole lines go out in one write.
    buffered_ += json.size() + 1;
    if (buffered_ < kBuffer / 2) return;
    if (std::fflush(json_) != 0 && !error_) error_ = errno;
    buffered_ = 0;
}

void Output::begin(const breach::Header& header) {
    if (begun_) return;
    begun_ = true;
    if (json_) line(breach::json_header(header));
}

void Output::breach(const breach::Header& header, const breach::Breach& breach, const breach::Resolver& resolver) {
    begin(header);
    if (options_.log && text()) std::fputs(breach::text_breach(header, breach, resolver, style_).c_str(), stdout);
    if (json_) line(breach::json_breach(header, breach, resolver));
}

void Output::notice(const breach::Notice& notice) { std::fprintf(stderr, "cloister: %s\n", notice.text.c_str()); }

void Output::summary(const breach::Summary& summary, const breach::Resolver& resolver,
                     const std::vector<breach::Budget::Violation>& violations) {
    begin(summary.header);
    if (text()) {
        std::fputs(breach::text_summary(summary, resolver, style_, options_.all_rows).c_str(), stdout);
        std::fputs(breach::text_violations(summary, violations, style_).c_str(), stdout);
    }
    if (json_)
        for (const auto& json : breach::json_summary(summary, resolver, violations)) line(json);
}

Result<void> Output::flush() {
    bool lost = false;
    buffered_ = 0;
    for (std::FILE* file : {stdout, json_}) {
        if (!file) continue;
        const bool failed = std::fflush(file) != 0;
        if (failed && !error_) error_ = errno;
        lost = lost || failed || std::ferror(file);
    }
    if (!lost) return {};
    return fail({.what = "the results could not be written" + (options_.json.empty() ? "" : " to " + options_.json),
                 .needs = "room on the file system, and a reader on a pipe",
                 .found = error_ ? std::strerror(error_) : "a write that failed"});
}

}  // namespace cloister::cli
