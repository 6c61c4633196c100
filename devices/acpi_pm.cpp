#include "devices/acpi_pm.h"

#include <algorithm>
#include <utility>

#include "vmm/core/state.h"

namespace minivmm {

namespace {
constexpr uint16_t kFieldEvents = 1;
constexpr uint8_t kSleepTypeMask = 0x7;
}  // namespace

AcpiPm::AcpiPm(IrqLine& ged, std::function<void()> on_power_off, std::function<void()> on_reset)
    : ged_(ged), on_power_off_(std::move(on_power_off)), on_reset_(std::move(on_reset)) {}

void AcpiPm::raise(uint32_t events) {
  const std::scoped_lock lock(mutex_);
  events_ |= events;
  ged_.pulse();
}

void AcpiPm::reset() {
  const std::scoped_lock lock(mutex_);
  events_ = 0;
}

IoStatus AcpiPm::read(uint64_t offset, std::span<std::byte> data) {
  if (offset == kAcpiGedEvents && data.size() == 4) {
    const std::scoped_lock lock(mutex_);
    store_le(data, std::exchange(events_, 0));
    return IoStatus::ok;
  }
  if (data.size() == 1 && offset >= kAcpiSleepControl && offset <= kAcpiReset) {
    data[0] = std::byte{0};  // SLP_EN reads as zero, and the machine has never slept
    return IoStatus::ok;
  }
  std::ranges::fill(data, std::byte{0xff});
  return IoStatus::bad_access;
}

IoStatus AcpiPm::write(uint64_t offset, std::span<const std::byte> data) {
  if (data.size() != 1) return IoStatus::bad_access;
  const auto v = std::to_integer<uint8_t>(data[0]);
  switch (offset) {
    case kAcpiSleepControl:
      // Types other than S5 are not in the DSDT: there is nothing to enter.
      if ((v & kAcpiSleepEnable) != 0 && (v >> kAcpiSleepTypeShift & kSleepTypeMask) == kAcpiS5Type)
        on_power_off_();
      return IoStatus::ok;
    case kAcpiSleepStatus: return IoStatus::ok;
    case kAcpiReset:
      if (v == kAcpiResetValue) on_reset_();
      return IoStatus::ok;
    default: return IoStatus::bad_access;
  }
}

void AcpiPm::save(StateWriter& w) const {
  const std::scoped_lock lock(mutex_);
  w.field(kFieldEvents, events_);
}

Result<void> AcpiPm::load(StateReader& r) {
  auto events = r.need<uint32_t>(kFieldEvents);
  if (!events) return std::unexpected(events.error());
  if (auto done = r.finish(); !done) return done;
  const std::scoped_lock lock(mutex_);
  events_ = *events;
  return {};
}

}  // namespace minivmm
