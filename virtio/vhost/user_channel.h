// The front end's end of a vhost-user socket. Whoever is at the other end may say anything, slowly or never:
// each call ends by its deadline, and after an error the channel is good for nothing more.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "virtio/vhost/user_protocol.h"
#include "vmm/core/error.h"
#include "vmm/core/fd.h"

namespace minivmm::vhost_user {

class Channel {
 public:
  using Deadline = std::chrono::steady_clock::time_point;

  // `socket`: connected, a stream.
  explicit Channel(UniqueFd socket) : socket_(std::move(socket)) {}

  int fd() const { return socket_.get(); }

  // A message with `payload` behind its header, and descriptors, kMaxRegions at most. Errc::closed: the other
  // end has gone, or takes nothing.
  Result<void> send(Request request, std::span<const std::byte> payload, std::span<const int> descriptors,
                    Deadline deadline, bool need_reply = false);
  template <class T>
    requires std::is_trivially_copyable_v<T>
  Result<void> send(Request request, const T& payload, Deadline deadline) {
    return send(request, std::as_bytes(std::span(&payload, 1)), {}, deadline);
  }

  // The reply to `request`, of exactly that size, or of none where it `may_refuse`: how many bytes there
  // were. Descriptors that come with it are closed. Errc::closed: there is none; Errc::corrupt: it is no
  // reply to that.
  Result<size_t> receive(Request request, std::span<std::byte> payload, Deadline deadline,
                         bool may_refuse = false);
  // Asks with no payload.
  template <class T>
    requires std::is_trivially_copyable_v<T>
  Result<T> ask(Request request, Deadline deadline) {
    if (auto sent = send(request, {}, {}, deadline); !sent) return std::unexpected(sent.error());
    T out{};
    if (auto got = receive(request, std::as_writable_bytes(std::span(&out, 1)), deadline); !got)
      return std::unexpected(got.error());
    return out;
  }

  // Nobody is spoken to any more, on any thread: calls under way end.
  void shut_down();

 private:
  Result<void> read_exactly(std::span<std::byte> out, Deadline deadline);
  bool wait_for(short events, Deadline deadline) const;

  UniqueFd socket_;
};

}  // namespace minivmm::vhost_user
