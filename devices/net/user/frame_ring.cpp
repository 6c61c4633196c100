#include "devices/net/user/frame_ring.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

namespace minivmm::user_net {

Result<size_t> scatter(NetHeader header, std::span<const uint8_t> frame, std::span<const iovec> pieces) {
  const std::span<const uint8_t> parts[] = {header, frame};
  size_t part = 0;
  size_t done = 0;  // of that part
  for (const iovec& piece : pieces) {
    auto* to = static_cast<uint8_t*>(piece.iov_base);
    size_t room = piece.iov_len;
    while (room != 0 && part < std::size(parts)) {
      const size_t n = std::min(room, parts[part].size() - done);
      std::memcpy(to, parts[part].data() + done, n);
      to += n;
      room -= n;
      done += n;
      if (done == parts[part].size()) {
        ++part;
        done = 0;
      }
    }
    if (part == std::size(parts)) return header.size() + frame.size();
  }
  return fail(Errc::too_large, "a frame larger than the guest's buffers");
}

FrameRing::FrameRing(size_t capacity)
    : memory_(Mapping::map(capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                           0, "a network card's frames")) {}

void FrameRing::put_record(const Record& record) {
  std::memcpy(memory_.data() + head_, &record, sizeof record);
  head_ += record.stored;
  used_ += record.stored;
  if (head_ == capacity()) head_ = 0;
}

bool FrameRing::push(NetHeader header, std::span<const uint8_t> frame) {
  constexpr size_t kAlign = sizeof(Record);  // so that one always fits at the end
  const size_t stored = (sizeof(Record) + header.size() + frame.size() + kAlign - 1) / kAlign * kAlign;
  if (empty()) head_ = tail_ = 0;  // the same few pages again and again while the guest keeps up
  // A frame is in one piece: the end is left out where it does not fit.
  const bool wraps = head_ >= tail_ && capacity() - head_ < stored;
  const size_t skipped = wraps ? capacity() - head_ : 0;
  if (!has_room(stored + skipped)) return false;
  if (wraps) put_record({.stored = static_cast<uint32_t>(skipped), .length = kSkip});
  std::byte* const to = memory_.data() + head_ + sizeof(Record);
  std::memcpy(to, header.data(), header.size());
  std::memcpy(to + header.size(), frame.data(), frame.size());
  put_record({.stored = static_cast<uint32_t>(stored), .length = static_cast<uint32_t>(frame.size())});
  return true;
}

Result<size_t> FrameRing::pop(std::span<const iovec> pieces) {
  Record record{};
  for (;;) {
    std::memcpy(&record, memory_.data() + tail_, sizeof record);
    if (record.length != kSkip) break;
    used_ -= record.stored;
    tail_ = 0;
  }
  const auto* const bytes = reinterpret_cast<const uint8_t*>(memory_.data() + tail_ + sizeof record);
  auto result = scatter(NetHeader(bytes, kNetHeaderSize), {bytes + kNetHeaderSize, record.length}, pieces);
  used_ -= record.stored;
  tail_ += record.stored;
  if (tail_ == capacity()) tail_ = 0;
  return result;
}

}  // namespace minivmm::user_net
