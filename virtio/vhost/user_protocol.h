// Numbers and messages of the vhost-user protocol (QEMU's documentation, "Vhost-user Protocol"), as far as
// this front end speaks it. All fields are in the host's byte order.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace minivmm::vhost_user {

enum class Request : uint32_t {
  get_features = 1,
  set_features = 2,
  set_owner = 3,
  set_mem_table = 5,
  set_vring_num = 8,
  set_vring_addr = 9,
  set_vring_base = 10,
  get_vring_base = 11,
  set_vring_kick = 12,
  set_vring_call = 13,
  set_vring_err = 14,
  get_protocol_features = 15,
  set_protocol_features = 16,
  get_queue_num = 17,
  set_vring_enable = 18,
  get_config = 24,
};

struct Header {
  uint32_t request;
  uint32_t flags;
  uint32_t size;  // bytes that follow
};
inline constexpr uint32_t kVersion = 1;  // in the two lowest bits of the flags
inline constexpr uint32_t kVersionMask = 3;
inline constexpr uint32_t kFlagReply = 4;
inline constexpr uint32_t kFlagNeedReply = 8;

inline constexpr uint64_t kFeatureLogAll = uint64_t{1} << 26;    // VHOST_F_LOG_ALL
inline constexpr uint64_t kFeatureProtocol = uint64_t{1} << 30;  // VHOST_USER_F_PROTOCOL_FEATURES

inline constexpr uint64_t kProtocolMq = uint64_t{1} << 0;
inline constexpr uint64_t kProtocolReplyAck = uint64_t{1} << 3;
inline constexpr uint64_t kProtocolConfig = uint64_t{1} << 9;

struct RingState {
  uint32_t index;
  uint32_t num;
};
struct RingAddress {
  uint32_t index;
  uint32_t flags;
  uint64_t descriptors;  // these three: "user addresses", by the memory table
  uint64_t used;
  uint64_t available;
  uint64_t log;
};
static_assert(sizeof(RingAddress) == 40);

// A part of the device's configuration space, whose bytes follow.
struct ConfigSpace {
  uint32_t offset;
  uint32_t size;
  uint32_t flags;
};
inline constexpr size_t kMaxConfig = 256;  // bytes

inline constexpr size_t kMaxRegions = 8;
struct Region {
  uint64_t guest_address;
  uint64_t size;
  uint64_t user_address;
  uint64_t mmap_offset;
};
struct MemoryTable {
  uint32_t count;
  uint32_t padding;
  std::array<Region, kMaxRegions> regions;
};
static_assert(sizeof(MemoryTable) == 8 + 32 * kMaxRegions);

}  // namespace minivmm::vhost_user
