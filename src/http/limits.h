// What a client may cost.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace quern {

struct ServerLimits {
  size_t connections = 4096;  // at once; the next get a 503
  uint32_t header_bytes = 32 << 10;
  size_t header_fields = 100;
  uint64_t body_bytes = 16 << 20;
  uint64_t all_body_bytes = 512 << 20;  // requests received or worked on and large answers, all together
  size_t stream_bytes = 1 << 20;        // events that wait for a slow reader, one answer
  std::chrono::milliseconds handshake_timeout{10000};  // TLS
  std::chrono::milliseconds header_timeout{15000};     // from the first byte to the end of the headers
  std::chrono::milliseconds body_timeout{60000};
  std::chrono::milliseconds idle_timeout{75000};   // between requests
  std::chrono::milliseconds write_timeout{30000};  // for 64 KiB
  std::chrono::milliseconds ping_interval{15000};  // comments in a stream that has nothing to say
  std::chrono::milliseconds probe_interval{1000};  // the same for clients that have closed their side
  std::chrono::milliseconds linger{1000};          // for a client to read our last words
};

}  // namespace quern
