// Resource descriptors (ACPI 6.5, 6.4): what a device's _CRS holds.
#include "boot/acpi/aml.h"
#include "vmm/core/error.h"

namespace minivmm::aml {

namespace {

void append_le(Code& to, uint64_t v, unsigned bytes) {
  for (unsigned i = 0; i < bytes; ++i) to.push_back(static_cast<std::byte>(v >> (8 * i)));
}

enum class Space : uint8_t { memory = 0, io = 1, bus = 2 };  // 6.4.3.5

constexpr uint8_t kConsumer = 1 << 0;  // else it is a producer
constexpr uint8_t kBothEndsFixed = (1 << 2) | (1 << 3);
constexpr uint8_t kReadWrite = 1;    // memory, not cacheable
constexpr uint8_t kEntireRange = 3;  // I/O: ISA and non-ISA ports

struct AddressSpace {
  uint8_t tag;
  unsigned width;  // bytes of each number
  Space space;
  uint8_t flags;
  uint8_t type_flags;
};

Code address_space(const AddressSpace& kind, uint64_t first, uint64_t last) {
  MV_CHECK(first <= last);
  Code out{std::byte{kind.tag}};
  append_le(out, 3 + 5 * uint64_t{kind.width}, 2);
  append_le(out, static_cast<uint8_t>(kind.space), 1);
  append_le(out, kind.flags, 1);
  append_le(out, kind.type_flags, 1);
  append_le(out, 0, kind.width);  // granularity: none, both ends are fixed
  append_le(out, first, kind.width);
  append_le(out, last, kind.width);
  append_le(out, 0, kind.width);  // the bridge does not translate
  append_le(out, last - first + 1, kind.width);
  return out;
}

constexpr uint8_t kWordTag = 0x88;   // 6.4.3.5.3
constexpr uint8_t kDwordTag = 0x87;  // 6.4.3.5.2
constexpr uint8_t kQwordTag = 0x8a;  // 6.4.3.5.1

}  // namespace

Code resources(const Terms& descriptors) {
  Code all = join(descriptors);
  append_le(all, 0x79, 1);  // end tag; a checksum of 0 is taken as right (6.4.2.9)
  append_le(all, 0, 1);
  return buffer(all);
}

Code io(uint16_t port, uint8_t size) {
  Code out;
  append_le(out, 0x47, 1);  // 6.4.2.5
  append_le(out, 1, 1);     // decodes 16 bits
  append_le(out, port, 2);
  append_le(out, port, 2);
  append_le(out, 1, 1);
  append_le(out, size, 1);
  return out;
}

Code interrupt(const Interrupt& irq) {
  Code out;
  append_le(out, 0x89, 1);  // 6.4.3.6
  append_le(out, 6, 2);
  append_le(out,
            1U | (irq.level_triggered ? 0U : 1U << 1) | (irq.active_low ? 1U << 2 : 0U) |
                (irq.shared ? 1U << 3 : 0U),
            1);
  append_le(out, 1, 1);
  append_le(out, irq.gsi, 4);
  return out;
}

Code memory32_fixed(uint32_t base, uint32_t size) {
  Code out;
  append_le(out, 0x86, 1);  // 6.4.3.4
  append_le(out, 9, 2);
  append_le(out, kReadWrite, 1);
  append_le(out, base, 4);
  append_le(out, size, 4);
  return out;
}

Code memory64_fixed(uint64_t base, uint64_t size) {
  MV_CHECK(size != 0);
  return address_space({kQwordTag, 8, Space::memory, kConsumer | kBothEndsFixed, kReadWrite}, base,
                       base + size - 1);
}

Code bus_window(uint16_t first, uint16_t last) {
  return address_space({kWordTag, 2, Space::bus, kBothEndsFixed, 0}, first, last);
}

Code io_window(uint16_t first, uint16_t last) {
  // A double word, for a window of all 64 KiB has a length that a word cannot hold.
  return address_space({kDwordTag, 4, Space::io, kBothEndsFixed, kEntireRange}, first, last);
}

Code memory32_window(uint32_t first, uint32_t last) {
  return address_space({kDwordTag, 4, Space::memory, kBothEndsFixed, kReadWrite}, first, last);
}

Code memory64_window(uint64_t first, uint64_t last) {
  return address_space({kQwordTag, 8, Space::memory, kBothEndsFixed, kReadWrite}, first, last);
}

}  // namespace minivmm::aml
