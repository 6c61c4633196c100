// vhost-user: another program works on the rings, told by a Unix socket and with all of the guest's memory in
// its hands. It may say anything, hang or die: no call waits longer than its patience, and what it breaks is
// the device alone. A back end that can be reached again is brought up to where its rings stood.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "virtio/vhost/data_plane.h"
#include "virtio/vhost/user_session.h"
#include "vmm/core/fd.h"
#include "vmm/core/log.h"

namespace minivmm {

class VhostUser final : public DataPlane {
 public:
  struct Options {
    std::string name;          // for messages: "virtio-net.0"
    uint16_t queues = 2;       // of the device
    uint16_t queue_pairs = 1;  // as Session::begin()'s
    uint64_t without = 0;      // what is not to be offered, though the back end knows it
    // Connects anew once the back end is lost. Null: it is lost for good, and the device needs a reset that
    // does not help it. For requests that are used in the order of the ring only.
    std::function<Result<UniqueFd>()> reconnect = {};
    // The back end is lost, or there again; on any thread, with nothing held.
    std::function<void(bool there)> changed = {};
    std::chrono::milliseconds greeting = vhost_user::Session::kPatience;  // for the first answers
    std::chrono::milliseconds patience = vhost_user::Session::kPatience;
    // Before each attempt to connect anew; longer with each back end that is there but of no use.
    std::chrono::milliseconds retry_after{500};
  };
  // `socket`: connected to the back end. `log` outlives it. Throws HostError: it is none that we can use.
  VhostUser(UniqueFd socket, Options options, Log& log);
  ~VhostUser() override;

  uint64_t features() const override { return features_; }
  void ack_features(uint64_t features) override;
  Result<void> start_queue(uint16_t index, Virtqueue&& queue, QueueContext context) override;
  std::optional<Virtqueue> stop_queue(uint16_t index) override;
  Result<void> read_config(uint32_t offset, std::span<std::byte> out) override;
  Result<void> use_queues(uint16_t count) override;

 private:
  using Session = vhost_user::Session;

  // With mutex_ held.
  Result<void> introduce(const GuestMemory& memory);
  Result<void> start_ring(const RemoteRing& ring);
  Result<void> start_all();
  void lose(const Error& why);

  void watch();
  bool wait_for_end(int fd);
  bool connect_again();
  Result<void> bring_up(UniqueFd socket);

  const Options options_;
  Log& log_;
  uint64_t features_ = 0;

  std::mutex mutex_;
  std::unique_ptr<Session> session_;  // null: lost
  bool introduced_ = false;           // features and memory are set in this session
  uint64_t acked_ = 0;
  uint16_t used_queues_ = UINT16_MAX;
  std::vector<std::unique_ptr<RemoteRing>> rings_;  // null: it does not run

  EventFd stop_;
  std::thread thread_;
};

}  // namespace minivmm
