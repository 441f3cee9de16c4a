// What the tests share: a probe that keeps what it is shown, and looks at the bytes of sites.
#pragma once

#include <cloister/trace.hpp>

#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace cloister::tests {

struct Seen {
    std::string name, payload;
    std::uint32_t clipped = 0;
};

// Adds itself as a probe to what matches the glob, and turns that on; takes both back.
class Collector {
public:
    explicit Collector(const std::string& glob, const std::string& filter = "") : glob_(glob) {
        const auto added = trace::add_probe(glob, keep, this);
        id_ = added.count;
        const auto enabled = trace::enable(glob, CLOISTER_DEBUG, filter);
        error = added.error + enabled.error;
    }
    Collector(const Collector&) = delete;
    Collector& operator=(const Collector&) = delete;
    ~Collector() {
        (void)trace::disable(glob_);
        (void)trace::remove_probe(id_);
        (void)trace::synchronize();
    }

    std::vector<Seen> seen;
    std::string error;

private:
    static void keep(void* data, const cloister_event* event) {
        static_cast<Collector*>(data)->seen.push_back(
            {std::string(event->event_class->provider) + ":" + event->event_class->name,
             std::string(static_cast<const char*>(event->payload), event->size), event->clipped});
    }
    std::string glob_;
    int id_ = 0;
};

template <class... T>
std::string packed(const T&... values) {
    std::string out;
    const auto add = [&out](const auto& value) {
        if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::string>) {
            out += value;
        } else {
            out.append(reinterpret_cast<const char*>(&value), sizeof value);
        }
    };
    (add(values), ...);
    return out;
}

// The sites of this program's class of that name, in order of their records.
inline std::vector<const cloister_site*> sites_of(const std::string& provider, const std::string& name) {
    std::vector<const cloister_site*> found;
    for (const cloister_site* site = __start_cloister_sites; site != __stop_cloister_sites; ++site)
        if (site->event_class->provider == provider && site->event_class->name == name) found.push_back(site);
    return found;
}

using Bytes = std::array<unsigned char, 5>;
inline Bytes bytes_of(const cloister_site& site) {
    Bytes bytes;
    std::memcpy(bytes.data(), site.nop, bytes.size());
    return bytes;
}
inline constexpr Bytes kNop = {0x0f, 0x1f, 0x44, 0x00, 0x00};

}  // namespace cloister::tests
