// The socket device (virtio 1.2, 5.10) over the host's vhost-vsock: the guest's ports are reached by AF_VSOCK
// sockets of the host, and the host's by the guest, without this process.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "virtio/device/vsock_events.h"
#include "virtio/queue_runner.h"
#include "virtio/vhost/vhost_vsock.h"
#include "virtio/virtio_device.h"

namespace minivmm {

class VirtioVhostVsock final : public VirtioDevice {
 public:
  struct Options {
    unsigned index = 0;
    // The guest's address among all guests of the host: 3 or more. None: the first that is free, or that of
    // the state that is loaded.
    std::optional<uint64_t> cid = std::nullopt;
  };
  // `vhost`: open_vhost_device("vsock"). `log` outlives it. Throws HostError: the address is taken.
  VirtioVhostVsock(UniqueFd vhost, const Options& options, Log& log);
  ~VirtioVhostVsock() override;

  uint64_t cid() const { return cid_; }

  VirtioTraits traits() const override;
  void read_config(uint32_t offset, std::span<std::byte> out) const override;
  void write_config(uint32_t, std::span<const std::byte>) override {}  // 5.10.4: read-only
  void ack_features(uint64_t features) override { plane_.ack_features(features); }
  Result<void> start_queue(uint16_t index, Virtqueue&&, QueueContext) override;
  std::optional<Virtqueue> stop_queue(uint16_t index) override;
  void reset() override { events_.set_moved(false); }

  // Connections are the kernel's and not saved: the restored guest is told that they are gone (5.10.6.6).
  std::string_view state_name() const override { return name_; }
  void save(StateWriter&) const override;
  Result<void> load(StateReader&) override;

 private:
  const Options options_;
  const std::string name_;
  Log& log_;
  VhostVsock plane_;
  uint64_t cid_ = 0;
  VsockEvents events_;
  std::unique_ptr<QueueRunner> event_runner_;
};

}  // namespace minivmm
