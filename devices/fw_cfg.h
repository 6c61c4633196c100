// QEMU's fw_cfg device: named files that the guest reads by port I/O or by DMA (QEMU, docs/specs/fw_cfg.rst).
// 12 I/O ports, at 0x510 where guests look for them:
//
//   offset  width  register
//   0       2      selector, write only: the item to read, from its start
//   1       1      data: the item's next byte, 0 past its end; writes are ignored
//   4       4, 8   DMA address, big-endian: the guest-physical address of {be32 control, be32 length, be64
//                  address}. Writing the low half (offset 8, or all 8 bytes at once) runs the transfer to its
//                  end and clears the register. Reads as "QEMU CFG", at any width.
//
// Items: key 0 is "QEMU", key 1 the features, key 0x19 the directory, from 0x20 on the files in their names'
// order. All are read-only. A DMA read of more than kFwCfgLongestRead bytes is an error, where QEMU would
// fill up to 4 GiB with zeros: no item is longer, and a vCPU's thread cannot be paused meanwhile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "vmm/core/device.h"
#include "vmm/core/guest_memory.h"
#include "vmm/core/log.h"

namespace minivmm {

inline constexpr uint64_t kFwCfgPorts = 12;
inline constexpr uint64_t kFwCfgSelector = 0;
inline constexpr uint64_t kFwCfgData = 1;
inline constexpr uint64_t kFwCfgDma = 4;

inline constexpr uint16_t kFwCfgSignatureKey = 0;
inline constexpr uint16_t kFwCfgFeaturesKey = 1;
inline constexpr uint16_t kFwCfgDirectoryKey = 0x19;
inline constexpr uint16_t kFwCfgFirstFileKey = 0x20;

// Bits of a DMA control word; its upper half is the key that kFwCfgDmaSelect selects.
inline constexpr uint32_t kFwCfgDmaError = 1 << 0;
inline constexpr uint32_t kFwCfgDmaRead = 1 << 1;
inline constexpr uint32_t kFwCfgDmaSkip = 1 << 2;
inline constexpr uint32_t kFwCfgDmaSelect = 1 << 3;
inline constexpr uint32_t kFwCfgDmaWrite = 1 << 4;

inline constexpr size_t kFwCfgLongestName = 55;  // a directory entry holds 56 bytes, the last of them 0
inline constexpr size_t kFwCfgMostFiles = 1024;
inline constexpr uint64_t kFwCfgLargestFile = uint64_t{64} << 20;  // bytes
inline constexpr uint64_t kFwCfgLongestRead = kFwCfgLargestFile;

struct FwCfgFile {
  std::string name;                                    // "opt/org.example/settings"
  std::shared_ptr<const std::vector<std::byte>> data;  // shared, for one file may have two names
};

class FwCfg final : public IoDevice, public StateUnit {
 public:
  // `memory` and `log` outlive it. The files are within the limits above, and no name comes twice.
  FwCfg(GuestMemory& memory, Log& log, std::vector<FwCfgFile> files);

  void reset();

  std::string_view name() const override { return "fw-cfg"; }
  IoStatus read(uint64_t offset, std::span<std::byte> data) override;
  IoStatus write(uint64_t offset, std::span<const std::byte> data) override;

  // Position and registers. The files are the configuration's: load() wants one with the same.
  std::string_view state_name() const override { return "fw-cfg"; }
  void save(StateWriter&) const override;
  Result<void> load(StateReader&) override;

 private:
  using Bytes = std::span<const std::byte>;

  struct State {
    uint16_t selector = kFwCfgSignatureKey;
    uint32_t offset = 0;  // in the selected item, not past its end
    uint64_t dma_address = 0;
  };

  Bytes item(uint16_t selector) const;  // empty where there is none
  void select(uint16_t selector);
  void run_dma();
  bool transfer(uint32_t control, uint32_t length, Gpa address);  // false: the error bit

  GuestMemory& memory_;
  Log& log_;
  std::vector<FwCfgFile> files_;
  std::vector<std::byte> directory_;
  mutable std::mutex mutex_;
  State s_;
};

}  // namespace minivmm
