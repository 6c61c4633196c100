#include "devices/net/passt/stream_frames.h"

#include <algorithm>
#include <cstring>

#include "devices/net/net_backend.h"
#include "devices/net/net_header.h"

namespace minivmm {

namespace {

constexpr size_t kMost = kMaxFrame - kNetHeaderSize;
constexpr size_t kBuffer = 4 * (StreamFrames::kLength + kMost);

}  // namespace

StreamFrames::StreamFrames() : buffer_(kBuffer) {}

std::span<std::byte> StreamFrames::room() {
  if (begin_ != 0) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  return std::span(buffer_).subspan(end_);
}

Result<std::optional<std::span<const std::byte>>> StreamFrames::next() {
  const auto have = std::span<const std::byte>(buffer_).subspan(begin_, end_ - begin_);
  if (have.size() < kLength) return std::nullopt;
  size_t length = 0;
  for (const std::byte byte : have.first(kLength)) length = length << 8 | std::to_integer<size_t>(byte);
  if (length < kEthernetHeader || length > kMost)
    return fail(Errc::invalid, "the stream says a length that no frame has");
  if (have.size() < kLength + length) return std::nullopt;
  begin_ += kLength + length;
  return have.subspan(kLength, length);
}

}  // namespace minivmm
