#include "devices/pci/config.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "vmm/core/state.h"

namespace minivmm {

namespace {

// Registers of the type 0 header (PCI 3.0, 6.1).
constexpr uint16_t kVendor = 0x00;
constexpr uint16_t kDevice = 0x02;
constexpr uint16_t kCommand = 0x04;
constexpr uint16_t kStatus = 0x06;
constexpr uint16_t kRevision = 0x08;
constexpr uint16_t kClass = 0x09;
constexpr uint16_t kCacheLine = 0x0c;
constexpr uint16_t kBar0 = 0x10;
constexpr uint16_t kSubsystemVendor = 0x2c;
constexpr uint16_t kSubsystem = 0x2e;
constexpr uint16_t kCapabilities = 0x34;
constexpr uint16_t kInterruptLine = 0x3c;

// Memory space, bus master, parity error response, SERR#, INTx disable. No I/O BARs, so no I/O space bit.
constexpr uint16_t kCommandWritable = kPciCommandMemory | kPciCommandMaster | 0x40 | 0x100 | 0x400;
constexpr uint16_t kStatusCapabilities = 0x10;
constexpr uint16_t kStatusErrors = 0xf900;  // write 1 to clear (PCI 3.0, 6.2.3)

constexpr uint32_t kBarType64 = 0x4;  // PCI 3.0, 6.2.5.1
constexpr uint32_t kBarPrefetchable = 0x8;

constexpr uint16_t kFieldBytes = 1;

constexpr uint16_t bar_register(unsigned index) {
  return static_cast<uint16_t>(kBar0 + 4 * index);
}
constexpr bool is_64(PciBarKind kind) {
  return kind == PciBarKind::memory64 || kind == PciBarKind::memory64_prefetchable;
}

}  // namespace

PciConfigSpace::PciConfigSpace(const PciIdentity& id) {
  build(kVendor, id.vendor, 2);
  build(kDevice, id.device, 2);
  build(kRevision, id.revision, 1);
  build(kClass, id.class_code, 3);
  build(kSubsystemVendor, id.subsystem_vendor, 2);
  build(kSubsystem, id.subsystem, 2);
  build_mask(kCommand, kCommandWritable, 2);
  build_mask(kCacheLine, 0xff, 1);
  build_mask(kInterruptLine, 0xff, 1);  // scratch for software (PCI 3.0, 6.2.4)
  for (unsigned i = 0; i < 2; ++i)
    bytes_[kStatus + i].write_1_clear = static_cast<uint8_t>(kStatusErrors >> (8 * i));
}

void PciConfigSpace::build(uint16_t offset, uint64_t v, unsigned width) {
  for (unsigned i = 0; i < width; ++i) {
    Byte& byte = bytes_[offset + i];
    byte.value = byte.initial = static_cast<uint8_t>(v >> (8 * i));
  }
}

void PciConfigSpace::build_mask(uint16_t offset, uint64_t writable, unsigned width) {
  for (unsigned i = 0; i < width; ++i)
    bytes_[offset + i].writable = static_cast<uint8_t>(writable >> (8 * i));
}

void PciConfigSpace::define_bar(unsigned index, PciBarKind kind, uint64_t size) {
  MV_CHECK(index < kPciBars && kind != PciBarKind::none && bars_[index].kind == PciBarKind::none);
  MV_CHECK(std::has_single_bit(size) && size >= 16);
  MV_CHECK(index == 0 || !is_64(bars_[index - 1].kind));
  bars_[index] = {kind, size};
  const uint64_t writable = ~(size - 1);
  if (is_64(kind)) {
    MV_CHECK(index + 1 < kPciBars && bars_[index + 1].kind == PciBarKind::none);
    build(bar_register(index), kBarType64 | (kind == PciBarKind::memory64 ? 0 : kBarPrefetchable), 4);
    build_mask(bar_register(index), writable, 8);
  } else {
    MV_CHECK(size <= uint64_t{1} << 31);
    build(bar_register(index), 0, 4);
    build_mask(bar_register(index), writable, 4);
  }
}

uint8_t PciConfigSpace::add_capability(uint8_t id, std::span<const std::byte> body,
                                       std::span<const std::byte> writable) {
  constexpr uint16_t kHeader = 2;  // id, next
  MV_CHECK(writable.empty() || writable.size() == body.size());
  MV_CHECK(next_capability_ + kHeader + body.size() <= kPciConfigSize);
  const auto at = static_cast<uint8_t>(next_capability_);
  build(at, id, 1);
  for (size_t i = 0; i < body.size(); ++i) {
    const auto offset = static_cast<uint16_t>(at + kHeader + i);
    build(offset, std::to_integer<uint8_t>(body[i]), 1);
    if (!writable.empty()) build_mask(offset, std::to_integer<uint8_t>(writable[i]), 1);
  }
  if (last_capability_ == 0) {
    build(kCapabilities, at, 1);
    build(kStatus, kStatusCapabilities, 2);
  } else {
    build(static_cast<uint16_t>(last_capability_ + 1), at, 1);
  }
  last_capability_ = at;
  // Dword-aligned (PCI 3.0, 6.7).
  next_capability_ = static_cast<uint16_t>((at + kHeader + body.size() + 3) & ~size_t{3});
  return at;
}

void PciConfigSpace::on_write(uint16_t offset, uint16_t size, std::function<void()> hook) {
  hooks_.push_back({offset, size, std::move(hook)});
}

void PciConfigSpace::read(uint16_t offset, std::span<std::byte> data) const {
  for (size_t i = 0; i < data.size(); ++i) {
    const size_t at = offset + i;
    data[i] = at < kPciConfigSize ? std::byte{bytes_[at].value} : std::byte{0};
  }
}

void PciConfigSpace::write(uint16_t offset, std::span<const std::byte> data) {
  for (size_t i = 0; i < data.size() && offset + i < kPciConfigSize; ++i) {
    Byte& byte = bytes_[offset + i];
    const auto v = std::to_integer<uint8_t>(data[i]);
    byte.value = static_cast<uint8_t>((byte.value & ~byte.writable) | (v & byte.writable));
    byte.value = static_cast<uint8_t>(byte.value & ~(v & byte.write_1_clear));
  }
  for (const Hook& hook : hooks_) {
    if (offset < hook.offset + hook.size && hook.offset < offset + data.size()) hook.run();
  }
}

uint16_t PciConfigSpace::get16(uint16_t offset) const {
  MV_CHECK(offset + sizeof(uint16_t) <= kPciConfigSize);
  return static_cast<uint16_t>(bytes_[offset].value | bytes_[offset + 1].value << 8);
}

uint32_t PciConfigSpace::get32(uint16_t offset) const {
  return get16(offset) | static_cast<uint32_t>(get16(static_cast<uint16_t>(offset + 2))) << 16;
}

void PciConfigSpace::set16(uint16_t offset, uint16_t v) {
  MV_CHECK(offset + sizeof v <= kPciConfigSize);
  for (unsigned i = 0; i < sizeof v; ++i) bytes_[offset + i].value = static_cast<uint8_t>(v >> (8 * i));
}

void PciConfigSpace::set32(uint16_t offset, uint32_t v) {
  set16(offset, static_cast<uint16_t>(v));
  set16(static_cast<uint16_t>(offset + 2), static_cast<uint16_t>(v >> 16));
}

uint64_t PciConfigSpace::bar_address(unsigned index) const {
  const Bar& bar = bars_[index];
  if (bar.kind == PciBarKind::none) return 0;
  uint64_t address = get32(bar_register(index));
  if (is_64(bar.kind)) address |= static_cast<uint64_t>(get32(bar_register(index + 1))) << 32;
  return address & ~(bar.size - 1);
}

void PciConfigSpace::set_bar_address(unsigned index, uint64_t address) {
  const Bar& bar = bars_[index];
  MV_CHECK(bar.kind != PciBarKind::none && (address & (bar.size - 1)) == 0);
  constexpr uint32_t kFlags = 0xf;
  const uint32_t flags = get32(bar_register(index)) & kFlags;
  set32(bar_register(index), static_cast<uint32_t>(address) | flags);
  if (is_64(bar.kind)) set32(bar_register(index + 1), static_cast<uint32_t>(address >> 32));
}

void PciConfigSpace::reset() {
  for (Byte& byte : bytes_) byte.value = byte.initial;
  for (const Hook& hook : hooks_) hook.run();
}

void PciConfigSpace::save(StateWriter& w) const {
  std::array<std::byte, kPciConfigSize> raw;
  read(0, raw);
  w.bytes(kFieldBytes, raw);
}

Result<PciConfigSpace::Saved> PciConfigSpace::parse(const StateReader& r) const {
  auto raw = r.bytes(kFieldBytes, kPciConfigSize);
  if (!raw) return std::unexpected(raw.error());
  if (raw->size() != kPciConfigSize)
    return fail(Errc::corrupt, "a saved PCI configuration has the wrong size");
  for (const uint16_t offset : {kVendor, uint16_t{kVendor + 1}, kDevice, uint16_t{kDevice + 1}}) {
    if (std::to_integer<uint8_t>((*raw)[offset]) != bytes_[offset].initial)
      return fail(Errc::invalid, "a saved PCI function is of another make");
  }
  return Saved(raw->begin(), raw->end());
}

void PciConfigSpace::commit(const Saved& saved) {
  MV_CHECK(saved.size() == kPciConfigSize);
  // Only what a guest can change is taken over: the rest is what this process built.
  for (size_t i = 0; i < kPciConfigSize; ++i) {
    Byte& byte = bytes_[i];
    const auto changeable = static_cast<uint8_t>(byte.writable | byte.write_1_clear);
    byte.value =
        static_cast<uint8_t>((byte.value & ~changeable) | (std::to_integer<uint8_t>(saved[i]) & changeable));
  }
  for (const Hook& hook : hooks_) hook.run();
}

}  // namespace minivmm
