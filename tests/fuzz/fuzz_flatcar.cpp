// What is read of a disk before its guest runs: GPT, FAT, ext, btrfs, grub.cfg. The first byte says which of
// them the rest is; 'D' is a whole disk, and 'P' a disk of good checksums whose partitions the rest fills.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "boot/disk/btrfs.h"
#include "boot/disk/ext.h"
#include "boot/disk/fat.h"
#include "boot/disk/gpt.h"
#include "boot/disk/gpt_format.h"
#include "boot/flatcar.h"
#include "boot/grub_settings.h"
#include "boot/root_device.h"
#include "vmm/core/error.h"

namespace {

using namespace minivmm;  // NOLINT(google-build-using-namespace)

class Memory final : public ByteSource, public ByteSink {
 public:
  explicit Memory(std::vector<std::byte> bytes) : bytes_(std::move(bytes)) {}
  uint64_t size() const override { return bytes_.size(); }
  Result<void> read(uint64_t offset, std::span<std::byte> out) const override {
    if (offset > size() || out.size() > size() - offset) return fail(Errc::out_of_range, "past the end");
    if (!out.empty()) std::memcpy(out.data(), bytes_.data() + offset, out.size());
    return {};
  }
  Result<void> write(uint64_t offset, std::span<const std::byte> from) override {
    MV_CHECK(offset <= size() && from.size() <= size() - offset && !from.empty());
    std::memcpy(bytes_.data() + offset, from.data(), from.size());
    return {};
  }
  Result<void> flush() override { return {}; }

 private:
  std::vector<std::byte> bytes_;
};

template <class Reader>
void read_files(const ByteSource& partition) {
  const auto reader = Reader::open(partition);
  if (!reader) return;
  for (const char* path : {"grub.cfg", "flatcar/vmlinuz-a", "a/b/c"}) {
    const auto size = (*reader)->file_size(path);
    const auto bytes = (*reader)->read_file(path, 1 << 20);
    MV_CHECK(!bytes || (size && bytes->size() <= *size));
  }
}

void look_into(std::vector<std::byte> bytes) {
  Memory disk(std::move(bytes));
  find_root_device(disk, "/dev/vda");
  const auto boot = inspect_flatcar(disk, std::nullopt);
  if (!boot) return;
  static_cast<void>(read_flatcar_kernel(disk, *boot));
  // What was written is read again: the try is gone, and nothing else of the choice has changed but for it.
  if (boot->tries == 0 || !take_flatcar_try(disk, disk, *boot)) return;
  const auto next = inspect_flatcar(disk, std::nullopt);
  MV_CHECK(!next || next->slot != boot->slot || next->usr_partition != boot->usr_partition ||
           next->tries < boot->tries);
}

// A table of three entries that the data gives, over the data.
std::vector<std::byte> with_table(std::span<const std::byte> data) {
  constexpr size_t kFirst = 40;  // sector of the data
  constexpr uint32_t kEntries = 4;
  const size_t sectors = kFirst + (data.size() + 511) / 512 + 3;
  std::vector<std::byte> disk(sectors * 512);
  if (!data.empty()) std::memcpy(disk.data() + kFirst * 512, data.data(), data.size());
  disk[510] = std::byte{0x55};
  disk[511] = std::byte{0xaa};
  disk[kMbrEntries + 4] = std::byte{kMbrProtective};
  constexpr Guid kTypes[] = {
      Guid::of("c12a7328-f81f-11d2-ba4b-00a0c93ec93b"), Guid::of("5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6"),
      Guid::of("5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6"), Guid::of("0fc63daf-8483-4772-8e79-3d69d8477de4")};
  const auto byte = [&data](size_t i) { return i < data.size() ? static_cast<uint64_t>(data[i]) : 0; };
  for (uint32_t i = 0; i < kEntries; ++i) {
    GptEntry entry{.type = kTypes[i],
                   .id = Guid::of("7130c94a-213a-4e5a-8e26-6cce9662f132"),
                   .first = kFirst + (i == 3 ? byte(3) : 0),
                   .last = sectors - 4,
                   .attributes = byte(i) << 48 | uint64_t{1} << 48 | uint64_t{i == 1} << 56,
                   .name = {}};
    if (i == 3) entry.name = {'O', 'E', 'M'};
    std::memcpy(disk.data() + 1024 + i * sizeof entry, &entry, sizeof entry);
  }
  GptHeader header{.signature = {'E', 'F', 'I', ' ', 'P', 'A', 'R', 'T'},
                   .revision = 0x10000,
                   .header_size = sizeof(GptHeader),
                   .header_crc = 0,
                   .reserved = 0,
                   .my_lba = 1,
                   .alternate_lba = sectors - 1,
                   .first_usable = kFirst,
                   .last_usable = sectors - 4,
                   .disk = {},
                   .entries_lba = 2,
                   .entry_count = kEntries,
                   .entry_size = sizeof(GptEntry),
                   .entries_crc = gpt_crc(std::span(disk).subspan(1024, kEntries * sizeof(GptEntry)))};
  header.header_crc = gpt_crc(std::as_bytes(std::span(&header, 1)));
  std::memcpy(disk.data() + 512, &header, sizeof header);
  return disk;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const auto rest = std::as_bytes(std::span(data + 1, size - 1));
  const std::vector<std::byte> bytes(rest.begin(), rest.end());
  switch (data[0]) {
    case 'F': read_files<FatReader>(Memory(bytes)); break;
    case 'E': read_files<ExtReader>(Memory(bytes)); break;
    case 'B': read_files<BtrfsReader>(Memory(bytes)); break;
    case 'G': {
      GrubSettings settings;
      read_grub_settings({reinterpret_cast<const char*>(rest.data()), rest.size()}, settings);
      break;
    }
    case 'D': look_into(bytes); break;
    default: look_into(with_table(rest)); break;
  }
  return 0;
}
