#include <string>

#include <gtest/gtest.h>

#include "unwind/kallsyms.hpp"

namespace cloister::unwind {
namespace {

// As the kernel writes it; only the order is not its own.
constexpr const char* kTable =
    "0000000000000000 A fixed_percpu_data\n"
    "ffffffff81000000 T _stext\n"
    "ffffffff81000000 t startup_64\n"
    "ffffffff81001000 t early_detail\n"
    "ffffffff81001000 W weak_alias\n"
    "ffffffff81001000 T do_nanosleep\n"
    "ffffffff81002000 T _etext\n"
    "ffffffff82000000 D jiffies\n"
    "ffffffff81001800 t flush_tlb_func\n"
    "ffffffffc0001000 t virtblk_done\t[virtio_blk]\n"
    "ffffffffc0002000 T virtblk_probe\t[virtio_blk]\n"
    "ffffffffc0003000 d virtblk_table\t[virtio_blk]\n";

std::string name_at(const Kallsyms& table, std::uint64_t address) {
    const auto found = table.find(address);
    return std::string(found.name) + std::string(found.module);
}

TEST(Kallsyms, FindsTheFunctionAround) {
    const Kallsyms table = Kallsyms::parse(kTable);
    EXPECT_EQ(name_at(table, 0xffffffff81000000), "_stext");
    EXPECT_EQ(name_at(table, 0xffffffff81001000), "do_nanosleep") << "the global name comes first";
    EXPECT_EQ(name_at(table, 0xffffffff810017ff), "do_nanosleep");
    EXPECT_EQ(name_at(table, 0xffffffff81001800), "flush_tlb_func") << "in order of address, whatever the file's";
    EXPECT_EQ(table.find(0xffffffff81001804).start, 0xffffffff81001800);
    EXPECT_EQ(name_at(table, 0xffffffffc0001234), "virtblk_done[virtio_blk]");
}

TEST(Kallsyms, NamesNothingOutsideOfCode) {
    const Kallsyms table = Kallsyms::parse(kTable);
    EXPECT_EQ(name_at(table, 0x1234), "");
    EXPECT_EQ(name_at(table, 0xffffffff80ffffff), "");
    EXPECT_EQ(name_at(table, 0xffffffff81002010), "") << "past the end of code";
    EXPECT_EQ(name_at(table, 0xffffffff82000000), "") << "data";
    EXPECT_EQ(name_at(table, 0xffffffffffffffff), "") << "far behind the last module";
}

TEST(Kallsyms, IsEmptyWhenTheAddressesAreHidden) {
    const Kallsyms table = Kallsyms::parse(
        "0000000000000000 T _stext\n"
        "0000000000000000 T do_nanosleep\n"
        "0000000000000000 t virtblk_done\t[virtio_blk]\n");
    EXPECT_EQ(table.size(), 0U);
    EXPECT_EQ(name_at(table, 0), "");
    EXPECT_EQ(name_at(table, 0xffffffff81001000), "");
}

TEST(Kallsyms, PassesOverWhatItCannotRead) {
    const Kallsyms table = Kallsyms::parse(
        "\n"
        "nonsense\n"
        "zzzz T bad_digits\n"
        "ffffffff81000000\n"
        "ffffffff81000000 T\n"
        "ffffffff81000000 TT two_letters\n"
        "ffffffff81000100 T good\n"
        "ffffffff81000200 T last_without_a_newline");
    EXPECT_EQ(table.size(), 2U);
    EXPECT_EQ(name_at(table, 0xffffffff81000100), "good");
    EXPECT_EQ(name_at(table, 0xffffffff81000200), "last_without_a_newline");
    EXPECT_EQ(Kallsyms::parse("").size(), 0U);
    EXPECT_EQ(Kallsyms::read("/nonexistent/kallsyms").size(), 0U);
}

}  // namespace
}  // namespace cloister::unwind
