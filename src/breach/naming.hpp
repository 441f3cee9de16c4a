// From a record to a breach: its cause, class, detail and the other party.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "breach/breach.hpp"
#include "breach/correlate.hpp"
#include "breach/pairing.hpp"

namespace cloister::breach {

// A breach in the making, with what the correlator must know of its record.
struct Node {
    Breach breach;
    std::uint16_t kind = CL_NONE;
    std::uint32_t flags = 0;
    std::uint64_t vector = 0;     // CL_VECTOR: enum cl_vector
    std::int32_t sys_nr = -1;     // the syscall it lies in
    std::uint64_t sys_enter = 0;  // and when that began
    std::uint64_t reach_ns = 0;   // end of it and of what followed it before the thread ran again
};

[[nodiscard]] bool is_interrupt(std::uint16_t kind);  // runs on one CPU, and softirqs follow it

// Stacks wait here for the record that follows them, and stay for others from the same site. Bounded: the first
// kMaxSites sites keep theirs.
class Stacks {
public:
    void add(StackPtr stack);
    [[nodiscard]] StackPtr take(std::uint32_t id);
    [[nodiscard]] StackPtr of_site(std::uint64_t site) const;

private:
    static constexpr std::size_t kMaxSites = 8192, kMaxWaiting = 1024;
    std::unordered_map<std::uint32_t, StackPtr> waiting_;
    std::unordered_map<std::uint64_t, StackPtr> sites_;
};

class Namer {
public:
    Namer(const Names& names, const Stacks& stacks) : names_(names), stacks_(stacks) {}

    // Remembers a send (CL_CSD_QUEUE, CL_RESCHED_SEND, CL_WORK_QUEUE, CL_SIGNAL_GENERATE); false if it is none.
    bool note_send(const cl_record& record, StackPtr stack);
    // What the record says by itself.
    [[nodiscard]] Node node(const cl_record& record, StackPtr stack);
    // Puts the children inside, and names what takes its name from them: a tick is a timer interrupt that ran the
    // tick's function, an IPI is for the function that it called. A child that says nothing beyond its parent's new
    // name goes, and its own children take its place.
    void adopt(Node& parent, std::vector<Node> children);
    void forget_process(std::uint32_t tgid) { signals_.forget(tgid); }

    [[nodiscard]] std::uint64_t csd() const { return csd_; }
    [[nodiscard]] std::uint64_t csd_paired() const { return csd_paired_; }

private:
    void name_vector(Node& node, const cl_record& record);
    void name_offcpu(Breach& breach, const cl_record& record) const;
    void name_signal(Breach& breach, const cl_record& record);
    void name_migration(Breach& breach, const cl_record& record) const;
    [[nodiscard]] Party party(const cl_record& record, int cpu, StackPtr stack = {}) const;
    [[nodiscard]] const std::string& function(std::uint64_t address);

    const Names& names_;
    const Stacks& stacks_;
    std::unordered_map<std::uint64_t, std::string> functions_;
    Sends calls_{1'000'000'000}, wakeups_{1'000'000'000}, works_{10'000'000'000};
    UnseenCalls unseen_calls_;
    Signals signals_;
    std::uint64_t csd_ = 0, csd_paired_ = 0;
};

}  // namespace cloister::breach
