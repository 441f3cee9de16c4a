// Who moves, merges, collapses and unmaps pages, and who counts them.
#include <charconv>

#include "audit/report_builder.hpp"

namespace cloister::audit {
namespace {

constexpr long kStatInterval = 120;  // seconds; the default is 1

void check_stat_interval(Builder& builder) {
    const std::string file = "/proc/sys/vm/stat_interval";
    const auto text = builder.machine.read(file);
    long seconds = 0;
    if (!text || std::from_chars(text->data(), text->data() + text->size(), seconds).ec != std::errc()) {
        builder.unknown("stat_interval", {file, "it cannot be read", fmt::format("at least {} s", kStatInterval)});
        return;
    }
    builder.judge("stat_interval", seconds >= kStatInterval,
                  {file, fmt::format("{} s", seconds), fmt::format("at least {} s", kStatInterval)},
                  {{file, std::to_string(kStatInterval)}});
}

}  // namespace

void check_memory(Builder& builder) {
    check_stat_interval(builder);
    builder.file_is("transparent_hugepage", "/sys/kernel/mm/transparent_hugepage/enabled", "never",
                    "this kernel has none");
    builder.file_is("ksm", "/sys/kernel/mm/ksm/run", "0", "this kernel has none");
    builder.file_is("numa_balancing", "/proc/sys/kernel/numa_balancing", "0", "this kernel has none");
    builder.file_is("compaction", "/proc/sys/vm/compaction_proactiveness", "0", "this kernel has none");
    builder.file_is("compact_unevictable", "/proc/sys/vm/compact_unevictable_allowed", "0", "this kernel has none");
}

}  // namespace cloister::audit
