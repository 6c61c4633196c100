// passt(1): networking without rights by another program, over a stream socket. When passt ends the cable is
// pulled, and plugged in again when there is a passt again.
#pragma once

#include <array>
#include <chrono>
#include <functional>
#include <vector>

#include "devices/net/link_state.h"
#include "devices/net/net_backend.h"
#include "devices/net/passt/stream_frames.h"
#include "vmm/core/fd.h"
#include "vmm/core/log.h"

namespace minivmm {

class PasstBackend final : public NetBackend, private NetQueue {
 public:
  // A connected, non-blocking stream socket. Throws HostError: there is none now.
  using Connect = std::function<UniqueFd()>;

  // Calls `connect` at once, and lets through what it throws; later on, it is tried again until it works.
  PasstBackend(Connect connect, Log& log);
  ~PasstBackend() override;

  NetTraits traits() const override { return {.kind = "passt"}; }
  NetQueue& queue(uint16_t) override { return *this; }
  bool link_up() const override { return state_.up(); }
  void watch_link(std::function<void()> changed) override { state_.watch(std::move(changed)); }

 private:
  static constexpr size_t kMaxPieces = 1024;  // UIO_MAXIOV

  int fd() const override { return epoll_.get(); }
  bool ready() override;
  Result<size_t> receive(std::span<const iovec> pieces) override;
  Result<bool> send(std::span<const iovec> pieces) override;
  void flush() override;

  Result<bool> read_more();
  bool send_rest();
  void use(UniqueFd fd);
  bool connect_again();
  void disconnect(const char* why);
  void watch_room(bool room);
  void try_again_later();

  Connect connect_;
  Log& log_;
  LinkState state_{true};
  UniqueFd epoll_;  // of the connection and the timer; only to be slept on
  UniqueFd timer_;
  UniqueFd connection_;
  bool watches_room_ = false;
  std::chrono::milliseconds delay_;
  StreamFrames in_;
  std::vector<std::byte> rest_;  // of a frame of which the socket took the beginning
  size_t rest_done_ = 0;
  std::array<iovec, kMaxPieces> pieces_{};
};

}  // namespace minivmm
