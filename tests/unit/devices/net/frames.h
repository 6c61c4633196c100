// What tests of network back ends stand on: frames, and a queue's user that waits as a worker does.
#pragma once

#include <sys/epoll.h>
#include <sys/uio.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>
#include <vector>

#include "devices/net/mac_address.h"
#include "devices/net/net_backend.h"
#include "vmm/core/fd.h"

namespace minivmm::test {

using Bytes = std::vector<std::byte>;

inline constexpr std::chrono::seconds kPatience{20};  // a deadline for what should come at once

inline MacAddress mac(uint8_t last) {
  return {{0x52, 0x54, 0x00, 0x00, 0x00, last}};
}
inline constexpr MacAddress kBroadcast{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};

// A header of zeroes, and an Ethernet frame with `size` bytes of payload that say `mark`.
inline Bytes make_frame(const MacAddress& to, const MacAddress& from, size_t size = 46, uint8_t mark = 0) {
  Bytes frame(kNetHeaderSize);
  for (const uint8_t byte : to.bytes) frame.push_back(std::byte{byte});
  for (const uint8_t byte : from.bytes) frame.push_back(std::byte{byte});
  frame.push_back(std::byte{0x88});  // IEEE 802: a local experiment
  frame.push_back(std::byte{0xb5});
  frame.resize(frame.size() + size, std::byte{mark});
  return frame;
}

// What lies behind the header.
inline Bytes packet_of(const Bytes& frame) {
  return {frame.begin() + kNetHeaderSize, frame.end()};
}

// In pieces of `first` bytes, then of twice as much each.
inline std::vector<iovec> in_pieces(std::span<std::byte> bytes, size_t first) {
  std::vector<iovec> pieces;
  while (!bytes.empty()) {
    const size_t size = std::min(first, bytes.size());
    pieces.push_back({bytes.data(), size});
    bytes = bytes.subspan(size);
    first *= 2;
  }
  return pieces;
}

inline Result<bool> send(NetQueue& queue, Bytes frame, size_t first_piece = 7) {
  const auto pieces = in_pieces(frame, first_piece);
  return queue.send(pieces);
}

inline bool went_out(const Result<bool>& sent) {
  return sent && *sent;
}

inline Result<Bytes> receive_now(NetQueue& queue, size_t room = kMaxFrame) {
  Bytes frame(room);
  const auto got = queue.receive(in_pieces(frame, 5));
  if (!got) return std::unexpected(got.error());
  frame.resize(*got);
  return frame;
}

// Waits for a queue's descriptor as its worker does: edge-triggered.
class Waiter {
 public:
  explicit Waiter(const NetQueue& queue) : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
    epoll_event event{};
    event.events = EPOLLIN | EPOLLET;
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, queue.fd(), &event);
  }
  bool wait(std::chrono::milliseconds limit = kPatience) const {
    epoll_event event{};
    return ::epoll_wait(epoll_.get(), &event, 1, static_cast<int>(limit.count())) > 0;
  }

 private:
  UniqueFd epoll_;
};

// The next frame for which `wanted` is true; others are left out. nullopt: none came.
template <class Wanted>
std::optional<Bytes> receive_if(NetQueue& queue, const Waiter& waiter, Wanted wanted) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < deadline) {
    auto frame = receive_now(queue);
    if (frame && !frame->empty() && wanted(*frame)) return std::move(*frame);
    const bool nothing = frame ? frame->empty() : frame.error().code == Errc::closed;
    if (nothing && !waiter.wait(std::chrono::seconds(1))) continue;
  }
  return std::nullopt;
}

inline std::optional<Bytes> receive_frame(NetQueue& queue, const Waiter& waiter) {
  return receive_if(queue, waiter, [](const Bytes&) { return true; });
}

}  // namespace minivmm::test
