// The kernel's own table of its functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace cloister::unwind {

class Kallsyms {
public:
    Kallsyms() = default;
    // The text of /proc/kallsyms. Only code is kept; nothing when the addresses are hidden (kptr_restrict).
    [[nodiscard]] static Kallsyms parse(std::string_view text);
    [[nodiscard]] static Kallsyms read(const std::string& path = "/proc/kallsyms");

    struct Function {
        std::string_view name;    // lives as long as the table
        std::string_view module;  // "[virtio_blk]"; empty: the kernel itself
        std::uint64_t start = 0;
    };
    // The function that `address` lies in; its name is empty when there is none.
    [[nodiscard]] Function find(std::uint64_t address) const;
    [[nodiscard]] std::size_t size() const { return entries_.size(); }

private:
    struct Entry {
        std::uint64_t address;
        std::uint32_t name, name_size, module_size;  // into names_; the module's name follows the function's
    };
    std::vector<Entry> entries_;  // in order of address
    std::string names_;
};

}  // namespace cloister::unwind
