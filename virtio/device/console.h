// The console device (virtio 1.2, 5.3), in its two shapes. A console is one port without a name, on a device
// of its own that does not offer MULTIPORT: its size then goes through the configuration space, where all of
// Linux's versions agree on the order of columns and rows (before 6.15 they swap them in a control message).
// Ports with names share one device with MULTIPORT.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "devices/serial_backend.h"
#include "virtio/device/console_spec.h"
#include "virtio/device_thread.h"
#include "virtio/registry.h"
#include "virtio/served_queue.h"
#include "virtio/virtio_device.h"

namespace minivmm {

class VirtioConsole final : public VirtioDevice {
 public:
  static constexpr size_t kMaxPorts = 31;     // 64 queues with the control queues
  static constexpr size_t kInputRoom = 4096;  // bytes from the host that wait for the guest, for each port

  struct PortOptions {
    std::string name;  // empty: a console; then it is the only port
    std::unique_ptr<SerialBackend> backend;
  };
  // `log` outlives it. Throws HostError. Destroyed on the event loop's thread, or with the loop stopped.
  VirtioConsole(unsigned index, std::vector<PortOptions> ports, Log& log);
  ~VirtioConsole() override;

  // The size of the terminal that the console is on. True: it changed, and the driver has to be told. Any
  // thread.
  bool set_size(uint16_t columns, uint16_t rows);

  VirtioTraits traits() const override;
  void read_config(uint32_t offset, std::span<std::byte> out) const override;
  void write_config(uint32_t, std::span<const std::byte>) override {}  // emergency write is not offered
  void ack_features(uint64_t features) override;
  Result<void> start_queue(uint16_t index, Virtqueue&&, QueueContext) override;
  std::optional<Virtqueue> stop_queue(uint16_t index) override;
  void reset() override;
  Result<void> close() override;

  std::string_view state_name() const override { return name_; }
  void save(StateWriter&) const override;
  Result<void> load(StateReader&) override;

 private:
  class Port;

  bool work();
  void take_control();
  void obey(uint32_t port, uint16_t event, uint16_t value);
  void give_control();

  const std::string name_;
  Log& log_;
  const bool multiport_;
  std::atomic<uint32_t> size_{0};  // columns, and rows in the upper half
  DeviceThread thread_;
  std::vector<ServedQueue> queues_;           // this and the rest: under the thread's lock
  std::vector<std::unique_ptr<Port>> ports_;  // by id
};

std::unique_ptr<VirtioDevice> create_virtio_console(std::string_view spec, const CreateContext&);
std::string example_virtio_console_spec(const std::filesystem::path& folder);
bool joins_virtio_console(std::string_view spec);

inline constexpr VirtioDeviceType kVirtioConsoleType{
    .name = "console",
    .option = "--console",
    .metavar = "WHERE[,name=NAME]",
    .help =
        "a console for the guest (hvc0), or with name= a port /dev/virtio-ports/NAME; WHERE as for --serial",
    .repeatable = true,
    .default_spec = "",
    .create = create_virtio_console,
    .example_spec = example_virtio_console_spec,
    .joins = joins_virtio_console,
};

}  // namespace minivmm
