// Recorded streams as text: one record a line, "KIND key=value ...", so that they can be read, written by hand and
// diffed.
//
//   name 0x1000 tick_nohz_handler        what the kernel function at an address is called
//   expect_cpu 1                         where the watched task belongs
//   default cpu=1 tid=100 tgid=100       for the records that follow
//   syscall start=1000 end=2000 a=39     any field of cl_record; `t=` sets start and end
//   irq t=... flags=in_syscall|in_irq sys=35@1000
//   stack id=7 site=0x51 tid=100         a cl_stack
//   advance 5000 / finish 9000           drives the correlator
//   exact syscall getppid count=9 total=900 max=200 first=1000 last=8000
//   exact_site syscall getppid site=0x51 count=9
//   counted interrupt "HYP hypervisor callback" 3
//
// Times are ns, numbers decimal or 0x hexadecimal, words with blanks in double quotes, # begins a comment.
#pragma once

#include <string>
#include <vector>

#include "breach/breach.hpp"
#include "breach/correlate.hpp"
#include "breach/tally.hpp"

namespace cloister::breach::testing {

[[nodiscard]] std::string text_of(const cl_record& record);
// Throws std::runtime_error with the line that does not parse.
[[nodiscard]] cl_record record_of(const std::string& line);

// Replays a stream, and tells everything that came of it: departures, notices, rows, sums.
[[nodiscard]] std::string replay(const std::string& stream);

// A departure and what lies in it, one line each, indented.
[[nodiscard]] std::string text_of(const Breach& breach, int depth = 0);

}  // namespace cloister::breach::testing
