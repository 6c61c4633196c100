// The platform devices of a machine, on their ports.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "devices/acpi_pm.h"
#include "devices/cmos_rtc.h"
#include "devices/fw_cfg.h"
#include "devices/i8042.h"
#include "devices/i8254.h"
#include "devices/serial_16550.h"
#include "vmm/core/bus.h"
#include "vmm/core/event_loop.h"
#include "vmm/core/irq.h"

namespace minivmm {

class Platform {
 public:
  struct Wires {
    std::function<std::unique_ptr<IrqLine>(uint32_t gsi)> irq;
    std::function<void()> on_power_off;  // on a vCPU's thread
    std::function<void()> on_reset;
  };
  // Puts every device on `pio`; without `fw_cfg` the machine has none. `pio`, `time` and `serial` outlive it.
  Platform(Bus& pio, TimeSource& time, SerialBackend& serial, const Wires& wires,
           std::unique_ptr<FwCfg> fw_cfg);

  void press_power_button() { pm_.press_power_button(); }
  void pause();
  void resume();
  void reset();
  std::span<IoDevice* const> devices() const { return devices_; }

 private:
  std::unique_ptr<IrqLine> pit_irq_, serial_irq_, rtc_irq_, pm_irq_;
  I8254 pit_;
  I8042 i8042_;
  CmosRtc rtc_;
  AcpiPm pm_;
  Serial16550 serial_;
  std::unique_ptr<FwCfg> fw_cfg_;  // may be none
  std::vector<IoDevice*> devices_;
};

}  // namespace minivmm
