// Just enough of the i8042 keyboard controller for a guest to find no keyboard and to reset the machine
// through it (command 0xFE). The FADT should deny it (IAPC_BOOT_ARCH bit 1 clear), so that Linux does not
// look for one.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>

#include "vmm/core/device.h"

namespace minivmm {

inline constexpr uint64_t kI8042Data = 0;     // at port 0x60; put on the bus as two ranges of one port each
inline constexpr uint64_t kI8042Command = 4;  // at port 0x64

class I8042 final : public IoDevice, public StateUnit {
 public:
  // `on_reset` is called on the vCPU's thread, without a lock held; it must not block.
  explicit I8042(std::function<void()> on_reset);

  void reset();

  std::string_view name() const override { return "i8042"; }
  IoStatus read(uint64_t offset, std::span<std::byte> data) override;
  IoStatus write(uint64_t offset, std::span<const std::byte> data) override;

  std::string_view state_name() const override { return "i8042"; }
  void save(StateWriter&) const override;
  Result<void> load(StateReader&) override;

 private:
  struct State {
    uint8_t config = 0x74;       // the command byte: both ports disabled, system flag, translation
    uint8_t output_port = 0x03;  // A20 on, reset line high
    uint8_t awaiting = 0;        // the command whose argument comes next on the data port
    std::optional<uint8_t> answer;
  };

  bool command(uint8_t v);  // true: reset the machine
  bool argument(uint8_t v);

  std::function<void()> on_reset_;
  mutable std::mutex mutex_;
  State s_;
};

}  // namespace minivmm
