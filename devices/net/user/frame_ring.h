// Frames on their way to the guest, up to a bound in bytes; allocated once.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "devices/net/net_backend.h"
#include "vmm/core/error.h"
#include "vmm/core/fd.h"

namespace minivmm::user_net {

using NetHeader = std::span<const uint8_t, kNetHeaderSize>;

// Copies a header and its frame into `pieces`; their length. Errc::too_large: there is not that much room.
Result<size_t> scatter(NetHeader header, std::span<const uint8_t> frame, std::span<const iovec> pieces);

class FrameRing {
 public:
  explicit FrameRing(size_t capacity);  // bytes; throws HostError

  bool empty() const { return used_ == 0; }
  bool has_room(size_t bytes) const { return capacity() - used_ >= bytes; }
  // False: there is no room, and it is lost.
  bool push(NetHeader header, std::span<const uint8_t> frame);
  // The oldest, which is gone from here afterwards; not to be called when empty. Errors as scatter().
  Result<size_t> pop(std::span<const iovec> pieces);

 private:
  struct Record {
    uint32_t stored;  // bytes in the ring, with this
    uint32_t length;  // of the frame; kSkip: the rest up to the end is unused
  };
  static constexpr uint32_t kSkip = ~uint32_t{0};

  size_t capacity() const { return memory_.size(); }
  void put_record(const Record& record);

  Mapping memory_;
  size_t head_ = 0;  // where the next one goes
  size_t tail_ = 0;  // where the oldest one is
  size_t used_ = 0;  // bytes between
};

}  // namespace minivmm::user_net
