// Does in software what a guest's driver did not say it can: cuts one large frame into those that its
// sender's card would have put on the wire, and fills in checksums.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "devices/net/net_backend.h"
#include "devices/net/net_header.h"

namespace minivmm {

class Segmenter {
 public:
  Segmenter();

  // Where a frame is put, header first, before start().
  std::span<std::byte> buffer() { return frame_; }
  // The frame in buffer(), with the header that check_net_header() made of it. Errc::invalid: the packet
  // inside does not match its header, and is dropped.
  Result<void> start(const NetHeader& header, size_t size);

  bool active() const { return active_; }
  // The next frame, with a header that asks for nothing, into the pieces. Errc::too_large: it did not fit and
  // is gone.
  Result<size_t> next(std::span<const iovec> pieces);

 private:
  Result<void> find_headers(const NetHeader& header);
  void prepare(size_t payload_begin, size_t payload_size);
  std::span<std::byte> packet() { return std::span(frame_).subspan(kNetHeaderSize, size_); }

  std::vector<std::byte> frame_;
  std::vector<std::byte> head_;  // of the frame being made: virtio header and packet headers
  bool active_ = false;
  size_t size_ = 0;     // of the Ethernet frame
  bool whole_ = false;  // it is not cut
  bool ip6_ = false;
  bool tcp_ = false;
  size_t ip_ = 0;  // offsets in the Ethernet frame
  size_t transport_ = 0;
  size_t payload_ = 0;
  size_t segment_ = 0;  // bytes of payload a frame
  size_t at_ = 0;       // payload that is done
  uint16_t index_ = 0;
};

}  // namespace minivmm
