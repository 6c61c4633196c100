#include "boot/flatcar.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string_view>
#include <utility>

#include "boot/disk/fat.h"
#include "boot/disk/open_any.h"
#include "boot/grub_settings.h"

namespace minivmm {

namespace {

constexpr Guid kEfiSystem = Guid::of("c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
constexpr Guid kFlatcarUsr = Guid::of("5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6");
constexpr Guid kUsrA = Guid::of("7130c94a-213a-4e5a-8e26-6cce9662f132");
constexpr Guid kFreshDisk = Guid::of("00000000-0000-0000-0000-000000000001");  // not yet given its own

constexpr uint64_t kMaxKernel = uint64_t{512}
                                << 20;  // bytes; real ones, with their initrd, have about 60 MiB
constexpr uint64_t kMaxOemFile = uint64_t{64} * 1024;
constexpr size_t kHashOffset = 0x40;
constexpr size_t kHashLength = 64;

// gptprio.c: bits of a /usr partition's attributes.
unsigned priority_of(const GptPartition& p) {
  return static_cast<unsigned>(p.attributes >> 48) & 15;
}
unsigned tries_of(const GptPartition& p) {
  return static_cast<unsigned>(p.attributes >> 52) & 15;
}
bool was_successful(const GptPartition& p) {
  return (p.attributes >> 56 & 1) != 0;
}

ByteRange range_of(const ByteSource& disk, const GptPartition& partition) {
  return {disk, partition.offset, partition.size};
}

// In the order gptprio.next would come to them: by priority, the first of equals, never one of priority 0.
std::vector<GptPartition> candidates(const Gpt& gpt) {
  std::vector<GptPartition> found;
  for (const GptPartition& p : gpt.partitions()) {
    if (p.type == kFlatcarUsr && priority_of(p) != 0 && (tries_of(p) != 0 || was_successful(p)))
      found.push_back(p);
  }
  std::ranges::sort(found, {},
                    [](const GptPartition& p) { return std::pair(15 - priority_of(p), p.number); });
  return found;
}

const GptPartition* find_partition(const Gpt& gpt, auto&& matches) {
  const auto found = std::ranges::find_if(gpt.partitions(), matches);
  return found == gpt.partitions().end() ? nullptr : &*found;
}

char slot_of(const GptPartition& usr) {
  return usr.id == kUsrA ? 'a' : 'b';
}

std::string kernel_path(char slot) {
  return fmt::format("/flatcar/vmlinuz-{}", slot);
}

// What grub.cfg has before and after it has read the OEM partition's.
GrubSettings oem_settings(const ByteSource& disk, const Gpt& gpt, std::vector<std::string>& warnings) {
  GrubSettings settings;
  settings.variables["linux_root"] = "root=LABEL=ROOT";
  settings.variables["grub_platform"] = "pc";
  settings.variables["grub_cpu"] = "x86_64";
  const GptPartition* oem = find_partition(gpt, [](const GptPartition& p) { return p.name == "OEM"; });
  if (oem == nullptr) return settings;
  const ByteRange partition = range_of(disk, *oem);
  const auto files = open_file_system(partition);
  if (!files) {
    warnings.push_back(
        fmt::format("the OEM partition holds {}: no arguments are taken from it", files.error()));
    return settings;
  }
  const auto size = (*files)->file_size("grub.cfg");
  if (!size && size.error().code == Errc::out_of_range) return settings;
  const auto text = size && *size > kMaxOemFile
                        ? Result<std::vector<std::byte>>(fail(Errc::too_large, "it is larger than 64 KiB"))
                        : (*files)->read_file("grub.cfg", kMaxOemFile);
  if (!text) {
    warnings.push_back(fmt::format("cannot read the OEM partition's grub.cfg ({}): no arguments are taken",
                                   text.error().what));
    return settings;
  }
  read_grub_settings({reinterpret_cast<const char*>(text->data()), text->size()}, settings);
  if (settings.skipped) {
    warnings.emplace_back(
        "the OEM partition's grub.cfg sets variables under conditions: minivmm does not evaluate them; add "
        "what is missing with --append");
  }
  return settings;
}

void append(std::string& line, std::string_view words) {
  if (words.empty()) return;
  if (!line.empty()) line += ' ';
  line += words;
}

// A variable's words with one blank between them, as GRUB passes them on; no control characters.
std::string words_of(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool blank = static_cast<unsigned char>(c) <= ' ' || c == 127;
    if (!blank) {
      out += c;
    } else if (!out.empty() && out.back() != ' ') {
      out += ' ';
    }
  }
  if (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

// The words in grub.cfg's order; behind them the hash, where Flatcar's GRUB puts it.
std::string command_line(const FlatcarBoot& boot, const GptPartition& usr, bool fresh_disk,
                         const GrubSettings& oem, const std::optional<std::string>& usrhash) {
  std::string line;
  if (!boot.kernel.empty()) append(line, "BOOT_IMAGE=" + boot.kernel);
  // Builds without verification have no hash, and their GRUB mounts the partition itself (grub_install.sh).
  append(line, (usrhash ? "mount.usr=/dev/mapper/usr verity.usr=PARTUUID=" : "mount.usr=PARTUUID=") +
                   usr.id.text());
  append(line, "rootflags=rw mount.usrflags=ro consoleblank=0");
  append(line, words_of(oem.get("linux_root")));
  // GRUB's own default names tty0 too, last and so first in rank: there is no screen here.
  const std::string console = words_of(oem.get("linux_console"));
  append(line, console.empty() ? "console=ttyS0,115200n8" : console);
  if (boot.first_boot) append(line, "flatcar.first_boot=detected");
  if (fresh_disk) append(line, "flatcar.randomize_disk_guid=" + kFreshDisk.text());
  // Images for no platform in particular have none; this is one whose Ignition file comes by fw_cfg.
  const std::string oem_id = words_of(oem.get("oem_id"));
  append(line, "flatcar.oem.id=" + (oem_id.empty() ? "qemu" : oem_id));
  append(line, words_of(oem.get("linux_append")));
  if (usrhash) append(line, "verity.usrhash=" + *usrhash);
  return line;
}

struct Chosen {
  GptPartition usr;
  std::string kernel;  // empty: the given one
  std::vector<std::byte> head;
};

std::expected<Chosen, std::string> choose(const FatReader* efi, const std::vector<GptPartition>& slots,
                                          std::optional<std::span<const std::byte>> given,
                                          std::vector<std::string>& warnings) {
  if (slots.empty()) return std::unexpected("no /usr partition with tries left or a successful boot");
  if (given) return Chosen{slots.front(), "", {given->begin(), given->end()}};
  std::string reason;
  for (const GptPartition& usr : slots) {
    const std::string path = kernel_path(slot_of(usr));
    auto head = efi->read_file(path, kFlatcarKernelHead);
    if (head) {
      // GRUB would come to this one too, after some failures that take the other's tries.
      if (!reason.empty())
        warnings.push_back(fmt::format("{}: falling back to USR-{:c}", reason, slot_of(usr) - 'a' + 'A'));
      return Chosen{usr, path, std::move(*head)};
    }
    if (!reason.empty()) continue;
    reason = head.error().code == Errc::out_of_range
                 ? fmt::format("no {} on the EFI partition", path)
                 : fmt::format("{} cannot be read: {}", path, head.error().what);
  }
  return std::unexpected(reason);
}

}  // namespace

std::optional<std::string> flatcar_usrhash(std::span<const std::byte> kernel) {
  if (kernel.size() < kHashOffset + kHashLength) return std::nullopt;
  std::string hash(reinterpret_cast<const char*>(kernel.data()) + kHashOffset, kHashLength);
  const auto is_digit = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  if (!std::ranges::all_of(hash, is_digit)) return std::nullopt;
  return hash;
}

std::expected<FlatcarBoot, FlatcarRefusal> inspect_flatcar(
    const ByteSource& disk, std::optional<std::span<const std::byte>> given_kernel) {
  const auto gpt = Gpt::read(disk);
  if (!gpt) return std::unexpected(FlatcarRefusal{false, gpt.error().what});
  const bool is_flatcar =
      find_partition(*gpt, [](const GptPartition& p) { return p.type == kFlatcarUsr; }) != nullptr;
  const auto refuse = [&](std::string reason) {
    return std::unexpected(FlatcarRefusal{is_flatcar, std::move(reason)});
  };
  const GptPartition* efi = find_partition(*gpt, [](const GptPartition& p) { return p.type == kEfiSystem; });
  if (efi == nullptr) return refuse("no EFI partition");
  if (!is_flatcar) return refuse("no /usr partition of Flatcar's type");
  const ByteRange efi_range = range_of(disk, *efi);
  const auto files = FatReader::open(efi_range);
  if (!files) return refuse(fmt::format("the EFI partition cannot be read: {}", files.error().what));

  FlatcarBoot boot;
  auto chosen = choose(files->get(), candidates(*gpt), given_kernel, boot.warnings);
  if (!chosen) return refuse(chosen.error());
  boot.kernel = chosen->kernel;
  boot.slot = slot_of(chosen->usr);
  boot.usr_partition = chosen->usr.number;
  boot.tries = tries_of(chosen->usr);
  // The second was CoreOS's, from which a disk may have been updated.
  boot.first_boot = (*files)->file_size("flatcar/first_boot") || (*files)->file_size("coreos/first_boot");
  const auto usrhash = flatcar_usrhash(chosen->head);
  if (!usrhash) {
    boot.warnings.emplace_back(
        "the kernel carries no hash of /usr (64 hexadecimal digits at 0x40): /usr is mounted unverified");
  }
  boot.cmdline = command_line(boot, chosen->usr, gpt->disk() == kFreshDisk,
                              oem_settings(disk, *gpt, boot.warnings), usrhash);
  return boot;
}

Result<std::vector<std::byte>> read_flatcar_kernel(const ByteSource& disk, const FlatcarBoot& boot) {
  const auto gpt = Gpt::read(disk);
  if (!gpt) return std::unexpected(gpt.error());
  const GptPartition* efi = find_partition(*gpt, [](const GptPartition& p) { return p.type == kEfiSystem; });
  if (efi == nullptr) return fail(Errc::out_of_range, "no EFI partition");
  const ByteRange efi_range = range_of(disk, *efi);
  const auto files = FatReader::open(efi_range);
  if (!files) return std::unexpected(files.error());
  const auto size = (*files)->file_size(boot.kernel);
  if (!size) return std::unexpected(size.error());
  if (*size > kMaxKernel) return fail(Errc::too_large, "a kernel larger than 512 MiB");
  return (*files)->read_file(boot.kernel, kMaxKernel);
}

Result<void> take_flatcar_try(const ByteSource& disk, ByteSink& to, const FlatcarBoot& boot) {
  if (boot.tries == 0) return {};
  auto gpt = Gpt::read(disk);
  if (!gpt) return std::unexpected(gpt.error());
  const GptPartition* usr =
      find_partition(*gpt, [&boot](const GptPartition& p) { return p.number == boot.usr_partition; });
  if (usr == nullptr || usr->type != kFlatcarUsr) return fail(Errc::invalid, "the /usr partition has gone");
  const uint64_t left = tries_of(*usr) == 0 ? 0 : tries_of(*usr) - 1;
  return gpt->write_attributes(to, usr->number, (usr->attributes & ~(uint64_t{15} << 52)) | left << 52);
}

}  // namespace minivmm
