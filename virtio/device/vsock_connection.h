// One stream between a port of the guest and a socket of the host, with the credit of both directions
// (virtio 1.2, 5.10.6.3). Data goes between the guest's buffers and the socket without a copy; what the host
// does not take at once is kept, kBufAlloc at most, which is all that the guest may have sent ahead.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "virtio/device/vsock_packet.h"
#include "vmm/core/fd.h"

namespace minivmm {

class VsockConnection {
 public:
  static constexpr uint32_t kBufAlloc = 256U << 10;
  // Bytes of memory for what the host has not taken.
  static constexpr size_t kMostKept = size_t{2} * kBufAlloc;

  enum class State : uint8_t {
    greeting,   // a program of the host has yet to say which port it wants
    requested,  // the guest has been asked, or is to be
    open,
    draining,  // the guest is done with it; what it has sent is still on its way to the host
  };
  struct Ports {
    uint32_t guest;
    uint32_t host;
    auto operator<=>(const Ports&) const = default;
  };

  VsockConnection(uint64_t id, UniqueFd fd) : id_(id), fd_(std::move(fd)) {}

  uint64_t id() const { return id_; }
  State state() const { return state_; }
  const Ports& ports() const { return ports_; }

  // --- The beginning.

  void request(Ports);  // the host wants it: greeting -> requested
  void accept(Ports);   // the guest wants it, and the host has taken it: greeting -> open
  void accepted();      // the guest has taken it: requested -> open
  struct Greeting {
    enum class Kind : uint8_t { none_yet, port, nonsense } kind;
    uint32_t port = 0;
  };
  Greeting read_greeting();  // "CONNECT <port>\n", and not a byte of what follows it

  // --- From the host.

  void on_events(uint32_t events);  // epoll(7)'s
  bool has_packet() const;          // something for the guest, perhaps
  // The next packet for the guest: the fields of `header` that are the connection's, and the data into
  // `room`. Its length; none: there was nothing after all.
  std::optional<uint32_t> next_packet(vsock::Header& header, std::span<const iovec> room);

  // --- From the guest.

  void credit(const vsock::Header&);  // of every packet
  void credit_requested() { say_credit_ = true; }
  // False: it sent more than it had credit for, or after it had said that it would not.
  [[nodiscard]] bool receive(std::span<const iovec> data);
  void shut_down(uint32_t flags);
  bool shut_down_by_guest() const { return guest_shut_ == vsock::kShutdownBoth; }
  // All that it waits for is an answer of the guest that nobody on the host waits for.
  bool abandoned() const {
    return shutdown_said_ == vsock::kShutdownBoth || (state_ == State::requested && hung_up_);
  }
  // The guest has forgotten it. True: there is still something to be passed on, so keep it until drained().
  [[nodiscard]] bool drain();
  // What the host is to be asked about as long as something is to be passed on to it; -1: nothing is.
  int unfinished() const { return backlog_.empty() ? -1 : fd_.get(); }
  bool drained() const { return state_ == State::draining && backlog_.empty(); }
  size_t kept_capacity() const { return backlog_.capacity(); }  // bytes; kMostKept at most

 private:
  uint32_t credit_left() const;
  uint32_t read_some(std::span<const iovec> room, uint32_t limit);
  void keep(std::span<const iovec> data, size_t skip);
  void flush();
  void passed_on(size_t bytes);
  void host_is_deaf();

  const uint64_t id_;
  UniqueFd fd_;
  State state_ = State::greeting;
  Ports ports_{};

  // What the guest is to be told.
  bool say_request_ = false;
  bool say_response_ = false;
  bool say_credit_ = false;
  bool credit_asked_ = false;
  uint32_t shutdown_due_ = 0;
  uint32_t shutdown_said_ = 0;

  // The socket.
  bool readable_ = false;  // perhaps; until it says EAGAIN
  bool hung_up_ = false;
  bool ended_ = false;  // nothing more comes from the host
  bool deaf_ = false;   // the host takes nothing more
  uint32_t guest_shut_ = 0;

  // Free-running counts of bytes.
  uint32_t received_ = 0;   // from the guest,
  uint32_t passed_on_ = 0;  // of those given to the host,
  uint32_t told_ = 0;       // and of those told to the guest
  uint32_t sent_ = 0;       // to the guest
  uint32_t peer_buf_alloc_ = 0;
  uint32_t peer_fwd_cnt_ = 0;

  std::vector<std::byte> backlog_;  // for the host; from backlog_done_ on
  size_t backlog_done_ = 0;
  std::vector<iovec> pieces_;  // of the transfer in hand; kept for its memory
};

}  // namespace minivmm
