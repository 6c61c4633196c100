// A block request as the guest wrote it (virtio 1.2, 5.2.6), checked and turned into a BlockRequest.
#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <string_view>

#include "devices/block/block_backend.h"
#include "virtio/descriptor_chain.h"

namespace minivmm::blk {

inline constexpr unsigned kFeatureSegMax = 2;  // 5.2.3
inline constexpr unsigned kFeatureReadOnly = 5;
inline constexpr unsigned kFeatureBlkSize = 6;
inline constexpr unsigned kFeatureFlush = 9;
inline constexpr unsigned kFeatureTopology = 10;
inline constexpr unsigned kFeatureMq = 12;
inline constexpr unsigned kFeatureDiscard = 13;
inline constexpr unsigned kFeatureWriteZeroes = 14;

inline constexpr uint32_t kTypeIn = 0;  // 5.2.6
inline constexpr uint32_t kTypeOut = 1;
inline constexpr uint32_t kTypeFlush = 4;
inline constexpr uint32_t kTypeGetId = 8;
inline constexpr uint32_t kTypeDiscard = 11;
inline constexpr uint32_t kTypeWriteZeroes = 13;

enum class Status : uint8_t { ok = 0, io_error = 1, unsupported = 2 };

struct Answer {
  Status status;
  uint64_t data_written = 0;  // bytes, from the start of the writable part
};

struct Header {
  uint32_t type;
  uint32_t reserved;
  uint64_t sector;
};
static_assert(sizeof(Header) == 16);

struct Segment {  // of a discard or write-zeroes request
  uint64_t sector;
  uint32_t sectors;
  uint32_t flags;
};
static_assert(sizeof(Segment) == 16);
inline constexpr uint32_t kSegmentUnmap = 1;

inline constexpr uint64_t kIdBytes = 20;
inline constexpr uint32_t kMaxRangeSectors = 1U << 22;  // of one discard or write-zeroes: 2 GiB

// What a request's checks need to know of the disk.
struct DiskFacts {
  uint64_t capacity;  // bytes
  bool read_only;
  std::string_view serial;
};

// Where the status byte goes: the last of the writable part. Empty where there is no room for one.
std::optional<uint64_t> status_offset(const Chain&);

// What is to be done for the chain, its data pieces appended to `pieces` (which BlockRequest::data names);
// or, where nothing is to be asked of the disk, what to answer at once. get-id is answered in here.
std::expected<BlockRequest, Answer> parse(Chain& chain, const DiskFacts& disk, IoVec& pieces);

}  // namespace minivmm::blk
