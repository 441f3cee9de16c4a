// What the environment test starts: fires program:called {4} and {5}, and prints how many of them were shown, whether
// the site was off, and what was wrong.
#include <cloister/trace.hpp>

#include <cstdio>

#include "tracepoint/collect.hpp"

CLOISTER_EVENT(program, called, (int, number));

int main() {
    const bool off =
        cloister::tests::bytes_of(*cloister::tests::sites_of("program", "called").at(0)) == cloister::tests::kNop;
    int calls = 0;
    (void)cloister::trace::add_probe(
        "*", [](void* data, const cloister_event*) { ++*static_cast<int*>(data); }, &calls);
    for (const int number : {4, 5}) CLOISTER_TRACE(program, called, number);
    std::printf("%d %s %s", calls, off ? "off" : "on", cloister::trace::load_errors().c_str());
}
