#include "audit/fix.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "audit/report_builder.hpp"
#include "system/files.hpp"
#include "system/perf.hpp"

namespace cloister::audit {
namespace {

using Json = nlohmann::json;

std::string boot_id() { return system::read_word("/proc/sys/kernel/random/boot_id"); }

std::optional<pid_t> task_of(std::string_view target) {
    if (!target.starts_with("task:")) return std::nullopt;
    pid_t tid = 0;
    std::from_chars(target.data() + 5, target.data() + target.size(), tid);
    return tid;
}

// When a task was started, in ticks since boot: field 22 of its stat, proc(5).
std::string started(pid_t tid) {
    const auto text = system::read_word(fmt::format("/proc/{}/stat", tid));
    const auto words = system::split_words(std::string_view(text).substr(std::min(text.rfind(')') + 1, text.size())));
    return words.size() > 19 ? std::string(words[19]) : "";
}

// Nothing where the target is gone or cannot be read.
std::optional<std::string> value_of(const std::string& target) {
    if (const auto tid = task_of(target)) {
        const auto cpus = system::get_affinity(*tid);
        return cpus ? std::optional(cpus->text()) : std::nullopt;
    }
    const auto text = system::read_file(target);
    return text ? std::optional(chosen(system::trim(*text))) : std::nullopt;
}

// What went wrong, or "".
std::string set_value(const std::string& target, const std::string& value) {
    if (const auto tid = task_of(target)) {
        const auto cpus = system::parse_cpu_list(value);
        if (!cpus) return cpus.error().found;
        const auto done = system::set_affinity(*tid, *cpus);
        return done ? "" : done.error().found;
    }
    const system::Fd file(open(target.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC));
    if (!file) return std::strerror(errno);
    if (write(file.get(), value.data(), value.size()) == static_cast<ssize_t>(value.size())) return "";
    // What the kernel says of an interrupt that it does not let go: managed, or bound to this CPU.
    const bool held = errno == EIO && target.starts_with("/proc/irq/");
    return held ? "the kernel does not let this interrupt go (managed, or of this CPU alone)" : std::strerror(errno);
}

struct Entry {
    std::string target, before, started;
    std::optional<std::string> after;
    std::string line;
};

class Journal {
public:
    static Result<Journal> open_at(const std::string& path, bool create) {
        if (create) {
            std::error_code ignored;  // the open says it
            std::filesystem::create_directories(std::filesystem::path(path).parent_path(), ignored);
        }
        Journal out;
        out.path_ = path;
        out.fd_ = system::Fd(::open(path.c_str(), O_RDWR | O_APPEND | O_CLOEXEC | (create ? O_CREAT : 0), 0600));
        if (!out.fd_) {
            if (errno == ENOENT && !create)
                return cloister::fail({.what = "there is nothing to undo",
                                       .needs = "the journal of a cloister check --fix",
                                       .found = "no file " + path});
            const int code = errno;
            return cloister::fail({.what = "cannot open the journal of changes",
                                   .needs = "to write " + path + ", so that what is changed can be undone",
                                   .found = std::strerror(code),
                                   .set = "run it as root (sudo), or choose another file with --journal"});
        }
        if (flock(out.fd_.get(), LOCK_EX | LOCK_NB) != 0)
            return cloister::fail({.what = "another cloister changes settings now",
                                   .needs = "to be the only one who does",
                                   .found = "a lock on " + path + " (lslocks shows whose)",
                                   .set = "wait for its end"});
        return out;
    }

    // Those of this boot, in their order.
    [[nodiscard]] std::vector<Entry> entries() const {
        std::vector<Entry> out;
        const auto text = system::read_file(path_).value_or("");
        const auto boot = boot_id();
        for (const auto line : system::split_lines(text)) {
            // A line that was cut by a crash is one whose change was not made.
            const auto json = Json::parse(line, nullptr, false);
            if (!json.is_object() || !json.contains("target") || !json["target"].is_string()) continue;
            const std::string target = json["target"];
            if (json.contains("before") && json.value("boot", "") == boot) {
                out.push_back({target, json.value("before", ""), json.value("started", ""), {}, std::string(line)});
            } else if (json.contains("after")) {
                for (auto at = out.rbegin(); at != out.rend(); ++at)
                    if (at->target == target) {
                        at->after = json.value("after", "");
                        break;
                    }
            }
        }
        return out;
    }
    [[nodiscard]] bool add(const Json& json, bool durable) const {
        const auto line = json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
        return write(fd_.get(), line.data(), line.size()) == static_cast<ssize_t>(line.size()) &&
               (!durable || fdatasync(fd_.get()) == 0);
    }
    [[nodiscard]] bool clear() const { return ftruncate(fd_.get(), 0) == 0; }
    void remove() const { unlink(path_.c_str()); }

private:
    std::string path_;
    system::Fd fd_;
};

}  // namespace

Result<Changed> fix(const std::vector<Finding>& findings, const std::string& path) {
    auto journal = Journal::open_at(path, true);
    if (!journal) return tl::unexpected(journal.error());
    // Of an earlier boot: nothing of it is in effect.
    if (journal->entries().empty() && !journal->clear())
        return cloister::fail({.what = "cannot write the journal", .found = std::strerror(errno)});
    Changed out;
    for (const auto& finding : findings) {
        if (finding.verdict != Verdict::fail) continue;
        for (const auto& change : finding.changes) {
            const auto before = value_of(change.target);
            if (!before) {
                if (!task_of(change.target)) out.failed.push_back(change.target + ": it cannot be read");
                continue;  // a task that has ended meanwhile
            }
            if (*before == change.value) continue;
            const auto tid = task_of(change.target);
            Json entry{{"boot", boot_id()}, {"target", change.target}, {"before", *before}};
            if (tid) entry["started"] = started(*tid);
            if (!journal->add(entry, true)) {
                out.failed.push_back(fmt::format("{}: the journal cannot be written ({}), so it was left alone",
                                                 change.target, std::strerror(errno)));
                return out;
            }
            auto why = set_value(change.target, change.value);
            const auto after = value_of(change.target).value_or("");
            if (why.empty() && after == *before) why = "the kernel took it, and kept what it had";
            (void)journal->add({{"target", change.target}, {"after", after}}, false);
            if (why.empty())
                out.done.push_back(fmt::format("{}: {} -> {}", change.target, *before, after));
            else
                out.failed.push_back(fmt::format("{}: {} -> {}: {}", change.target, *before, change.value, why));
        }
    }
    if (journal->entries().empty()) journal->remove();
    return out;
}

Result<Changed> undo(const std::string& path) {
    auto journal = Journal::open_at(path, false);
    if (!journal) return tl::unexpected(journal.error());
    const auto entries = journal->entries();
    Changed out;
    std::vector<std::string> left;
    for (auto at = entries.rbegin(); at != entries.rend(); ++at) {
        const auto now = value_of(at->target);
        if (const auto tid = task_of(at->target); tid && (!now || started(*tid) != at->started)) continue;  // it ended
        if (now && *now == at->before) continue;
        std::string why;
        if (!now)
            why = "it cannot be read";
        else if (at->after && *now != *at->after)
            why = fmt::format("it is {} by now, which somebody else has set", *now);
        else
            why = set_value(at->target, at->before);
        if (why.empty()) {
            out.done.push_back(fmt::format("{}: {} -> {}", at->target, *now, at->before));
        } else {
            out.failed.push_back(fmt::format("{}: {} -> {}: {}", at->target, now.value_or("?"), at->before, why));
            left.insert(left.begin(), at->line);
        }
    }
    if (left.empty()) {
        journal->remove();
        return out;
    }
    (void)journal->clear();
    for (const auto& line : left) (void)journal->add(Json::parse(line), true);
    return out;
}

}  // namespace cloister::audit
