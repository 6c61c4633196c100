// Random port accesses and DMA descriptors, as a hostile guest makes them: what a transfer does to RAM is
// what the specification says of it, to the byte, and nothing else of RAM changes.
#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "devices/fw_cfg.h"
#include "vmm/core/state.h"

namespace minivmm {
namespace {

constexpr uint64_t kRam = 0x2000;  // and, past a hole, as much again
constexpr uint64_t kHighRam = 0x4000;
constexpr uint64_t kEnd = kHighRam + kRam;
using Ram = std::vector<std::byte>;  // by guest address, the hole included and always zero

constexpr bool in_ram(uint64_t address, uint64_t len) {
  const uint64_t base = address >= kHighRam ? kHighRam : 0;
  return len == 0 || (address < kEnd && address - base < kRam && len <= kRam - (address - base));
}

FwCfgFile file(std::string name, size_t size) {
  std::vector<std::byte> data(size);
  for (size_t i = 0; i < size; ++i) data[i] = static_cast<std::byte>(i * 7 + 1);
  return {std::move(name), std::make_shared<const std::vector<std::byte>>(std::move(data))};
}

Ram copy_of(const GuestMemory& memory) {
  Ram out(kEnd);
  MV_CHECK(memory.read(Gpa{0}, std::span(out).first(kRam)));
  MV_CHECK(memory.read(Gpa{kHighRam}, std::span(out).subspan(kHighRam)));
  return out;
}

uint64_t load_be(const Ram& ram, uint64_t address, unsigned bytes) {
  uint64_t v = 0;
  for (unsigned i = 0; i < bytes; ++i) v = v << 8 | std::to_integer<uint64_t>(ram[address + i]);
  return v;
}

// After a DMA at `where` that turned `before` into `after`: all that may have changed is the answer and, for
// a read, its whole target.
void check_dma(const Ram& before, const Ram& after, uint64_t where) {
  Ram wanted = before;
  const auto answer = [&](unsigned control) {
    if (!in_ram(where, 4)) return;
    std::fill_n(wanted.begin() + static_cast<std::ptrdiff_t>(where), 4, std::byte{0});
    wanted[where + 3] = static_cast<std::byte>(control);
  };
  if (!in_ram(where, 16)) {
    answer(kFwCfgDmaError);
    MV_CHECK(after == wanted);
    return;
  }
  const auto control = static_cast<uint32_t>(load_be(before, where, 4));
  const uint64_t length = load_be(before, where + 4, 4);
  const uint64_t address = load_be(before, where + 8, 8);
  const bool read = (control & kFwCfgDmaRead) != 0;
  const bool refused = read ? !in_ram(address, length) : (control & kFwCfgDmaWrite) != 0;
  if (read && !refused && length != 0) {
    std::copy_n(after.begin() + static_cast<std::ptrdiff_t>(address), length,
                wanted.begin() + static_cast<std::ptrdiff_t>(address));
  }
  answer(refused ? kFwCfgDmaError : 0);
  MV_CHECK(after == wanted);
}

}  // namespace
}  // namespace minivmm

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace minivmm;
  static GuestMemory memory = GuestMemory::anonymous({{Gpa{0}, kRam}, {Gpa{kHighRam}, kRam}});
  MV_CHECK(memory.fill(Gpa{0}, kRam, std::byte{0x55}) && memory.fill(Gpa{kHighRam}, kRam, std::byte{0x55}));
  Log log;
  FwCfg fw(memory, log, {file("opt/empty", 0), file("opt/small", 5), file("opt/large", 0x1800)});

  // Each step: what to do, a width, an offset, sixteen bytes of data.
  constexpr size_t kStep = 20;
  std::span input(data, size);
  for (; input.size() >= kStep; input = input.subspan(kStep)) {
    const auto step = std::as_bytes(input.first(kStep));
    const size_t width = input[1] % 9;
    const uint64_t offset = load_le(step.subspan(2, 2));
    const auto payload = step.subspan(4, 16);
    std::array<std::byte, 8> value{};
    switch (input[0] % 6) {
      case 0: fw.read(offset % 16, std::span(value).first(width)); break;
      case 1:  // not where it starts a transfer: case 3 does that, with a model
        if (offset % 16 != kFwCfgDma + 4 && (offset % 16 != kFwCfgDma || width == 4)) {
          fw.write(offset % 16, payload.first(width));
        }
        break;
      case 2: {  // the guest writes a descriptor, or anything else
        [[maybe_unused]] const auto stored = memory.write(Gpa{offset % (kEnd + 16)}, payload);
        break;
      }
      case 3: {
        const uint64_t where = offset % (kEnd + 16);
        std::array<std::byte, 8> address{};
        store_le(address, __builtin_bswap64(where));
        const Ram before = copy_of(memory);
        MV_CHECK(fw.write(kFwCfgDma, address) == IoStatus::ok);
        check_dma(before, copy_of(memory), where);
        break;
      }
      case 4: {
        StateWriter w;
        fw.save(w);
        auto r = StateReader::parse(w.data());
        MV_CHECK(r.has_value());
        fw.reset();
        MV_CHECK(fw.load(*r).has_value());
        break;
      }
      default: {  // a state from a stranger
        auto r = StateReader::parse(step.subspan(2));
        if (r) [[maybe_unused]]
          const auto loaded = fw.load(*r);
        break;
      }
    }
  }
  // Wherever it has been left, it still works.
  const std::array<std::byte, 2> signature{};
  MV_CHECK(fw.write(kFwCfgSelector, signature) == IoStatus::ok);
  for (const char c : {'Q', 'E', 'M', 'U', '\0'}) {
    std::array<std::byte, 1> byte{};
    MV_CHECK(fw.read(kFwCfgData, byte) == IoStatus::ok && byte[0] == static_cast<std::byte>(c));
  }
  return 0;
}
