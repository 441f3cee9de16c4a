// The gap detector of a watch: the spinner, the clock that places its readings, and the book that explains them.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "breach/breach.hpp"
#include "breach/gaps.hpp"
#include "breach/spinner.hpp"
#include "system/tsc.hpp"

namespace cloister::breach {

class GapWatch {
public:
    // Starts the spinner on `cpu`, held back until go(). `traced`: its departures will be given to departure().
    // Errors: those of Spinner::start.
    [[nodiscard]] static Result<std::unique_ptr<GapWatch>> start(int cpu, std::uint64_t gap_ns, bool traced,
                                                                 GapBook::Sink inferred);

    [[nodiscard]] pid_t pid() const { return spinner_.pid(); }
    void go();

    void departure(const Breach& root) { book_.departure(root); }
    // Takes what the spinner has found. Departures that end before `watermark_ns` have been given.
    void advance(std::uint64_t watermark_ns);
    // "" while the spinner spins where it should; else why it does not.
    [[nodiscard]] const std::string& why_ended() const { return why_ended_; }

    // Ends the spinning. Afterwards, when all departures have been given: finish().
    void stop();
    void finish();
    void fill(Balance& balance) const { book_.fill(balance); }

private:
    GapWatch(Spinner spinner, GapBook::Options options, GapBook::Sink inferred);
    bool take();  // true when everything that was drained could be placed on the clock

    Spinner spinner_;
    system::TscClock clock_;
    GapBook book_;
    std::vector<TscGap> drained_;
    std::deque<TscGap> waiting_;  // for a clock sample after them
    bool begun_ = false;
    std::string why_ended_;
};

}  // namespace cloister::breach
