// The file system device (virtio 1.2, 5.11): a folder of the host for the guest (`mount -t virtiofs TAG
// /mnt`). Its queues are worked on by a virtiofsd of ours, by vhost-user; docs/shared-folders.md.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "virtio/device/fs_daemon.h"
#include "virtio/registry.h"
#include "virtio/vhost/vhost_user.h"
#include "virtio/virtio_device.h"

namespace minivmm {

class VirtioFs final : public VirtioDevice {
 public:
  // A queue that stops waits for the server to end what it has in hand, which may be a sync of gigabytes to a
  // slow disk. A server that was given up does not come back: the share would be lost over a reboot.
  static constexpr std::chrono::seconds kPatience{60};

  struct Options {
    unsigned index = 0;
    std::string tag;  // kMaxShareTag bytes at most
    std::chrono::milliseconds greeting = vhost_user::Session::kPatience;
    std::chrono::milliseconds patience = kPatience;
    std::function<void()> lost = {};  // the server has gone, and does not come back; on any thread
  };
  // `socket`: to a file server that speaks vhost-user. `log` outlives it. Throws HostError: it does not.
  VirtioFs(UniqueFd socket, Options options, Log& log);

  VirtioTraits traits() const override;
  void read_config(uint32_t offset, std::span<std::byte> out) const override;
  void write_config(uint32_t, std::span<const std::byte>) override {}  // read-only
  void ack_features(uint64_t features) override { plane_.ack_features(features); }
  Result<void> start_queue(uint16_t index, Virtqueue&&, QueueContext) override;
  std::optional<Virtqueue> stop_queue(uint16_t index) override { return plane_.stop_queue(index); }
  void reset() override { used_ = false; }

  // What the guest has open is known to the server alone: a machine that has the share mounted cannot be
  // loaded anywhere else.
  std::string_view state_name() const override { return name_; }
  void save(StateWriter&) const override;
  Result<void> load(StateReader&) override;

 private:
  const Options options_;
  const std::string name_;
  bool used_ = false;  // since the last reset a driver has run it
  VhostUser plane_;
};

bool fs_shares_memory(std::string_view spec);  // always; throws ConfigError
std::unique_ptr<VirtioDevice> create_virtio_fs(std::string_view spec, const CreateContext&);

inline constexpr VirtioDeviceType kVirtioFsType{
    .name = "fs",
    .option = "--share",
    .metavar = "DIR:TAG[:ro]",
    .help = "a folder of the host, mounted in the guest by: mount -t virtiofs TAG /mnt; repeatable",
    .repeatable = true,
    .default_spec = "",
    .create = create_virtio_fs,
    .example_spec = nullptr,  // it needs an installed server; tests have one of their own
    .absent_spec = "",
    .shares_memory = fs_shares_memory,
};

}  // namespace minivmm
