#include "audit/report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace cloister::audit {
namespace {

using Json = nlohmann::ordered_json;

std::string line(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string_view when(const Finding& finding) { return finding.setting->reboot ? "reboot" : "run time"; }

void append_long(std::string& out, const Finding& finding, std::string_view colour, std::string_view plain) {
    out += fmt::format("{}{}{}  {}\n", colour, name(finding.verdict), plain, finding.setting->id);
    const auto row = [&out](std::string_view label, std::string_view value) {
        if (!value.empty()) out += fmt::format("      {:<8}{}\n", label, value);
    };
    row("lets in", finding.setting->interrupts);
    row("found", fmt::format("{}   ({})", finding.found, finding.source));
    row("wanted", finding.wanted);
    if (finding.verdict != Verdict::fail) return;
    row("now", finding.now);
    row("to last", fmt::format("{}{}", finding.last, finding.setting->reboot ? "   (takes a reboot)" : ""));
}

}  // namespace

Totals totals(const std::vector<Finding>& findings) {
    Totals out;
    for (const auto& finding : findings) {
        out.pass += finding.verdict == Verdict::pass;
        out.fail += finding.verdict == Verdict::fail;
        out.unknown += finding.verdict == Verdict::unknown;
    }
    return out;
}

std::string text(const std::vector<Finding>& findings, bool colour) {
    std::string out;
    for (const auto verdict : {Verdict::fail, Verdict::unknown})
        for (const auto& finding : findings)
            if (finding.verdict == verdict)
                append_long(out, finding,
                            !colour                    ? ""
                            : verdict == Verdict::fail ? "\033[31m"
                                                       : "\033[33m",
                            colour ? "\033[0m" : "");
    for (const auto& finding : findings)
        if (finding.verdict == Verdict::pass)
            out += fmt::format("{}pass{}  {:<21} {}\n", colour ? "\033[32m" : "", colour ? "\033[0m" : "",
                               finding.setting->id, finding.found);
    return out;
}

std::string json(const Finding& finding) {
    const auto text_or_null = [](const std::string& value) { return value.empty() ? Json() : Json(value); };
    auto changes = Json::array();
    for (const auto& change : finding.changes) changes.push_back({{"target", change.target}, {"value", change.value}});
    return line({{"type", "finding"},
                 {"v", 1},
                 {"setting", finding.setting->id},
                 {"verdict", name(finding.verdict)},
                 {"lets_in", finding.setting->interrupts},
                 {"source", finding.source},
                 {"found", finding.found},
                 {"wanted", finding.wanted},
                 {"when", when(finding)},
                 {"now", text_or_null(finding.now)},
                 {"last", text_or_null(finding.last)},
                 {"changes", std::move(changes)}});
}

std::string json(const Totals& totals, const std::string& cpus) {
    return line({{"type", "audit"},
                 {"v", 1},
                 {"cpus", cpus},
                 {"pass", totals.pass},
                 {"fail", totals.fail},
                 {"unknown", totals.unknown}});
}

}  // namespace cloister::audit
