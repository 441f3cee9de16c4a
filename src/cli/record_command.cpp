// cloister record [-o DIR] [-e GLOB]... -- CMD ARGS...
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <set>

#include "cli/child.hpp"
#include "cli/commands.hpp"
#include "cli/progress.hpp"
#include "cli/record.hpp"
#include "cli/watching.hpp"
#include "recorder/rendezvous.hpp"
#include "system/files.hpp"
#include "system/launch.hpp"
#include "system/process.hpp"
#include "tracepoint/registry.hpp"

namespace cloister::cli {
namespace {

namespace fs = std::filesystem;

int failed(const Error& error) {
    std::fputs(error.text().c_str(), stderr);
    return error.status;
}

// It lies beside this program, in the build as when it is installed.
Result<std::string> preloaded_library() {
    std::error_code wrong;
    const auto self = fs::read_symlink("/proc/self/exe", wrong);
    const auto path = (self.parent_path() / CLOISTER_PRELOAD).lexically_normal();
    if (!wrong && fs::exists(path, wrong)) return path.string();
    return fail({.what = "cannot bring the recorder into the command",
                 .needs = "its library, " + path.string(),
                 .found = "no such file",
                 .set = "install cloister as a whole (make install), and do not copy its program away"});
}

// The variables of the command: the library that records, where its segments go, and what is enabled from the start.
std::vector<std::string> environment_for(const RecordOptions& options, const recorder::Invitation& invitation,
                                         const std::string& library) {
    const auto joined = [](const char* name, const std::string& more, char separator) {
        const auto before = system::inherited_variable(name).value_or("");
        return fmt::format("{}={}{}{}", name, before, before.empty() || more.empty() ? "" : std::string(1, separator),
                           more);
    };
    std::string entries = options.entries();
    if (entries.empty() && !system::inherited_variable("CLOISTER_TRACE")) entries = "*";
    return {joined("LD_PRELOAD", library, ':'), joined("CLOISTER_TRACE", entries, ';'),
            fmt::format("{}={}", recorder::kRecordVariable, invitation.text())};
}

// The processes that record, each into a trace of its own.
class Recorded {
public:
    explicit Recorded(std::string directory) : directory_(std::move(directory)) {}

    // Everything that is there now: new ones, and what they have written.
    Result<void> turn(recorder::Rendezvous& rendezvous) {
        while (true) {
            auto arrival = rendezvous.next();
            if (!arrival) {
                std::fputs(arrival.error().text().c_str(), stderr);
                continue;
            }
            if (!*arrival) break;
            if (auto ok = welcome(std::move(**arrival)); !ok) return ok;
        }
        for (auto& one : processes_) {
            if (!one.drain) continue;
            // Looked for before the drain, so that what it wrote last is taken.
            const bool over = one.process.ended();
            auto part = one.drain->run();
            if (part) add_to(all_, *part);
            if (part && over) part = finish(one);
            if (!part) return fail(part.error());
        }
        return {};
    }
    // The end, also of those that run on.
    Result<void> finish_all(Progress& progress) {
        for (auto& one : processes_) {
            if (!one.drain) continue;
            if (progress.due()) progress.show(fmt::format("writing the trace of process {}", one.pid));
            if (!one.process.ended()) still_running_.push_back(one.pid);
            if (auto part = finish(one); !part) return fail(part.error());
        }
        return {};
    }

    [[nodiscard]] const recorder::Extracted& all() const { return all_; }
    [[nodiscard]] std::size_t processes() const { return processes_.size(); }
    [[nodiscard]] const std::vector<pid_t>& still_running() const { return still_running_; }
    [[nodiscard]] const std::set<std::string>& classes() const { return classes_; }
    [[nodiscard]] std::uint64_t refused() const { return refused_; }

private:
    struct Process {
        pid_t pid;
        system::Process process;
        std::optional<recorder::Drain> drain;  // nothing once it is finished
    };

    Result<void> welcome(recorder::Rendezvous::Arrival arrival) {
        const auto& header = arrival.segment.header();
        std::string name(header.comm, strnlen(header.comm, sizeof header.comm));
        std::ranges::replace_if(
            name, [](unsigned char c) { return std::isalnum(c) == 0 && c != '_' && c != '-'; }, '_');
        name = fmt::format("{}-{}", name, arrival.pid);
        // A process that executes another program records into a new segment.
        if (const int times = ++names_[name]; times > 1) name += fmt::format("-{}", times);
        auto drain = recorder::Drain::begin(std::move(arrival.segment), directory_ + "/" + name);
        if (!drain) return fail(drain.error());
        processes_.push_back({arrival.pid, system::Process(arrival.pid), std::move(*drain)});
        return {};
    }
    Result<recorder::Extracted> finish(Process& one) {
        auto part = one.drain->finish();
        if (!part) return part;
        add_to(all_, *part);
        refused_ += one.drain->segment().header().refused;
        if (const auto layout = recorder::layout_of(one.drain->segment()))
            for (const auto& stream : (*layout)->streams)
                for (const auto& event : stream.events) classes_.insert(event.name);
        one.drain.reset();
        return part;
    }

    std::string directory_;
    std::vector<Process> processes_;
    std::map<std::string, int> names_;
    recorder::Extracted all_;
    std::vector<pid_t> still_running_;
    std::set<std::string> classes_;
    std::uint64_t refused_ = 0;
};

Result<void> make_directory(const std::string& directory) {
    std::error_code wrong;
    if (mkdir(directory.c_str(), 0777) == 0 || (errno == EEXIST && fs::is_empty(directory, wrong) && !wrong)) return {};
    return fail({.what = "cannot write a trace to " + directory,
                 .needs = "a directory that is empty, or not there yet, in one that can be written to",
                 .found = errno == EEXIST ? "something that is there" : std::strerror(errno),
                 .set = "-o with another directory"});
}

// Why a program that has run left nothing behind.
Error nothing_recorded(const system::Program& program, const Recorded& recorded, const RecordOptions& options) {
    if (recorded.processes() == 0)
        return {.what = "nothing was recorded",
                .needs =
                    "a program with cloister's tracepoints: linked with cloister::trace or cloister::record "
                    "(pkg-config cloister), dynamically, and not setuid",
                .found = program.drops_events() ? program.path + ", which changes its privileges when it starts"
                         : program.elf          ? program.path + ", which has none, nor has any program that it started"
                                                : program.path + ", a script that started no program which has any",
                .set = "to mark what happens in a program: CLOISTER_EVENT and CLOISTER_TRACE of <cloister/trace.h>"};
    return {.what = "not one event was recorded",
            .needs = "a tracepoint that is enabled, and that the program comes by",
            .found = recorded.classes().empty()
                         ? "a program without any tracepoint"
                         : fmt::format("{} in it, of which none happened{}", fmt::join(recorded.classes(), ", "),
                                       options.events.empty() ? "" : " or none fits -e " + options.entries()),
            .set = options.events.empty() ? "" : "-e '*' enables all"};
}

}  // namespace

int record_command(const RecordOptions& options) {
    if (auto ok = tracepoint::check_entries(options.entries()); !ok) return failed(ok.error());
    const core::Shape shape{.slots = options.sub_buffers,
                            .size = options.sub_buffer_bytes,
                            .mode = options.overwrite ? core::Mode::overwrite : core::Mode::discard};
    if (!shape.valid())
        return failed({.what = "cannot record into such sub-buffers",
                       .needs = "2 to 4096 of 4096 to 67108864 bytes, both powers of two",
                       .found = fmt::format("{} of {} bytes", shape.slots, shape.size)});
    auto signals = Signals::take();
    if (!signals) return failed(signals.error());
    const auto library = preloaded_library();
    if (!library) return failed(library.error());
    auto rendezvous = recorder::Rendezvous::open(shape);
    if (!rendezvous) return failed(rendezvous.error());
    explain_bus_errors();
    auto launch =
        system::Launch::prepare(options.command, {}, environment_for(options, rendezvous->invitation(), *library));
    if (!launch) return failed(launch.error());
    if (auto ok = make_directory(options.directory); !ok) return failed(ok.error());
    const auto directory_lock = ctf::lock_as_writer(options.directory);
    if (auto ok = launch->go(); !ok) {
        rmdir(options.directory.c_str());
        return failed(ok.error());
    }

    Child child(launch->pid());
    Recorded recorded(options.directory);
    Result<void> done;
    for (bool over = false; !over && done;) {
        const int signal = signals->wait(5);
        // Ctrl-C on a terminal reaches the command by itself; whether that ends it is its own affair.
        if (signal == SIGTERM || signal == SIGHUP) kill(child.pid(), signal);
        over = child.ended();
        done = recorded.turn(*rendezvous);
    }
    {
        Progress progress;
        if (done) done = recorded.finish_all(progress);
    }
    if (!done) {
        // What it writes from here on goes nowhere, but it is not ended for that.
        const int status = failed(done.error());
        while (!child.ended()) {
            const int signal = signals->wait(-1);
            if (signal == SIGTERM || signal == SIGHUP) kill(child.pid(), signal);
        }
        return status;
    }
    const auto& all = recorded.all();
    if (all.packets == 0) {
        if (recorded.processes() == 0) rmdir(options.directory.c_str());
        std::fputs(nothing_recorded(launch->program(), recorded, options).text().c_str(), stderr);
    } else {
        std::fprintf(stderr, "cloister: %s: %llu packets, %s of events, of %zu process%s\n", options.directory.c_str(),
                     static_cast<unsigned long long>(all.packets), amount(all.bytes).c_str(), recorded.processes(),
                     recorded.processes() == 1 ? "" : "es");
        std::fputs(shortcomings(all).c_str(), stderr);
        if (recorded.refused())
            std::fprintf(stderr,
                         "cloister: %llu events found no lane: their threads had no restartable sequences, or there "
                         "was no memory\n",
                         static_cast<unsigned long long>(recorded.refused()));
        std::fprintf(stderr, "cloister: look at it with: cloister view %s\n", options.directory.c_str());
    }
    for (const pid_t pid : recorded.still_running())
        std::fprintf(stderr, "cloister: process %d still runs, and is recorded no longer: cloister record --pid %d\n",
                     pid, pid);
    return end_like(child.status());
}

}  // namespace cloister::cli
