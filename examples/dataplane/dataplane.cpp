// dataplane [SECONDS]: a poll loop that ought to have its CPU to itself, with three sins that keep it from that.
//
// The main thread polls a ring of packets and stays on its CPU. Two more threads move off to the other CPUs, as real
// dataplanes have it: a producer that stands for the network card, and a housekeeper.
//
//   log_progress   a log line every 10 ms, from inside the loop: a write(2), and the loop waits for it
//   count_flow     the first packet of a flow touches a page of the table for the first time: a page fault
//   rotate_log     the housekeeper unmaps memory: the kernel interrupts the loop's CPU to flush its TLB
//
//   cloister run -- dataplane 3

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

struct Packet {
    std::uint64_t sequence;
    std::uint32_t flow, length;
};

// One producer, one consumer; neither ever waits for the other.
class Ring {
public:
    bool push(const Packet& packet) {
        const auto tail = tail_.load(std::memory_order_relaxed);
        if (tail - head_.load(std::memory_order_acquire) == packets_.size()) return false;
        packets_[tail % packets_.size()] = packet;
        tail_.store(tail + 1, std::memory_order_release);
        return true;
    }
    bool pop(Packet& packet) {
        const auto head = head_.load(std::memory_order_relaxed);
        if (head == tail_.load(std::memory_order_acquire)) return false;
        packet = packets_[head % packets_.size()];
        head_.store(head + 1, std::memory_order_release);
        return true;
    }

private:
    alignas(64) std::atomic<std::uint64_t> head_{0};
    alignas(64) std::atomic<std::uint64_t> tail_{0};
    alignas(64) std::array<Packet, 4096> packets_{};
};

// One page for each flow, as if its counters were many. A fresh mapping has no memory behind it until it is touched.
struct alignas(4096) Flow {
    std::uint64_t packets, bytes;
};
constexpr std::uint32_t kFlows = 256;

Ring ring;
std::atomic<bool> stop{false};

[[noreturn]] void die(const char* what) {
    std::perror(what);
    std::exit(1);
}

void stay_on(int cpu) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(cpu, &cpus);
    if (sched_setaffinity(0, sizeof cpus, &cpus) != 0) die("dataplane: sched_setaffinity");
}

void leave(int cpu) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    for (int other = 0; other < CPU_SETSIZE; ++other) {
        if (other != cpu) CPU_SET(other, &cpus);
    }
    if (sched_setaffinity(0, sizeof cpus, &cpus) != 0) die("dataplane: there is no other CPU for the other threads");
}

// A batch every millisecond, and a new flow every 20 ms.
void produce(int loop_cpu) {
    pthread_setname_np(pthread_self(), "producer");
    leave(loop_cpu);
    const auto begin = Clock::now();
    for (std::uint64_t sequence = 0; !stop.load(std::memory_order_relaxed);) {
        const auto flows = static_cast<std::uint32_t>(1 + (Clock::now() - begin) / 20ms);
        for (int i = 0; i < 1024; ++i, ++sequence) {
            if (!ring.push({sequence, static_cast<std::uint32_t>(sequence % flows) % kFlows, 64})) break;
        }
        std::this_thread::sleep_for(1ms);
    }
}

// Sin: unmapping memory here makes the kernel flush the TLB of every CPU that runs a thread of this process, now.
[[gnu::noinline]] void rotate_log() {
    constexpr std::size_t bytes = 64UL * 1024;
    void* archive = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (archive == MAP_FAILED) die("dataplane: mmap");
    std::memset(archive, 'z', bytes);
    munmap(archive, bytes);
}

void keep_house(int loop_cpu) {
    pthread_setname_np(pthread_self(), "housekeeper");
    leave(loop_cpu);
    while (!stop.load(std::memory_order_relaxed)) {
        rotate_log();
        std::this_thread::sleep_for(25ms);
    }
}

// Sin: stdio looks harmless, but a flush is a system call.
[[gnu::noinline]] void log_progress(std::FILE* log, std::uint64_t packets) {
    std::fprintf(log, "packets=%llu\n", static_cast<unsigned long long>(packets));
    std::fflush(log);
}

// Sin: whoever touches a page first pays for it, and here that is the loop.
[[gnu::noinline]] void count_flow(Flow* flows, const Packet& packet) {
    Flow& flow = flows[packet.flow];
    ++flow.packets;
    flow.bytes += packet.length;
}

std::uint64_t poll_loop(Flow* flows, std::FILE* log, Clock::duration duration) {
    const auto end = Clock::now() + duration;
    auto next_log = Clock::now() + 10ms;
    std::uint64_t packets = 0;
    for (auto now = Clock::now(); now < end; now = Clock::now()) {
        for (Packet packet; ring.pop(packet); ++packets) count_flow(flows, packet);
        if (now >= next_log) {
            log_progress(log, packets);
            next_log += 10ms;
        }
    }
    return packets;
}

}  // namespace

int main(int argc, char** argv) {
    char* rest = nullptr;
    const double seconds = argc > 1 ? std::strtod(argv[1], &rest) : 3;
    if (argc > 2 || (rest && *rest) || !(seconds > 0 && seconds < 1e6)) {
        std::fprintf(stderr, "usage: dataplane [SECONDS]\n");
        return 2;
    }
    const int cpu = sched_getcpu();
    stay_on(cpu);

    std::FILE* log = std::tmpfile();
    if (!log) die("dataplane: tmpfile");
    void* table = mmap(nullptr, kFlows * sizeof(Flow), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (table == MAP_FAILED) die("dataplane: mmap");

    std::thread producer(produce, cpu), housekeeper(keep_house, cpu);
    const auto duration = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    const std::uint64_t packets = poll_loop(static_cast<Flow*>(table), log, duration);
    stop = true;
    producer.join();
    housekeeper.join();
    std::fprintf(stderr, "dataplane: %llu packets in %g s on cpu %d\n", static_cast<unsigned long long>(packets),
                 seconds, cpu);
    return 0;
}
