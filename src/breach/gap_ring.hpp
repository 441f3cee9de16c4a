// The ring through which the spinner hands its gaps to the collector; in memory that both processes share.
//
// Roles
//   producer  the spinner; alone writes head, tail_seen, lost, lost_cycles and slots[head]
//   consumer  the collector; alone writes tail; reads slots[tail, head)
//   Both counters only grow; slot = counter % kSlots. Zero bytes are a valid empty ring.
//
//   | head tail_seen lost lost_cycles | tail | slots[kSlots] |     each part on cache lines of its own, so that the
//                                                                  spinner's line moves only when someone looks
// What can be lost: a gap that finds the ring full is not written but counted in lost, and its length in lost_cycles.
// Gaps that are there are never overwritten.
//
// Memory orders
//   id  site                 operation      pairs with  if it were weaker
//   G1  producer, head       store release  G2          the consumer would read a slot before its contents
//   G2  consumer, head       load acquire   G1          the same
//   G3  consumer, tail       store release  G4          the producer would overwrite a slot that is still being read
//   G4  producer, tail       load acquire   G3          the same
//   lost and lost_cycles are relaxed: exact once the producer has stopped, at most one event behind before.
//
// The producer reads tail (a line that the consumer writes) only when the ring looks full from its last look: a push is
// three stores to lines of its own. The atomic builtins stand here in place of std::atomic because the spinner must not
// call anything, in no build: see spinner.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace cloister::breach {

// Two readings of the TSC that should have been adjacent. 24 bytes.
struct TscGap {
    enum class Entry : std::uint8_t {
        unknown,  // this processor leaves no footprint of it
        no,       // the kernel did not run: the hypervisor or the firmware did
        yes,      // the kernel was entered, and returned by iret
    };
    std::uint64_t before = 0, after = 0;  // cycles
    std::uint16_t cpu_before = 0, cpu_after = 0;
    Entry kernel = Entry::unknown;

    [[nodiscard]] bool moved() const { return cpu_before != cpu_after; }
};
static_assert(sizeof(TscGap) == 24 && std::is_trivially_copyable_v<TscGap>);

struct GapRing {
    static constexpr std::uint64_t kSlots = 1U << 15;

    alignas(64) std::uint64_t head;
    std::uint64_t tail_seen, lost, lost_cycles;
    alignas(64) std::uint64_t tail;
    alignas(64) TscGap slots[kSlots];

    // Producer. (A check for undefined behaviour would be a call.)
    __attribute__((always_inline, no_sanitize("undefined"))) inline void push(const TscGap& gap) {
        if (head - tail_seen >= kSlots) {
            tail_seen = __atomic_load_n(&tail, __ATOMIC_ACQUIRE);  // G4
            if (head - tail_seen >= kSlots) {
                __atomic_store_n(&lost_cycles, lost_cycles + (gap.after - gap.before), __ATOMIC_RELAXED);
                __atomic_store_n(&lost, lost + 1, __ATOMIC_RELAXED);
                return;
            }
        }
        slots[head % kSlots] = gap;
        __atomic_store_n(&head, head + 1, __ATOMIC_RELEASE);  // G1
    }

    // Consumer: appends all gaps that are there, oldest first; returns how many.
    std::size_t drain(std::vector<TscGap>& gaps) {
        const std::uint64_t end = __atomic_load_n(&head, __ATOMIC_ACQUIRE);  // G2
        const std::uint64_t begin = tail;
        for (std::uint64_t i = begin; i != end; ++i) gaps.push_back(slots[i % kSlots]);
        __atomic_store_n(&tail, end, __ATOMIC_RELEASE);  // G3
        return end - begin;
    }
};

}  // namespace cloister::breach
