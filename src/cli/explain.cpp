// cloister explain [CAUSE | SETTING]
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>

#include "audit/settings.hpp"
#include "base/error.hpp"
#include "breach/catalog.hpp"
#include "cli/commands.hpp"

namespace cloister::cli {
namespace {

constexpr std::size_t kColumns = 100;

// `text` in lines that end before `kColumns`, each after `indent`.
void print_wrapped(std::string_view text, std::string_view indent) {
    while (!text.empty()) {
        std::size_t end = text.size();
        if (end + indent.size() > kColumns) {
            end = text.rfind(' ', kColumns - indent.size());
            if (end == std::string_view::npos) end = text.find(' ');
            if (end == std::string_view::npos) end = text.size();
        }
        std::printf("%.*s%.*s\n", static_cast<int>(indent.size()), indent.data(), static_cast<int>(end), text.data());
        text.remove_prefix(std::min(end + 1, text.size()));
    }
}

bool concerns(const audit::Setting& setting, std::string_view cause) {
    return fmt::format(" {} ", setting.causes).find(fmt::format(" {} ", cause)) != std::string::npos;
}

void print_commands(const audit::Setting& setting, std::string_view indent) {
    const audit::Places places;
    if (!setting.now.empty()) print_wrapped("now      " + audit::fill(setting.now, places), indent);
    print_wrapped((setting.reboot ? "at boot  " : "to last  ") + audit::fill(setting.last, places), indent);
}

int explain_cause(breach::Cause cause) {
    const auto name = breach::name(cause);
    std::printf("%.*s\n\n", static_cast<int>(name.size()), name.data());
    print_wrapped(breach::meaning(cause), "  ");
    std::puts("\nWhat to do about it, by what the report says of it:\n");
    for (const auto& [words, remedy] : breach::advice(cause)) {
        print_wrapped(words.empty() ? "anything else" : words, "  ");
        print_wrapped(remedy, "      ");
    }
    bool first = true;
    for (const auto& setting : audit::settings()) {
        if (!concerns(setting, name)) continue;
        if (first) std::puts("\nSettings that decide about it (cloister check looks at each):\n");
        first = false;
        print_wrapped(fmt::format("{}: {}", setting.id, setting.interrupts), "  ");
        print_commands(setting, "      ");
    }
    return kClean;
}

int explain_setting(const audit::Setting& setting) {
    std::printf("%.*s\n\n", static_cast<int>(setting.id.size()), setting.id.data());
    print_wrapped(fmt::format("Lets in: {}.", setting.interrupts), "  ");
    std::puts("");
    print_commands(setting, "  ");
    std::printf("\n  Shows as: %.*s (cloister explain CAUSE)\n", static_cast<int>(setting.causes.size()),
                setting.causes.data());
    return kClean;
}

// The causes are an enumeration without an end of its own.
template <class Use>
void for_each_cause(Use use) {
    for (int i = 0; i <= static_cast<int>(breach::Cause::unseen); ++i) use(static_cast<breach::Cause>(i));
}

int list_all() {
    std::puts("Causes of breaches, as cloister run and cloister watch name them:\n");
    for_each_cause([](breach::Cause cause) {
        const auto name = breach::name(cause);
        const auto meaning = breach::meaning(cause);
        std::printf("  %-10.*s %.*s\n", static_cast<int>(name.size()), name.data(), static_cast<int>(meaning.size()),
                    meaning.data());
    });
    std::puts("\nSettings, as cloister check names them, and what they let in:\n");
    for (const auto& setting : audit::settings())
        std::printf("  %-21.*s %.*s\n", static_cast<int>(setting.id.size()), setting.id.data(),
                    static_cast<int>(setting.interrupts.size()), setting.interrupts.data());
    return kClean;
}

int explain(const std::string& topic) {
    if (topic.empty()) return list_all();
    if (const auto cause = breach::cause_named(topic)) return explain_cause(*cause);
    if (const auto* setting = audit::setting(topic)) return explain_setting(*setting);
    std::string causes;
    for_each_cause([&causes](breach::Cause cause) { causes += fmt::format("{} ", breach::name(cause)); });
    const Error error{.what = fmt::format("there is nothing to explain by the name {}", topic),
                      .needs = "a cause of a report, or a setting of cloister check",
                      .found = "causes: " + causes.substr(0, causes.size() - 1),
                      .set = "cloister explain lists all of both"};
    std::fputs(error.text().c_str(), stderr);
    return kError;
}

}  // namespace

Action add_explain(CLI::App& parser) {
    auto topic = std::make_shared<std::string>();
    parser.add_option("topic", *topic, "A cause (tick, ipi ...) or a setting (nohz_full ...); none lists all")
        ->type_name("CAUSE|SETTING");
    return [topic] { return explain(*topic); };
}

}  // namespace cloister::cli
