// What goes over the socket device's queues (virtio 1.2, 5.10.6).
#pragma once

#include <cstdint>

namespace minivmm::vsock {

enum class Op : uint16_t {  // 5.10.6
  invalid = 0,
  request = 1,
  response = 2,
  rst = 3,
  shutdown = 4,
  rw = 5,
  credit_update = 6,
  credit_request = 7,
};

struct [[gnu::packed]] Header {
  uint64_t src_cid;
  uint64_t dst_cid;
  uint32_t src_port;
  uint32_t dst_port;
  uint32_t len;  // bytes that follow
  uint16_t type;
  uint16_t op;
  uint32_t flags;
  uint32_t buf_alloc;  // 5.10.6.3: the sender's whole receive space, in bytes
  uint32_t fwd_cnt;    // and how many bytes it has taken out of that, free-running
};
static_assert(sizeof(Header) == 44);

inline constexpr uint16_t kTypeStream = 1;       // 5.10.6
inline constexpr uint32_t kShutdownReceive = 1;  // 5.10.6.4: the sender will take no more data
inline constexpr uint32_t kShutdownSend = 2;     // and will send no more
inline constexpr uint32_t kShutdownBoth = 3;
inline constexpr uint64_t kHostCid = 2;  // 5.10.4
inline constexpr uint64_t kFirstCid = 3;
inline constexpr uint64_t kLastCid = 0xffff'fffe;  // the upper 32 bits are reserved, and all ones is "any"
inline constexpr uint32_t kAnyPort = 0xffff'ffff;
inline constexpr unsigned kFeatureStream = 0;        // 5.10.3
inline constexpr uint32_t kEventTransportReset = 0;  // 5.10.6.6

}  // namespace minivmm::vsock
