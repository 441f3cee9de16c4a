#include "breach/pairing.hpp"

#include <algorithm>
#include <utility>

namespace cloister::breach {

namespace {
// How far the clocks of two CPUs may disagree about which came first.
constexpr std::uint64_t kSkewNs = 50;
constexpr int kFirstQueuedSignal = 32;  // from here on every send is delivered, in order; below they coalesce
}  // namespace

void Sends::sent(std::uint64_t object, int cpu, std::uint64_t t_ns, Party who) {
    if (sends_.size() >= kMaxKeys) {
        std::erase_if(sends_, [&](const auto& entry) { return entry.second.back().t_ns + max_age_ns_ < t_ns; });
        if (sends_.size() >= kMaxKeys) sends_.clear();
    }
    auto& sends = sends_[{object, cpu}];
    if (sends.size() >= kMaxPerKey) sends.erase(sends.begin());
    const auto after = std::ranges::upper_bound(sends, t_ns, {}, &Send::t_ns);  // not the end only for a late record
    sends.insert(after, {t_ns, std::move(who)});
}

std::optional<Party> Sends::ran(std::uint64_t object, int cpu, std::uint64_t start_ns) {
    const auto entry = sends_.find({object, cpu});
    if (entry == sends_.end()) return {};
    auto& sends = entry->second;
    const auto after = std::ranges::upper_bound(sends, start_ns + kSkewNs, {}, &Send::t_ns);
    if (after == sends.begin()) return {};
    std::optional<Party> who;
    if (const auto latest = std::prev(after); latest->t_ns + max_age_ns_ >= start_ns) who = std::move(latest->who);
    sends.erase(sends.begin(), after);
    if (sends.empty()) sends_.erase(entry);
    return who;
}

void UnseenCalls::sent(int cpu, Call call) {
    auto& calls = by_cpu_[cpu];
    if (calls.size() >= kMaxPerCpu) calls.erase(calls.begin());
    calls.push_back(std::move(call));
}

void UnseenCalls::ran(int cpu, std::uint64_t csd) {
    auto& calls = by_cpu_[cpu];
    const auto found = std::ranges::find(calls, csd, &Call::csd);
    if (found != calls.end()) calls.erase(found);
}

std::optional<UnseenCalls::Call> UnseenCalls::take(int cpu, std::uint64_t start_ns) {
    auto& calls = by_cpu_[cpu];
    std::erase_if(calls, [&](const Call& call) { return call.t_ns + kMaxAgeNs < start_ns; });
    const auto found = std::ranges::find_if(calls, [&](const Call& call) { return call.t_ns <= start_ns; });
    if (found == calls.end()) return {};
    Call call = std::move(*found);
    calls.erase(found);
    return call;
}

void Signals::sent(std::uint32_t tgid, int signal, Sent sent) {
    if (by_process_.size() >= kMaxProcesses && !by_process_.contains(tgid)) by_process_.clear();
    auto& pending = by_process_[tgid];
    if (pending.size() >= kMaxPending) pending.erase(pending.begin());
    pending.push_back({signal, std::move(sent)});
}

std::optional<Party> Signals::delivered(std::uint32_t tgid, std::uint32_t tid, int signal, std::uint64_t t_ns) {
    const auto process = by_process_.find(tgid);
    if (process == by_process_.end()) return {};
    auto& pending = process->second;
    const auto matches = [&](const Pending& p) {
        return p.signal == signal && (p.sent.tid == 0 || p.sent.tid == tid) && p.sent.t_ns <= t_ns + kSkewNs;
    };
    auto found = std::ranges::find_if(pending, matches);
    if (found == pending.end()) return {};
    if (signal >= kFirstQueuedSignal) {
        auto who = std::move(found->sent.who);
        pending.erase(found);
        return who;
    }
    for (auto later = std::next(found); later != pending.end(); ++later)
        if (matches(*later)) found = later;
    auto who = std::move(found->sent.who);
    std::erase_if(pending, matches);
    return who;
}

void Signals::forget(std::uint32_t tgid) { by_process_.erase(tgid); }

}  // namespace cloister::breach
