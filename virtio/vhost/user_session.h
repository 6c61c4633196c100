// One connection to a vhost-user back end, from its greeting on. After an error it is good for nothing more.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>

#include "virtio/vhost/data_plane.h"
#include "virtio/vhost/user_channel.h"
#include "vmm/core/guest_memory.h"

namespace minivmm::vhost_user {

class Session {
 public:
  // Each call takes so long at most. A ring that is stopped has to finish what is in hand.
  static constexpr std::chrono::milliseconds kPatience{5000};

  // `queue_pairs`: the back end is asked whether it has so many, if it is more than one. Errors as Channel's;
  // Errc::unsupported: it does not know virtio 1, or has fewer queues.
  static Result<std::unique_ptr<Session>> begin(UniqueFd socket, uint16_t queue_pairs,
                                                std::chrono::milliseconds patience = kPatience);

  int fd() const { return channel_.fd(); }
  uint64_t features() const { return features_; }  // of virtio alone

  Result<void> set_features(uint64_t features);
  // Of the device's configuration space, kMaxConfig bytes at most. Errc::unsupported: it does not say, and
  // the connection is still good.
  Result<void> read_config(uint32_t offset, std::span<std::byte> out);
  // Errc::unsupported: it is not shared, or in more pieces than the protocol can say.
  Result<void> set_memory(const GuestMemory& memory);
  Result<void> start_ring(const RemoteRing& ring, bool enabled);
  Result<void> enable_ring(uint16_t index, bool enabled);
  Result<uint16_t> stop_ring(uint16_t index);
  void set_patience(std::chrono::milliseconds patience) { patience_ = patience; }
  void shut_down() { channel_.shut_down(); }

 private:
  Session(UniqueFd socket, std::chrono::milliseconds patience)
      : channel_(std::move(socket)), patience_(patience) {}
  Result<void> greet(uint16_t queue_pairs);
  Channel::Deadline deadline() const { return std::chrono::steady_clock::now() + patience_; }
  Result<void> send_descriptor(Request request, uint16_t index, int fd);

  Channel channel_;
  std::chrono::milliseconds patience_;
  uint64_t features_ = 0;
  bool speaks_protocol_ = false;  // VHOST_USER_F_PROTOCOL_FEATURES: rings are enabled one by one
  bool acknowledges_ = false;     // REPLY_ACK
  bool keeps_config_ = false;     // CONFIG
};

}  // namespace minivmm::vhost_user
