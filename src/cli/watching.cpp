#include "cli/watching.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

namespace cloister::cli {

namespace {

// What any watch opens, with whatever privileges. What it takes beyond that it can do without, and says so.
constexpr std::size_t kSpareFiles = 8;

// Where it is not there, every file that cannot be opened looks like one that does not exist.
bool has_spare_files(int fd) {
    std::vector<system::Fd> spare;
    while (spare.size() < kSpareFiles) {
        spare.emplace_back(fcntl(fd, F_DUPFD_CLOEXEC, 0));
        if (!spare.back()) return false;
    }
    return true;
}

}  // namespace

void add_options(CLI::App& parser, WatchingOptions& options) {
    parser.add_option("-d,--duration", options.duration, "Watch for this long: 10s, 500ms, 2m")->type_name("TIME");
    parser.add_option("--budget", options.budget, "Limits, such as 'syscall=0,fault=0,tick<=10,max<=5us,total<=0.01%'")
        ->type_name("LIMITS");
    parser.add_flag("--log", options.output.log, "Print each breach as it happens");
    parser.add_flag("--all", options.output.all_rows, "Show every row of the report, however small");
    parser.add_option("--json", options.output.json, "Write one JSON object a line (see docs/json.md); - for stdout")
        ->type_name("FILE|-");
}

Result<Signals> Signals::take() {
    sigset_t set;
    sigemptyset(&set);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) sigaddset(&set, signal);
    Signals signals;
    if (sigprocmask(SIG_BLOCK, &set, nullptr) == 0)
        signals.fd_ = system::Fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!signals.fd_ || !has_spare_files(signals.fd_.get()))
        return fail({.what = "the limit on open files (RLIMIT_NOFILE) was reached",
                     .needs = fmt::format("{} more file descriptors", kSpareFiles),
                     .found = std::strerror(errno),
                     .set = "ulimit -n 1024"});
    return signals;
}

int Signals::wait(int ms) {
    signalfd_siginfo info{};
    pollfd event{.fd = fd_.get(), .events = POLLIN, .revents = 0};
    if (::poll(&event, 1, ms) <= 0) return 0;
    if (read(fd_.get(), &info, sizeof(info)) != static_cast<ssize_t>(sizeof(info))) return 0;
    return static_cast<int>(info.ssi_signo);
}

Result<Watching> Watching::prepare(const WatchingOptions& options, int default_cpu) {
    Watching watching;
    if (!options.duration.empty()) {
        const auto duration = breach::parse_duration(options.duration);
        if (!duration) return fail(duration.error());
        watching.duration_ns_ = *duration;
    }
    if (!options.budget.empty()) {
        auto budget = breach::Budget::parse(options.budget);
        if (!budget) return fail(budget.error());
        watching.budget_ = std::move(*budget);
    }
    watching.topology_ = system::read_topology();
    const auto cpu = system::choose_cpu(watching.topology_, options.cpu >= 0 ? options.cpu : default_cpu);
    if (!cpu) return fail(cpu.error());
    watching.cpu_ = *cpu;
    auto output = Output::open(options.output);
    if (!output) return fail(output.error());
    watching.output_ = std::make_unique<Output>(std::move(*output));

    // The observer stays away from the observed CPU.
    system::CpuSet housekeeping = watching.topology_.allowed;
    housekeeping.remove(watching.cpu_);
    if (housekeeping.empty())
        for (const int other : watching.topology_.online.list())
            if (other != watching.cpu_) housekeeping.add(other);
    if (auto ok = system::set_affinity(0, housekeeping); !ok) return fail(ok.error());
    return watching;
}

Result<void> Watching::arm(const std::string& command, const std::string& target, std::uint64_t gap_ns) {
    Output* output = output_.get();
    breach::SessionSinks sinks;
    sinks.notice = [output](const breach::Notice& notice) { output->notice(notice); };
    if (output->wants_breaches())
        sinks.breach = [this, output](const breach::Breach& breach) {
            output->breach(session_->header(), breach, session_->resolver());
        };
    auto session = breach::Session::arm({.command = command,
                                         .target = target,
                                         .cpu = cpu_,
                                         .topology = topology_,
                                         .gap_ns = gap_ns,
                                         .self = program_invocation_name},
                                        std::move(sinks));
    if (!session) return fail(session.error());
    session_ = std::move(*session);
    return {};
}

bool Watching::poll() {
    const bool going = session_->poll();
    if (!session_->began()) return going;
    output_->begin(session_->header());
    if (output_->wants_breaches()) (void)output_->flush();  // its error stays set and is reported at the end
    return going && (!duration_ns_ || breach::monotonic_ns() - session_->header().begin_ns < *duration_ns_);
}

std::vector<breach::Budget::Violation> Watching::finish(const std::optional<breach::Session::Usage>& usage,
                                                        const std::vector<breach::Notice>& more) {
    summary_ = session_->finish(usage);
    summary_.notices.insert(summary_.notices.end(), more.begin(), more.end());
    std::vector<breach::Budget::Violation> violations;
    if (budget_) violations = budget_->check(summary_);
    output_->summary(summary_, session_->resolver(), violations);
    return violations;
}

}  // namespace cloister::cli
