// cloister check [-c LIST] [--pid PID] [--json FILE|-] [--fix | --undo]
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>

#include "audit/audit.hpp"
#include "audit/fix.hpp"
#include "audit/report.hpp"
#include "breach/report.hpp"
#include "cli/commands.hpp"
#include "system/process.hpp"

namespace cloister::cli {
namespace {

struct CheckOptions {
    std::string cpus, json, journal = audit::kJournal;
    int pid = 0;
    bool fix = false, undo = false;
};

int failed(const Error& error) {
    std::fputs(error.text().c_str(), stderr);
    return kError;
}

// Asked for, or those that are isolated in any way, or the one that `run` would choose.
Result<system::CpuSet> cpus_of(const CheckOptions& options, const system::Topology& topology) {
    system::CpuSet cpus;
    if (!options.cpus.empty()) {
        auto asked = system::parse_cpu_list(options.cpus);
        if (!asked) return asked;
        const auto& known = topology.present.empty() ? topology.possible : topology.present;
        for (const int cpu : asked->list())
            if (!known.has(cpu))
                return fail({.what = fmt::format("there is no CPU {}", cpu),
                             .needs = "CPUs of this machine",
                             .found = fmt::format("this machine has CPUs {}", known.text()),
                             .set = fmt::format("choose of {} with -c", known.text())});
        return asked;
    }
    for (const auto* isolated : {&topology.isolated, &topology.nohz_full})
        for (const int cpu : isolated->list()) cpus.add(cpu);
    if (!cpus.empty()) return cpus;
    const auto chosen = system::choose_cpu(topology, -1);
    if (!chosen) return tl::unexpected(chosen.error());
    cpus.add(*chosen);
    return cpus;
}

void say(const char* what, const audit::Changed& changed) {
    for (const auto& line : changed.done) std::fprintf(stderr, "%s %s\n", what, line.c_str());
    for (const auto& line : changed.failed) std::fprintf(stderr, "could not: %s\n", line.c_str());
}

Result<void> write_json(const std::string& path, const std::vector<audit::Finding>& findings, const std::string& cpus) {
    std::FILE* file = path == "-" ? stdout : std::fopen(path.c_str(), "we");
    bool good = file != nullptr;
    if (good) {
        for (const auto& finding : findings)
            good = std::fprintf(file, "%s\n", audit::json(finding).c_str()) > 0 && good;
        good = std::fprintf(file, "%s\n", audit::json(audit::totals(findings), cpus).c_str()) > 0 && good;
        good = (file == stdout ? std::fflush(file) : std::fclose(file)) == 0 && good;
    }
    if (good) return {};
    return fail({.what = "cannot write " + path, .needs = "a file that can be written", .found = std::strerror(errno)});
}

int check(const CheckOptions& options) {
    if (options.undo) {
        const auto undone = audit::undo(options.journal);
        if (!undone) return failed(undone.error());
        say("restored", *undone);
        std::printf("%zu settings are what they were before, %zu could not be restored\n", undone->done.size(),
                    undone->failed.size());
        return undone->failed.empty() ? kClean : kFindings;
    }
    std::optional<pid_t> pid;
    if (options.pid) {
        if (system::Process(options.pid).ended())
            return failed({.what = fmt::format("cannot audit process {}", options.pid),
                           .needs = "the id of a process that runs",
                           .found = "no such process"});
        pid = options.pid;
    }
    auto machine = std::make_unique<audit::Machine>();
    const auto cpus = cpus_of(options, machine->topology());
    if (!cpus) return failed(cpus.error());
    auto findings = audit::audit(*machine, *cpus, pid);
    if (options.fix) {
        const auto changed = audit::fix(findings, options.journal);
        if (!changed) return failed(changed.error());
        say("set", *changed);
        std::fprintf(stderr, "%zu changed, %zu could not be; cloister check --undo puts them back\n",
                     changed->done.size(), changed->failed.size());
        machine = std::make_unique<audit::Machine>();
        findings = audit::audit(*machine, *cpus, pid);
    }
    const auto sum = audit::totals(findings);
    if (options.json != "-") {
        std::printf("CPU %s of %s: %s\n\n", cpus->text().c_str(), machine->topology().kernel.c_str(),
                    machine->topology().isolation_of(cpus->list().front()).c_str());
        std::fputs(audit::text(findings, breach::style_for(stdout).colour).c_str(), stdout);
        std::printf("\n%zu pass, %zu fail, %zu unknown", sum.pass, sum.fail, sum.unknown);
        std::printf(sum.fail && !options.fix ? "; cloister check --fix sets what can be set now\n" : "\n");
    }
    if (!options.json.empty())
        if (const auto ok = write_json(options.json, findings, cpus->text()); !ok) return failed(ok.error());
    return sum.fail ? kFindings : kClean;
}

}  // namespace

Action add_check(CLI::App& parser) {
    auto options = std::make_shared<CheckOptions>();
    parser.add_option("-c,--cpu", options->cpus, "The CPUs to audit: 2-5,7 (default: those that are isolated)")
        ->type_name("LIST");
    parser.add_option("--pid", options->pid, "Also what of this process lets its CPU be interrupted")
        ->type_name("PID")
        ->check(CLI::PositiveNumber);
    parser.add_option("--json", options->json, "Write one JSON object a line (see docs/json.md); - for stdout")
        ->type_name("FILE|-");
    auto* fix = parser.add_flag("--fix", options->fix, "Set what can be set at run time, and write down what it was");
    parser.add_flag("--undo", options->undo, "Put back what --fix has changed")->excludes(fix);
    parser
        .add_option("--journal", options->journal,
                    fmt::format("Where --fix writes down what it changes ({})", audit::kJournal))
        ->type_name("FILE");
    parser.footer("Exit status: 0 nothing fails, 1 something does (or could not be restored), 2 error.");
    return [options] { return check(*options); };
}

}  // namespace cloister::cli
