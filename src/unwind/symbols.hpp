// Where an address is: module, function, file and line. Runs on housekeeping CPUs, never in a signal handler, and on
// one thread at a time. Nothing here fails loudly: what cannot be known is left empty in the Frame.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "breach/probe/record.h"

namespace cloister::unwind {

class MappedFile;

struct Frame {
    std::uint64_t pc = 0;
    std::string function;      // demangled, without parameters and return type; empty when unknown
    std::uint64_t offset = 0;  // bytes from the function's start; without a function, the address inside the module
    std::string file;          // base name of the source file; empty without line information
    int line = 0;
    std::string module;  // "libc.so.6", "[vdso]", "[kernel]", of a kernel module "[virtio_blk]"; empty: no file there
    bool kernel = false;
    bool guessed =
        false;  // reached along frame pointers, not by call frame information: a frame may be missing or wrong

    // "munmap", "rotate_log log.cc:88", "libfoo.so+0x1234", "0x7f.."; with "? " before it when guessed.
    [[nodiscard]] std::string text() const;
};

// Which file was mapped where, in every process of interest, kept after the processes are gone. Files are held open (a
// bounded number), so that one deleted, replaced or unmounted later still gives its names. Of more than kMaxProcesses,
// the oldest that are gone are forgotten.
class AddressSpaces {
public:
    struct Map {
        std::uint64_t start, end, offset;  // bytes; offset into the file
        std::string path;                  // as in /proc/PID/maps; "[vdso]"
    };
    static constexpr std::size_t kMaxProcesses = 8192;

    AddressSpaces();
    ~AddressSpaces();
    // An executable mapping was made (PERF_RECORD_MMAP2): it replaces what it covers of older ones.
    void map(std::uint32_t tgid, Map map);
    // The child starts with the parent's. CLOCK_MONOTONIC ns; a child that reuses a pid keeps the older life's maps for
    // stacks taken before `at_ns` (0: forgets them).
    void fork(std::uint32_t parent, std::uint32_t child, std::uint64_t at_ns = 0);
    // Forget all of it; with `at_ns`, keep it for stacks taken before that.
    void exec(std::uint32_t tgid, std::uint64_t at_ns = 0);
    // Add what /proc/TGID/maps has now; false if the process is gone or may not be read.
    bool snapshot(std::uint32_t tgid);
    [[nodiscard]] bool knows(std::uint32_t tgid) const;
    // In order of address; null when the process is not known. Valid until the next change.
    [[nodiscard]] const std::vector<Map>* maps(std::uint32_t tgid) const;

    struct Place {
        const Map* map;                          // valid until the next change
        std::shared_ptr<const MappedFile> file;  // null: not a file, or gone
    };
    // What is at `pc` now, or was at `at_ns` if that is not 0.
    [[nodiscard]] std::optional<Place> find(std::uint32_t tgid, std::uint64_t pc, std::uint64_t at_ns = 0) const;

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

class Symbols {
public:
    explicit Symbols(AddressSpaces& spaces);
    ~Symbols();

    // "flush_tlb_func", of a module "virtblk_done [virtio_blk]"; "0x.." when /proc/kallsyms hides it.
    [[nodiscard]] std::string kernel_function(std::uint64_t address) const;
    [[nodiscard]] Frame kernel(std::uint64_t pc) const;
    // Never empty. Inlined functions innermost first; the last one is the function that the symbol table has. A process
    // that is not known yet is read from /proc if it is still there.
    [[nodiscard]] std::vector<Frame> user(std::uint32_t tgid, std::uint64_t pc, bool is_return_address) const;
    // The user part of a sampled stack, innermost first: unwound with the call frame information of the modules over
    // the copied bytes as far as they go, then along frame pointers (guessed). At most 64 calls; empty for a kernel
    // thread.
    [[nodiscard]] std::vector<Frame> user(const cl_stack& stack) const;
    // The kernel part without the probe's own frames on top.
    [[nodiscard]] std::vector<Frame> kernel(const cl_stack& stack) const;

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace cloister::unwind
