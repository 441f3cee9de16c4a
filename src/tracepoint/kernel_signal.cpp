#include "tracepoint/kernel_signal.hpp"

#include <cstring>

#include "tracepoint/read_memory.hpp"

namespace cloister::tracepoint {

bool is_restorer(std::uintptr_t address) {
    constexpr unsigned char kCode[] = {0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00,  // mov $15, %rax
                                       0x0f, 0x05};                               // syscall
    unsigned char code[sizeof kCode];
    return read_memory(address, code, sizeof code) == sizeof code && std::memcmp(code, kCode, sizeof code) == 0;
}

}  // namespace cloister::tracepoint
