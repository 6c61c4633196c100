#include "tests/unit/boot/flatcar_disk.h"

#include "tests/unit/boot/disk/fat_builder.h"
#include "tests/unit/boot/disk/gpt_builder.h"

namespace minivmm::testing {

namespace {

uint64_t attributes(const SlotSpec& slot) {
  return uint64_t{slot.priority} << 48 | uint64_t{slot.tries} << 52 | uint64_t{slot.successful} << 56;
}

}  // namespace

std::string flatcar_kernel(char digit) {
  std::string kernel(5000, static_cast<char>(0x90));
  kernel.replace(0x40, 64, std::string(64, digit));
  return kernel;
}

Bytes make_flatcar_disk(const FlatcarSpec& spec) {
  FatBuilder efi({.clusters = spec.efi_clusters});
  const std::string a = spec.kernel_a.value_or(flatcar_kernel('a'));
  const std::string b = spec.kernel_b.value_or("");
  if (!a.empty()) efi.add("flatcar/vmlinuz-a", a);
  if (!b.empty()) efi.add("flatcar/vmlinuz-b", b);
  if (spec.first_boot) efi.add("flatcar/first_boot", "Ignition deletes this\n");
  FatBuilder oem;
  if (spec.oem) oem.add("grub.cfg", *spec.oem);
  constexpr Guid kEfi = Guid::of("c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
  constexpr Guid kUsr = Guid::of("5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6");
  constexpr Guid kData = Guid::of("0fc63daf-8483-4772-8e79-3d69d8477de4");
  constexpr Guid kResize = Guid::of("3884dd41-8582-4404-b9a8-e9b84f2df50e");
  return make_gpt_disk(
      {.partitions =
           {{.number = 1, .type = kEfi, .name = "EFI-SYSTEM", .contents = efi.image},
            {.number = 3,
             .type = kUsr,
             .id = kFlatcarUsrA,
             .name = "USR-A",
             .attributes = attributes(spec.a)},
            {.number = 4,
             .type = kUsr,
             .id = kFlatcarUsrB,
             .name = "USR-B",
             .attributes = attributes(spec.b)},
            {.number = 6, .type = kData, .name = "OEM", .contents = spec.oem_partition.value_or(oem.image)},
            {.number = 9, .type = kResize, .name = "ROOT", .sectors = 8}},
       .disk = spec.disk});
}

}  // namespace minivmm::testing
