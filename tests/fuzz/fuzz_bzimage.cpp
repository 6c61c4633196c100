// bzImages: a file taken for one as it is; and, for what lies behind the compression, a vmlinux with hostile
// program headers and relocations, packed into a bzImage that is otherwise good. Both are loaded into a small
// guest.
#include <elf.h>
#include <fuzzer/FuzzedDataProvider.h>
#include <lz4.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "boot/boot_params.h"
#include "boot/kernel_image.h"

namespace {

using namespace minivmm;  // NOLINT(google-build-using-namespace)
using Bytes = std::vector<std::byte>;

constexpr uint64_t kPreferred = 0x1000000;
constexpr uint64_t kLinked = 0xffffffff80000000 + kPreferred;

void load(std::span<const std::byte> file, const char* cmdline, bool unpack, bool memory_is_zero) {
  static auto memory = GuestMemory::anonymous({{Gpa{0}, 64 << 20}});
  BootConfig config;
  config.cmdline = cmdline;
  config.unpack = unpack;
  config.memory_is_zero = memory_is_zero;
  try {
    KernelImage(file, "fuzz").load(memory, config);
  } catch (const HostError&) {  // no kernel, damaged, does not fit
  }
}

template <class T>
void append(Bytes& to, const T& what) {
  const auto bytes = std::as_bytes(std::span(&what, 1));
  to.insert(to.end(), bytes.begin(), bytes.end());
}

// Mostly close to where the segments are, sometimes anything.
uint64_t number(FuzzedDataProvider& in, uint64_t near) {
  return in.ConsumeBool() ? near + 0x100 * in.ConsumeIntegral<uint8_t>() : in.ConsumeIntegral<uint64_t>();
}

Bytes vmlinux(FuzzedDataProvider& in) {
  const auto segments = in.ConsumeIntegralInRange<uint16_t>(1, 5);
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_type = ET_EXEC;
  header.e_machine = EM_X86_64;
  header.e_entry = kPreferred;
  header.e_phoff = sizeof header;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = segments;
  Bytes file;
  append(file, header);
  append(file, Elf64_Phdr{PT_LOAD, PF_R, 0x1000, kLinked, kPreferred, 0x1000, 0x1000, 0x1000});
  for (unsigned i = 1; i < segments; ++i) {
    const uint64_t near = 0x1000 * uint64_t{i};
    append(file, Elf64_Phdr{PT_LOAD, PF_R, number(in, 0x1000 + near), kLinked + near,
                            number(in, kPreferred + near), number(in, 0x100), number(in, 0x100), 0x1000});
  }
  file.resize(0x7000, std::byte{0x55});
  while (in.remaining_bytes() > 1) {
    const bool near = in.ConsumeBool();
    const auto word = in.ConsumeIntegral<uint32_t>();
    append(file, near ? static_cast<uint32_t>(kLinked) + word % 0x8000 : word);
  }
  return file;
}

Bytes bzimage(const Bytes& kernel) {
  Bytes payload(8 + static_cast<size_t>(LZ4_compressBound(static_cast<int>(kernel.size()))));
  const int packed = LZ4_compress_default(
      reinterpret_cast<const char*>(kernel.data()), reinterpret_cast<char*>(payload.data()) + 8,
      static_cast<int>(kernel.size()), static_cast<int>(payload.size() - 8));
  const uint32_t magic = 0x184c2102;
  std::memcpy(payload.data(), &magic, 4);
  std::memcpy(payload.data() + 4, &packed, 4);
  payload.resize(8 + static_cast<size_t>(packed));
  append(payload, static_cast<uint32_t>(kernel.size()));

  SetupHeader h{};
  h.setup_sects = 1;
  h.syssize = static_cast<uint32_t>((0x300 + payload.size() + 15) / 16);
  h.boot_flag = kBootFlag;
  h.jump_distance = 0x6a;
  h.header = kHeaderMagic;
  h.version = 0x020f;
  h.loadflags = kLoadedHigh;
  h.initrd_addr_max = 0x7fffffff;
  h.kernel_alignment = 0x1000;
  h.relocatable_kernel = 1;
  h.xloadflags = kXlfKernel64;
  h.cmdline_size = 2047;
  h.payload_offset = 0x300;
  h.payload_length = static_cast<uint32_t>(payload.size());
  h.pref_address = kPreferred;
  h.init_size = 0x40000;
  Bytes file(kSetupHeaderOffset);
  append(file, h);
  file.resize(1024 + 0x300);
  file.insert(file.end(), payload.begin(), payload.end());
  file.resize((file.size() + 15) / 16 * 16);
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size != 0 && data[0] == 'V') {
    FuzzedDataProvider in(data + 1, size - 1);
    const Bytes file = bzimage(vmlinux(in));
    load(file, "", true, true);
    load(file, "nokaslr", true, false);
    return 0;
  }
  const auto file = std::as_bytes(std::span(data, size));
  load(file, "", true, true);
  load(file, "nokaslr", true, true);
  load(file, "", false, true);
  return 0;
}
