#include "devices/fw_cfg.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>
#include <utility>

#include "vmm/core/state.h"

namespace minivmm {

namespace {

constexpr uint16_t kArchitectureBit = 0x8000;  // items of one architecture only: we have none
constexpr uint16_t kKeyMask = 0x3fff;          // bit 14, "write mode", has meant nothing since QEMU 2.4

constexpr std::array<std::byte, 4> kSignature{std::byte{'Q'}, std::byte{'E'}, std::byte{'M'}, std::byte{'U'}};
constexpr std::array<std::byte, 4> kFeatures{std::byte{0x3}};  // the traditional interface, and DMA
constexpr std::string_view kDmaSignature = "QEMU CFG";

constexpr uint64_t kDmaLowHalf = kFwCfgDma + 4;
constexpr size_t kDescriptorSize = 16;
constexpr size_t kNameField = kFwCfgLongestName + 1;
static_assert(kFwCfgFirstFileKey + kFwCfgMostFiles <= kKeyMask + 1);
static_assert(kFwCfgLargestFile <= UINT32_MAX);

constexpr uint16_t kFieldSelector = 1;
constexpr uint16_t kFieldOffset = 2;
constexpr uint16_t kFieldDmaAddress = 3;

uint64_t load_be(std::span<const std::byte> data) {
  uint64_t v = 0;
  for (const std::byte b : data) v = v << 8 | std::to_integer<uint64_t>(b);
  return v;
}

void append_be(std::vector<std::byte>& to, uint64_t v, unsigned bytes) {
  while (bytes-- != 0) to.push_back(static_cast<std::byte>(v >> (8 * bytes)));
}

std::vector<std::byte> directory_of(std::span<const FwCfgFile> files) {
  std::vector<std::byte> out;
  append_be(out, files.size(), 4);
  uint16_t key = kFwCfgFirstFileKey;
  for (const FwCfgFile& file : files) {
    append_be(out, file.data->size(), 4);
    append_be(out, key++, 2);
    append_be(out, 0, 2);
    const auto name = std::as_bytes(std::span(file.name));
    out.insert(out.end(), name.begin(), name.end());
    out.resize(out.size() + kNameField - name.size());
  }
  return out;
}

}  // namespace

FwCfg::FwCfg(GuestMemory& memory, Log& log, std::vector<FwCfgFile> files)
    : memory_(memory), log_(log), files_(std::move(files)) {
  MV_CHECK(files_.size() <= kFwCfgMostFiles);
  for (const FwCfgFile& file : files_) {
    MV_CHECK(file.name.size() <= kFwCfgLongestName && file.data && file.data->size() <= kFwCfgLargestFile);
  }
  std::ranges::sort(files_, {}, &FwCfgFile::name);
  directory_ = directory_of(files_);
}

void FwCfg::reset() {
  const std::scoped_lock lock(mutex_);
  s_ = State{};
}

FwCfg::Bytes FwCfg::item(uint16_t selector) const {
  if ((selector & kArchitectureBit) != 0) return {};
  const auto key = static_cast<uint16_t>(selector & kKeyMask);
  switch (key) {
    case kFwCfgSignatureKey: return kSignature;
    case kFwCfgFeaturesKey: return kFeatures;
    case kFwCfgDirectoryKey: return directory_;
    default: break;
  }
  if (key < kFwCfgFirstFileKey || key - kFwCfgFirstFileKey >= std::ssize(files_)) return {};
  return *files_[key - kFwCfgFirstFileKey].data;
}

void FwCfg::select(uint16_t selector) {
  s_.selector = selector;
  s_.offset = 0;
}

IoStatus FwCfg::read(uint64_t offset, std::span<std::byte> data) {
  if (offset == kFwCfgData && data.size() == 1) {
    const std::scoped_lock lock(mutex_);
    const Bytes bytes = item(s_.selector);
    data[0] = s_.offset < bytes.size() ? bytes[s_.offset++] : std::byte{0};
    return IoStatus::ok;
  }
  if (offset >= kFwCfgDma && offset < kFwCfgPorts && data.size() <= kFwCfgPorts - offset) {
    std::memcpy(data.data(), kDmaSignature.data() + (offset - kFwCfgDma), data.size());
    return IoStatus::ok;
  }
  std::ranges::fill(data, std::byte{0xff});
  return IoStatus::bad_access;
}

IoStatus FwCfg::write(uint64_t offset, std::span<const std::byte> data) {
  const std::scoped_lock lock(mutex_);
  if (offset == kFwCfgSelector && data.size() == 2) {
    select(static_cast<uint16_t>(load_le(data)));
    return IoStatus::ok;
  }
  if (offset == kFwCfgData && data.size() == 1) return IoStatus::ok;
  if (offset == kFwCfgDma && data.size() == 4) {
    s_.dma_address = load_be(data) << 32;
    return IoStatus::ok;
  }
  if (offset == kDmaLowHalf && data.size() == 4) {
    s_.dma_address |= load_be(data);
    run_dma();
    return IoStatus::ok;
  }
  if (offset == kFwCfgDma && data.size() == 8) {
    s_.dma_address = load_be(data);
    run_dma();
    return IoStatus::ok;
  }
  return IoStatus::bad_access;
}

void FwCfg::run_dma() {
  const Gpa where{std::exchange(s_.dma_address, 0)};
  std::array<std::byte, kDescriptorSize> descriptor{};
  bool done = false;
  if (memory_.read(where, descriptor)) {
    const std::span<const std::byte> fields(descriptor);
    done = transfer(static_cast<uint32_t>(load_be(fields.first(4))),
                    static_cast<uint32_t>(load_be(fields.subspan(4, 4))), Gpa{load_be(fields.subspan(8))});
  } else {
    log_.guest_fault(name(), "a DMA descriptor outside RAM");
  }
  std::array<std::byte, 4> control{};
  if (!done) control[3] = std::byte{kFwCfgDmaError};
  // A descriptor of which not even this lies in RAM cannot be answered.
  [[maybe_unused]] const auto answered = memory_.write(where, control);
}

bool FwCfg::transfer(uint32_t control, uint32_t length, Gpa address) {
  if ((control & kFwCfgDmaSelect) != 0) select(static_cast<uint16_t>(control >> 16));
  const Bytes rest = item(s_.selector).subspan(s_.offset);
  const auto here = std::min(length, static_cast<uint32_t>(rest.size()));
  if ((control & kFwCfgDmaRead) != 0) {
    // Whole or not at all; what is past the item's end reads as zeros.
    if (length > kFwCfgLongestRead || !memory_.contains(address, length) ||
        !memory_.write(address, rest.first(here)) ||
        !memory_.fill(address + here, length - here, std::byte{0})) {
      log_.guest_fault(name(), "a DMA read that is too long or not into RAM");
      return false;
    }
  } else if ((control & kFwCfgDmaWrite) != 0) {
    return false;  // every item is read-only
  } else if ((control & kFwCfgDmaSkip) == 0) {
    return true;  // only a selection
  }
  s_.offset += here;
  return true;
}

void FwCfg::save(StateWriter& w) const {
  const std::scoped_lock lock(mutex_);
  w.field(kFieldSelector, s_.selector);
  w.field(kFieldOffset, s_.offset);
  w.field(kFieldDmaAddress, s_.dma_address);
}

Result<void> FwCfg::load(StateReader& r) {
  auto selector = r.need<uint16_t>(kFieldSelector);
  auto offset = r.need<uint32_t>(kFieldOffset);
  auto dma_address = r.need<uint64_t>(kFieldDmaAddress);
  if (!selector || !offset || !dma_address) return fail(Errc::corrupt, "a saved fw_cfg device is incomplete");
  if (auto done = r.finish(); !done) return done;
  if (*offset > item(*selector).size())
    return fail(Errc::corrupt, "a saved fw_cfg device has read past the end of its file");
  const std::scoped_lock lock(mutex_);
  s_ = {*selector, *offset, *dma_address};
  return {};
}

}  // namespace minivmm
