// A small builder for AML, the byte code of ACPI's definition blocks (ACPI 6.5, 20: "ACPI Machine Language").
// Every function returns the encoding of one term; terms nest by being passed on.
//   aml::device("COM1", {aml::name("_HID", aml::eisa_id("PNP0501")), aml::name("_UID", aml::integer(0))})
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace minivmm::aml {

using Code = std::vector<std::byte>;
using Terms = std::vector<Code>;

Code join(const Terms&);

// Data (20.2.3).
Code integer(uint64_t);
Code string(std::string_view ascii);
Code buffer(std::span<const std::byte>);
Code package(const Terms&);         // up to 255 elements
Code eisa_id(std::string_view id);  // "PNP0A08", as an integer (19.6.37)
// "33db4d5b-1ff7-401c-9657-7441c03dd766" as a buffer in ToUUID's byte order (19.6.142).
Code uuid(std::string_view text);

// Names (20.2.2): segments of up to 4 characters, "\\_SB.PCI0", "CDW1". Shorter ones are padded with '_'.
Code path(std::string_view);
Code name(std::string_view, const Code& value);
Code scope(std::string_view, const Terms&);
Code device(std::string_view, const Terms&);
Code method(std::string_view, unsigned args, const Terms&);  // always serialized: ours create names

// Operation regions and fields (20.2.5.2).
Code io_region(std::string_view, uint16_t port, uint8_t size);
struct FieldUnit {
  std::string_view name;
  unsigned bits;
};
Code dword_field(std::string_view region, std::span<const FieldUnit>);
Code create_dword_field(const Code& buffer, uint64_t byte_offset, std::string_view);

// Expressions and statements (20.2.5.3, 20.2.5.4).
Code local(unsigned n);
Code arg(unsigned n);
Code store(const Code& from, const Code& to);
Code bit_and(const Code& a, const Code& b, const Code& target);  // target may be {}: only the value
Code bit_or(const Code& a, const Code& b, const Code& target);
Code equal(const Code& a, const Code& b);
Code negate(const Code& condition);
Code if_then(const Code& condition, const Terms&);
Code otherwise(const Terms&);  // directly after if_then
Code notify(const Code& object, uint8_t value);
Code give_back(const Code& value);  // Return

// Resource descriptors (6.4), to be passed to resources().
struct Interrupt {
  uint32_t gsi;
  bool level_triggered = false;
  bool active_low = false;
  bool shared = false;
};
Code resources(const Terms& descriptors);
Code io(uint16_t port, uint8_t size);  // fixed, 16-bit decode
Code interrupt(const Interrupt&);      // extended, consumer
Code memory32_fixed(uint32_t base, uint32_t size);
Code memory64_fixed(uint64_t base, uint64_t size);  // QWord address space, consumer
// Windows that a bridge hands on (producers, both ends fixed). `last` is inclusive.
Code bus_window(uint16_t first, uint16_t last);
Code io_window(uint16_t first, uint16_t last);
Code memory32_window(uint32_t first, uint32_t last);
Code memory64_window(uint64_t first, uint64_t last);

}  // namespace minivmm::aml
