// Has tracepoints, and no recorder: does what its words say, in their order.
//   fire N    program:n {1 ... N}; a number that goes on where the last one ended
//   fork N    the same in a child, which is waited for
//   say TEXT  a line on standard output
//   read      until a line comes on standard input
//   spin      program:n each millisecond, until it is killed; busy: all the time
//   record    begins a recording of its own (traced_recorder only)
//   exec      executes itself with the words that are left
//   crash, kill (9), exit CODE
#include <sys/wait.h>
#include <unistd.h>

#include <cloister/trace.hpp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#ifdef CLOISTER_TEST_RECORDER
#include <cloister/record.hpp>
#endif

CLOISTER_EVENT(program, n, (std::uint64_t, n), (std::uint32_t, pid));
CLOISTER_EVENT_WITH(CLOISTER_DEBUG, 0, program, detail, (std::uint64_t, n));

namespace {

std::uint64_t number = 0;

void fire(std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i) {
        CLOISTER_TRACE(program, n, ++number, static_cast<std::uint32_t>(getpid()));
        if (number % 10 == 0) CLOISTER_TRACE(program, detail, number);
    }
}

std::uint64_t count_of(const char* word) { return word ? std::strtoull(word, nullptr, 10) : 0; }

}  // namespace

int main(int, char** argv) {
    for (char** word = argv + 1; *word; ++word) {
        const auto is = [word](const char* text) { return std::strcmp(*word, text) == 0; };
        if (is("fire")) {
            fire(count_of(*++word));
        } else if (is("fork")) {
            ++word;
            const pid_t child = fork();
            if (child == 0) {
                number = 0;
                fire(count_of(*word));
                _exit(0);
            }
            waitpid(child, nullptr, 0);
        } else if (is("say")) {
            std::puts(*++word);
            std::fflush(stdout);
        } else if (is("read")) {
            char line[100];
            if (!std::fgets(line, sizeof line, stdin)) return 3;
        } else if (is("spin") || is("busy")) {
            const bool busy = is("busy");
            while (true) {
                fire(1);
                if (!busy) usleep(1000);
            }
#ifdef CLOISTER_TEST_RECORDER
        } else if (is("record")) {
            if (const auto started = cloister::record::start(); !started) {
                std::fputs(started.error.c_str(), stderr);
                return 4;
            }
#endif
        } else if (is("exec")) {
            *word = argv[0];
            execv("/proc/self/exe", word);
            return 5;
        } else if (is("crash")) {
            std::abort();
        } else if (is("kill")) {
            std::raise(SIGKILL);
        } else if (is("exit")) {
            return static_cast<int>(count_of(*++word));
        } else {
            std::fprintf(stderr, "unknown word %s\n", *word);
            return 6;
        }
    }
}
