// Numbers of "Virtual I/O Device (VIRTIO) Version 1.2" (OASIS, cited as "virtio 1.2"), each with its section.
// What belongs to one device type only stands in that device's file pair.
#pragma once

#include <cstdint>

namespace minivmm::virtio {

// 2.1 device status field
namespace status {
inline constexpr uint8_t kAcknowledge = 1;
inline constexpr uint8_t kDriver = 2;
inline constexpr uint8_t kDriverOk = 4;
inline constexpr uint8_t kFeaturesOk = 8;
inline constexpr uint8_t kNeedsReset = 64;
inline constexpr uint8_t kFailed = 128;
}  // namespace status

constexpr uint64_t feature_bit(unsigned number) {
  return uint64_t{1} << number;
}
// 6 reserved feature bits
inline constexpr uint64_t kFeatureIndirectDesc = feature_bit(28);
inline constexpr uint64_t kFeatureEventIdx = feature_bit(29);
inline constexpr uint64_t kFeatureVersion1 = feature_bit(32);
inline constexpr uint64_t kFeatureRingReset = feature_bit(40);

inline constexpr uint16_t kMaxQueueSize = 32768;               // 2.7
inline constexpr uint64_t kMaxChainBytes = uint64_t{1} << 32;  // 2.7.5: "longer than 2^32 bytes in total"

// 2.7.5 the descriptor table
struct Descriptor {
  uint64_t addr;
  uint32_t len;
  uint16_t flags;
  uint16_t next;
};
static_assert(sizeof(Descriptor) == 16);
inline constexpr uint16_t kDescNext = 1;
inline constexpr uint16_t kDescWrite = 2;
inline constexpr uint16_t kDescIndirect = 4;

// 2.7.6 the available ring: flags, idx, ring[size], used_event
inline constexpr uint64_t kAvailFlags = 0;
inline constexpr uint64_t kAvailIdx = 2;
inline constexpr uint64_t kAvailRing = 4;
inline constexpr uint16_t kAvailNoInterrupt = 1;
// 2.7.8 the used ring: flags, idx, {id, len}[size], avail_event
struct UsedElement {
  uint32_t id;
  uint32_t len;
};
inline constexpr uint64_t kUsedFlags = 0;
inline constexpr uint64_t kUsedIdx = 2;
inline constexpr uint64_t kUsedRing = 4;
inline constexpr uint16_t kUsedNoNotify = 1;

// 2.7: sizes and alignments of the three parts
inline constexpr uint64_t kDescAlign = 16;
inline constexpr uint64_t kAvailAlign = 2;
inline constexpr uint64_t kUsedAlign = 4;
constexpr uint64_t desc_bytes(uint16_t size) {
  return uint64_t{16} * size;
}
constexpr uint64_t avail_bytes(uint16_t size) {
  return 6 + uint64_t{2} * size;
}
constexpr uint64_t used_bytes(uint16_t size) {
  return 6 + uint64_t{8} * size;
}

// 4.1.4.5 ISR status (PCI) and 4.2.2 InterruptStatus (MMIO)
inline constexpr uint8_t kIsrQueue = 1;
inline constexpr uint8_t kIsrConfig = 2;

// 5 device types
inline constexpr uint16_t kDeviceNet = 1;
inline constexpr uint16_t kDeviceBlock = 2;
inline constexpr uint16_t kDeviceConsole = 3;
inline constexpr uint16_t kDeviceEntropy = 4;
inline constexpr uint16_t kDeviceBalloon = 5;
inline constexpr uint16_t kDeviceSocket = 19;
inline constexpr uint16_t kDeviceFs = 26;

// 4.1 virtio over PCI
namespace pci {
inline constexpr uint16_t kVendor = 0x1af4;      // 4.1.2
inline constexpr uint16_t kDeviceBase = 0x1040;  // 4.1.2: plus the device type
inline constexpr uint16_t kNoVector = 0xffff;    // 4.1.4.3
inline constexpr uint8_t kCapCommon = 1;         // 4.1.4
inline constexpr uint8_t kCapNotify = 2;
inline constexpr uint8_t kCapIsr = 3;
inline constexpr uint8_t kCapDevice = 4;
inline constexpr uint8_t kCapPciCfg = 5;
// 4.1.4.3 the common configuration structure
enum Common : uint64_t {
  kDeviceFeatureSelect = 0x00,
  kDeviceFeature = 0x04,
  kDriverFeatureSelect = 0x08,
  kDriverFeature = 0x0c,
  kConfigMsixVector = 0x10,
  kNumQueues = 0x12,
  kDeviceStatus = 0x14,
  kConfigGeneration = 0x15,
  kQueueSelect = 0x16,
  kQueueSize = 0x18,
  kQueueMsixVector = 0x1a,
  kQueueEnable = 0x1c,
  kQueueNotifyOff = 0x1e,
  kQueueDesc = 0x20,
  kQueueDriver = 0x28,
  kQueueDevice = 0x30,
  kQueueNotifyData = 0x38,
  kQueueReset = 0x3a,
  kCommonSize = 0x3c,
};
}  // namespace pci

// 4.2.2 virtio over MMIO
namespace mmio {
inline constexpr uint32_t kMagic = 0x74726976;  // "virt"
inline constexpr uint32_t kVersion = 2;
enum Register : uint64_t {
  kMagicValue = 0x000,
  kVersionNumber = 0x004,
  kDeviceId = 0x008,
  kVendorId = 0x00c,
  kDeviceFeatures = 0x010,
  kDeviceFeaturesSel = 0x014,
  kDriverFeatures = 0x020,
  kDriverFeaturesSel = 0x024,
  kQueueSel = 0x030,
  kQueueNumMax = 0x034,
  kQueueNum = 0x038,
  kQueueReady = 0x044,
  kQueueNotify = 0x050,
  kInterruptStatus = 0x060,
  kInterruptAck = 0x064,
  kStatus = 0x070,
  kQueueDescLow = 0x080,
  kQueueDescHigh = 0x084,
  kQueueDriverLow = 0x090,
  kQueueDriverHigh = 0x094,
  kQueueDeviceLow = 0x0a0,
  kQueueDeviceHigh = 0x0a4,
  kShmSel = 0x0ac,
  kShmLenLow = 0x0b0,
  kShmLenHigh = 0x0b4,
  kShmBaseLow = 0x0b8,
  kShmBaseHigh = 0x0bc,
  kQueueReset = 0x0c0,
  kConfigGeneration = 0x0fc,
  kConfig = 0x100,
};
}  // namespace mmio

}  // namespace minivmm::virtio
