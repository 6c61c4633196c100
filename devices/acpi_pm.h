// Power management for a hardware-reduced ACPI machine (ACPI 6.4, 4.1): one block of 8 I/O ports at an
// address of the machine's choosing, and the wire of a Generic Event Device (ACPI 6.4, 5.6.9).
//
//   offset  width  register
//   0       4      pending GED events, kGedEvent... bits; reading clears them. The _EVT method reads it once
//   and
//                  notifies what each set bit stands for.
//   4       1      SLEEP_CONTROL_REG (4.8.3.7): write kAcpiSleepEnable | type << kAcpiSleepTypeShift
//   5       1      SLEEP_STATUS_REG (4.8.3.7): bit 7 WAK_STS, write 1 to clear; always 0, there is no S3
//   6       1      RESET_REG (4.8.3.6): write kAcpiResetValue
//
// In the FADT: HW_REDUCED_ACPI and RESET_REG_SUP set; the three registers as 8-bit System I/O addresses; \_S5
// is Package {kAcpiS5Type, 0, 0, 0}. The GED's interrupt is edge-triggered, active high.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>

#include "vmm/core/device.h"
#include "vmm/core/irq.h"

namespace minivmm {

inline constexpr uint64_t kAcpiPmPorts = 8;
inline constexpr uint64_t kAcpiGedEvents = 0;
inline constexpr uint64_t kAcpiSleepControl = 4;
inline constexpr uint64_t kAcpiSleepStatus = 5;
inline constexpr uint64_t kAcpiReset = 6;

inline constexpr uint8_t kAcpiSleepEnable = 0x20;
inline constexpr unsigned kAcpiSleepTypeShift = 2;
inline constexpr uint8_t kAcpiS5Type = 5;
inline constexpr uint8_t kAcpiResetValue = 0x42;

inline constexpr uint32_t kGedPowerButton = 0x1;  // Notify (\_SB.PWRB, 0x80)
inline constexpr uint32_t kGedVmGenerationId = 0x2;
inline constexpr uint32_t kGedPciHotplug = 0x4;

class AcpiPm final : public IoDevice, public StateUnit {
 public:
  // `ged` outlives it. The callbacks come on a vCPU's thread, without a lock held; they must not block.
  AcpiPm(IrqLine& ged, std::function<void()> on_power_off, std::function<void()> on_reset);

  void press_power_button() { raise(kGedPowerButton); }
  void raise(uint32_t events);  // kGedEvent bits; any thread
  void reset();

  std::string_view name() const override { return "acpi-pm"; }
  IoStatus read(uint64_t offset, std::span<std::byte> data) override;
  IoStatus write(uint64_t offset, std::span<const std::byte> data) override;

  std::string_view state_name() const override { return "acpi-pm"; }
  void save(StateWriter&) const override;
  Result<void> load(StateReader&) override;

 private:
  IrqLine& ged_;
  std::function<void()> on_power_off_;
  std::function<void()> on_reset_;
  mutable std::mutex mutex_;
  uint32_t events_ = 0;
};

}  // namespace minivmm
