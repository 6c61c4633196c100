#include "vmm/machine/platform.h"

#include <utility>

#include "vmm/machine/address_map.h"

namespace minivmm {

Platform::Platform(Bus& pio, TimeSource& time, SerialBackend& serial, const Wires& wires,
                   std::unique_ptr<FwCfg> fw_cfg)
    : pit_irq_(wires.irq(address_map::kPitGsi)),
      serial_irq_(wires.irq(address_map::kCom1Gsi)),
      rtc_irq_(wires.irq(address_map::kRtcGsi)),
      pm_irq_(wires.irq(address_map::kAcpiPmGsi)),
      pit_(*pit_irq_, time),
      i8042_(wires.on_reset),
      rtc_(*rtc_irq_, time),
      pm_(*pm_irq_, wires.on_power_off, wires.on_reset),
      serial_("serial0", *serial_irq_, serial, &time),
      fw_cfg_(std::move(fw_cfg)),
      devices_{&pit_, &pit_.port61(), &i8042_, &rtc_, &pm_, &serial_} {
  auto place = [&pio](const address_map::Window& window, IoDevice& device, uint64_t offset = 0) {
    const auto placed = pio.insert({window.base, window.size, &device, offset});
    MV_CHECK(placed);
  };
  place(address_map::kPit, pit_);
  place(address_map::kPort61, pit_.port61());
  place(address_map::kI8042Data, i8042_, kI8042Data);
  place(address_map::kI8042Command, i8042_, kI8042Command);
  place(address_map::kRtc, rtc_);
  place(address_map::kAcpiPm, pm_);
  place(address_map::kCom1, serial_);
  if (fw_cfg_) {
    place(address_map::kFwCfg, *fw_cfg_);
    devices_.push_back(fw_cfg_.get());
  }
}

void Platform::pause() {
  pit_.pause();
  rtc_.pause();
}

void Platform::resume() {
  rtc_.resume();
  pit_.resume();
}

void Platform::reset() {
  pit_.reset();
  i8042_.reset();
  rtc_.reset();
  pm_.reset();
  serial_.reset();
  if (fw_cfg_) fw_cfg_->reset();
}

}  // namespace minivmm
