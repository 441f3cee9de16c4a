// Changes and their undo, on files of our own and on tasks of our own.
#include "audit/fix.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../system/fake_root.hpp"
#include "system/cpu.hpp"
#include "system/files.hpp"

namespace cloister::audit {
namespace {

using testing::HasSubstr;
using tests::FakeRoot;

Finding wrong(std::vector<Change> changes) {
    return {.setting = setting("ksm"),
            .verdict = Verdict::fail,
            .source = {},
            .found = {},
            .wanted = {},
            .now = {},
            .last = {},
            .changes = std::move(changes)};
}

class Fix : public testing::Test {
protected:
    std::string file(const std::string& name) { return root.path() + "/" + name; }
    std::string value(const std::string& name) { return system::read_word(file(name)); }
    FakeRoot root;
    const std::string journal = root.path() + "/state/undo.jsonl";
};

TEST_F(Fix, UndoGivesBackExactlyWhatWasThere) {
    root.file("/a", "1\n").file("/b", "always [madvise] never\n");
    const auto done = fix({wrong({{file("a"), "0"}}), wrong({{file("b"), "never"}})}, journal);
    ASSERT_TRUE(done) << done.error().text();
    EXPECT_EQ(done->done.size(), 2U);
    EXPECT_EQ(value("a"), "0");
    const auto back = undo(journal);
    ASSERT_TRUE(back) << back.error().text();
    EXPECT_TRUE(back->failed.empty());
    EXPECT_EQ(value("a"), "1");
    EXPECT_TRUE(value("b").starts_with("madvise"));  // a file of sysfs would choose that word
    EXPECT_FALSE(std::filesystem::exists(journal));
    EXPECT_FALSE(undo(journal));
}

TEST_F(Fix, OfTwoFixesTheFirstValueComesBack) {
    root.file("/a", "1");
    ASSERT_TRUE(fix({wrong({{file("a"), "2"}})}, journal));
    ASSERT_TRUE(fix({wrong({{file("a"), "3"}})}, journal));
    EXPECT_EQ(value("a"), "3");
    ASSERT_TRUE(undo(journal));
    EXPECT_EQ(value("a"), "1");
}

TEST_F(Fix, WhatPassesIsLeftAlone) {
    root.file("/a", "1");
    auto finding = wrong({{file("a"), "2"}});
    finding.verdict = Verdict::unknown;
    ASSERT_TRUE(fix({finding}, journal));
    EXPECT_EQ(value("a"), "1");
    EXPECT_FALSE(std::filesystem::exists(journal));
}

TEST_F(Fix, GoesOnAfterAFailureAndUndoesTheRest) {
    root.file("/a", "1").file("/c", "1");
    const auto done =
        fix({wrong({{file("a"), "2"}, {file("missing"), "2"}, {"/proc/version", "2"}, {file("c"), "2"}})}, journal);
    ASSERT_TRUE(done);
    EXPECT_EQ(done->done.size(), 2U);
    ASSERT_EQ(done->failed.size(), 2U);
    EXPECT_THAT(done->failed[1], HasSubstr("/proc/version"));
    const auto back = undo(journal);
    ASSERT_TRUE(back);
    EXPECT_TRUE(back->failed.empty()) << back->failed[0];
    EXPECT_EQ(value("a") + value("c"), "11");
}

TEST_F(Fix, WhatSomebodyElseHasChangedSinceIsLeftAlone) {
    root.file("/a", "1").file("/c", "1");
    ASSERT_TRUE(fix({wrong({{file("a"), "2"}, {file("c"), "2"}})}, journal));
    root.file("/a", "7");
    const auto back = undo(journal);
    ASSERT_TRUE(back);
    ASSERT_EQ(back->failed.size(), 1U);
    EXPECT_THAT(back->failed[0], HasSubstr("somebody else"));
    EXPECT_EQ(value("a") + value("c"), "71");
    // It stays in the journal; back at what fix had set, it is undone.
    root.file("/a", "1");
    EXPECT_TRUE(undo(journal)->failed.empty());
}

TEST_F(Fix, ACrashBetweenEntryAndChangeIsHarmless) {
    root.file("/a", "1").file("/c", "1");
    ASSERT_TRUE(fix({wrong({{file("a"), "2"}})}, journal));
    // As a crash leaves it: an entry whose change was not made, and half a line.
    const auto boot = system::read_word("/proc/sys/kernel/random/boot_id");
    std::ofstream(journal, std::ios::app) << fmt::format(R"({{"boot":"{}","target":"{}","before":"1"}})"
                                                         "\n{{\"boot\":\"{}\",\"tar",
                                                         boot, file("c"), boot);
    const auto back = undo(journal);
    ASSERT_TRUE(back);
    EXPECT_TRUE(back->failed.empty());
    EXPECT_EQ(value("a") + value("c"), "11");
}

TEST_F(Fix, ACrashAfterTheChangeIsUndone) {
    root.file("/a", "1");
    ASSERT_TRUE(fix({wrong({{file("a"), "2"}})}, journal));
    auto text = *system::read_file(journal);
    text.resize(text.find('\n') + 1);  // without what it reads since
    std::ofstream(journal) << text;
    ASSERT_TRUE(undo(journal));
    EXPECT_EQ(value("a"), "1");
}

TEST_F(Fix, EntriesOfAnotherBootAreWorthless) {
    root.file("/a", "1").file("/state/undo.jsonl",
                              fmt::format(R"({{"boot":"x","target":"{}","before":"5"}})", file("a")) + "\n");
    const auto back = undo(journal);
    ASSERT_TRUE(back);
    EXPECT_TRUE(back->done.empty() && back->failed.empty());
    EXPECT_EQ(value("a"), "1");
}

TEST_F(Fix, WithoutAJournalNothingIsChanged) {
    root.file("/a", "1");
    const auto done = fix({wrong({{file("a"), "2"}})}, "/proc/no/journal");
    ASSERT_FALSE(done);
    EXPECT_THAT(done.error().set, HasSubstr("--journal"));
    EXPECT_EQ(value("a"), "1");
}

TEST_F(Fix, TwoAtATimeAreTold) {
    root.file("/a", "1").file("/state/undo.jsonl", "");
    const int other = open(journal.c_str(), O_RDWR);
    ASSERT_EQ(flock(other, LOCK_EX), 0);
    const auto done = fix({wrong({{file("a"), "2"}})}, journal);
    ASSERT_FALSE(done);
    EXPECT_THAT(done.error().what, HasSubstr("another cloister"));
    EXPECT_EQ(value("a"), "1");
    close(other);
}

TEST_F(Fix, TasksGetTheirCpusBack) {
    const auto mine = system::get_affinity(0).value();
    if (mine.size() < 2) FAIL() << "needs two CPUs";
    const pid_t child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    const std::string target = fmt::format("task:{}", child), one = fmt::format("{}", mine.list().front());
    const pid_t ended = fork();
    if (ended == 0) {
        pause();
        _exit(0);
    }
    ASSERT_TRUE(fix({wrong({{target, one}, {fmt::format("task:{}", ended), one}})}, journal));
    EXPECT_EQ(system::get_affinity(child)->text(), one);
    kill(ended, SIGKILL);
    waitpid(ended, nullptr, 0);
    const auto back = undo(journal);
    EXPECT_EQ(system::get_affinity(child).value(), mine);
    EXPECT_TRUE(back && back->failed.empty());  // of a task that has ended there is nothing to undo
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
}

}  // namespace
}  // namespace cloister::audit
