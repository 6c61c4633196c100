// The socket device (virtio 1.2, 5.10): streams between programs of the guest and Unix sockets of the host.
// docs/devices.md, "vsock", is for its users.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "virtio/device/vsock_host.h"
#include "virtio/device/vsock_mux.h"
#include "virtio/device_thread.h"
#include "virtio/registry.h"
#include "virtio/served_queue.h"
#include "virtio/virtio_device.h"

namespace minivmm {

class VirtioVsock final : public VirtioDevice {
 public:
  struct Options {
    unsigned index = 0;
    uint64_t cid = vsock::kFirstCid;
    bool keep_cid = false;  // whatever the state that is loaded says: the user has chosen it
  };
  // `log` outlives it. Throws HostError.
  VirtioVsock(std::unique_ptr<VsockHost> host, const Options& options, Log& log);
  ~VirtioVsock() override;

  VirtioTraits traits() const override;
  void read_config(uint32_t offset, std::span<std::byte> out) const override;
  void write_config(uint32_t, std::span<const std::byte>) override {}  // 5.10.4: read-only
  void ack_features(uint64_t) override {}
  Result<void> start_queue(uint16_t index, Virtqueue&&, QueueContext) override;
  std::optional<Virtqueue> stop_queue(uint16_t index) override;
  void reset() override;
  Result<void> close() override;

  // Connections are not saved: the restored guest is told that they are gone (5.10.6.6).
  std::string_view state_name() const override { return name_; }
  void save(StateWriter&) const override;
  Result<void> load(StateReader&) override;

 private:
  bool work();
  bool take_packets();
  void give_packets();
  bool give_packet(Chain& chain, uint32_t& written);
  void give_event();

  const Options options_;
  const std::string name_;
  Log& log_;
  std::unique_ptr<VsockHost> host_;
  DeviceThread thread_;
  VsockMux mux_;                     // this and the rest: under the thread's lock
  std::vector<ServedQueue> queues_;  // receive, transmit, event (5.10.2)
  bool reset_event_ = false;         // to be told
  IoVec pieces_;
};

std::unique_ptr<VirtioDevice> create_virtio_vsock(std::string_view spec, const CreateContext&);
std::string example_virtio_vsock_spec(const std::filesystem::path& folder);
void check_virtio_vsock_spec(std::string_view spec, uint64_t memory);

inline constexpr VirtioDeviceType kVirtioVsockType{
    .name = "vsock",
    .option = "--vsock",
    .metavar = "on|cid=N[,path=PATH|,vhost=on]",
    .help =
        "sockets between the guest and the host: host programs connect to the Unix socket PATH and write "
        "\"CONNECT port\", and listen on PATH_port for the guest's; vhost=on: AF_VSOCK sockets of the host",
    .repeatable = false,
    .default_spec = "",
    .create = create_virtio_vsock,
    .example_spec = example_virtio_vsock_spec,
    .check = check_virtio_vsock_spec,
};

}  // namespace minivmm
