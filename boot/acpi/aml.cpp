#include "boot/acpi/aml.h"

#include <algorithm>

#include "vmm/core/error.h"

namespace minivmm::aml {

namespace {

void append(Code& to, const Code& more) {
  to.insert(to.end(), more.begin(), more.end());
}

void append_le(Code& to, uint64_t v, unsigned bytes) {
  for (unsigned i = 0; i < bytes; ++i) to.push_back(static_cast<std::byte>(v >> (8 * i)));
}

Code op(uint8_t opcode) {
  return {std::byte{opcode}};
}

Code ext_op(uint8_t opcode) {
  return {std::byte{0x5b}, std::byte{opcode}};
}

Code bytes_of(std::string_view text) {
  Code out;
  for (const char c : text) out.push_back(static_cast<std::byte>(c));
  return out;
}

// 20.2.4: 6 bits in one byte, or 4 bits and one to three more bytes.
Code length_field(uint64_t length, unsigned bytes) {
  if (bytes == 1) return op(static_cast<uint8_t>(length));
  Code out = op(static_cast<uint8_t>(((bytes - 1) << 6) | (length & 0xf)));
  append_le(out, length >> 4, bytes - 1);
  return out;
}

// A length without its own bytes: how fields count bits.
Code plain_length(uint64_t length) {
  const unsigned bytes = length < (1U << 6) ? 1 : length < (1U << 12) ? 2 : length < (1U << 20) ? 3 : 4;
  return length_field(length, bytes);
}

// `head`, a length that counts itself and `body`, then `body`.
Code packaged(const Code& head, const Code& body) {
  unsigned bytes = 1;
  const auto limit = [](unsigned n) { return n == 1 ? uint64_t{1} << 6 : uint64_t{1} << (8 * n - 4); };
  while (body.size() + bytes >= limit(bytes)) ++bytes;
  MV_CHECK(bytes <= 4);
  Code out = head;
  append(out, length_field(body.size() + bytes, bytes));
  append(out, body);
  return out;
}

Code packaged(const Code& head, const Code& first, const Terms& terms) {
  Code body = first;
  append(body, join(terms));
  return packaged(head, body);
}

unsigned hex_digit(char c) {
  if (c >= '0' && c <= '9') return static_cast<unsigned>(c - '0');
  if (c >= 'A' && c <= 'F') return static_cast<unsigned>(c - 'A' + 10);
  MV_CHECK(c >= 'a' && c <= 'f');
  return static_cast<unsigned>(c - 'a' + 10);
}

// 20.2.2: a name segment is 4 characters.
Code segment(std::string_view text) {
  MV_CHECK(!text.empty() && text.size() <= 4);
  Code out = bytes_of(text);
  out.resize(4, std::byte{'_'});
  return out;
}

constexpr uint8_t kNullTarget = 0x00;

Code binary(uint8_t opcode, const Code& a, const Code& b, const Code& target) {
  return join({op(opcode), a, b, target.empty() ? op(kNullTarget) : target});
}

}  // namespace

Code join(const Terms& terms) {
  Code out;
  for (const Code& term : terms) append(out, term);
  return out;
}

Code integer(uint64_t v) {
  if (v <= 1) return op(static_cast<uint8_t>(v));
  Code out;
  if (v <= 0xff) {
    out = op(0x0a);
    append_le(out, v, 1);
  } else if (v <= 0xffff) {
    out = op(0x0b);
    append_le(out, v, 2);
  } else if (v <= 0xffffffff) {
    out = op(0x0c);
    append_le(out, v, 4);
  } else {
    out = op(0x0e);
    append_le(out, v, 8);
  }
  return out;
}

Code string(std::string_view ascii) {
  return join({op(0x0d), bytes_of(ascii), op(0)});
}

Code buffer(std::span<const std::byte> data) {
  return packaged(op(0x11), join({integer(data.size()), Code(data.begin(), data.end())}));
}

Code package(const Terms& elements) {
  MV_CHECK(elements.size() <= 255);
  return packaged(op(0x12), op(static_cast<uint8_t>(elements.size())), elements);
}

Code eisa_id(std::string_view id) {
  MV_CHECK(id.size() == 7);
  uint32_t v = 0;
  for (size_t i = 0; i < 3; ++i) v = (v << 5) | (static_cast<uint32_t>(id[i] - 0x40) & 0x1f);
  for (size_t i = 3; i < 7; ++i) v = (v << 4) | hex_digit(id[i]);
  Code out = op(0x0c);
  append_le(out, __builtin_bswap32(v), 4);
  return out;
}

Code uuid(std::string_view text) {
  Code raw;
  for (size_t i = 0; i < text.size();) {
    if (text[i] == '-') {
      ++i;
      continue;
    }
    MV_CHECK(i + 1 < text.size());
    raw.push_back(static_cast<std::byte>(hex_digit(text[i]) * 16 + hex_digit(text[i + 1])));
    i += 2;
  }
  MV_CHECK(raw.size() == 16);
  // The first three groups are little-endian.
  std::reverse(raw.begin(), raw.begin() + 4);
  std::reverse(raw.begin() + 4, raw.begin() + 6);
  std::reverse(raw.begin() + 6, raw.begin() + 8);
  return buffer(raw);
}

Code path(std::string_view text) {
  Code out;
  if (text.starts_with('\\')) {
    out = op('\\');
    text.remove_prefix(1);
  }
  Terms segments;
  while (!text.empty()) {
    const size_t dot = std::min(text.find('.'), text.size());
    segments.push_back(segment(text.substr(0, dot)));
    text.remove_prefix(std::min(dot + 1, text.size()));
  }
  if (segments.empty()) {
    append(out, op(0));  // NullName: the root itself
  } else if (segments.size() == 2) {
    append(out, op(0x2e));  // DualNamePrefix
  } else if (segments.size() > 2) {
    append(out, op(0x2f));  // MultiNamePrefix
    append(out, op(static_cast<uint8_t>(segments.size())));
  }
  append(out, join(segments));
  return out;
}

Code name(std::string_view where, const Code& value) {
  return join({op(0x08), path(where), value});
}

Code scope(std::string_view where, const Terms& terms) {
  return packaged(op(0x10), path(where), terms);
}

Code device(std::string_view where, const Terms& terms) {
  return packaged(ext_op(0x82), path(where), terms);
}

Code method(std::string_view where, unsigned args, const Terms& terms) {
  MV_CHECK(args <= 7);
  constexpr unsigned kSerialized = 1 << 3;
  return packaged(op(0x14), join({path(where), op(static_cast<uint8_t>(args | kSerialized))}), terms);
}

Code io_region(std::string_view where, uint16_t port, uint8_t size) {
  constexpr uint8_t kSystemIo = 1;
  return join({ext_op(0x80), path(where), op(kSystemIo), integer(port), integer(size)});
}

Code dword_field(std::string_view region, std::span<const FieldUnit> units) {
  constexpr uint8_t kDwordAccess = 3;
  Terms terms{op(kDwordAccess)};
  for (const FieldUnit& unit : units) {
    terms.push_back(segment(unit.name));
    terms.push_back(plain_length(unit.bits));
  }
  return packaged(ext_op(0x81), path(region), terms);
}

Code create_dword_field(const Code& from, uint64_t byte_offset, std::string_view where) {
  return join({op(0x8a), from, integer(byte_offset), path(where)});
}

Code local(unsigned n) {
  MV_CHECK(n <= 7);
  return op(static_cast<uint8_t>(0x60 + n));
}

Code arg(unsigned n) {
  MV_CHECK(n <= 6);
  return op(static_cast<uint8_t>(0x68 + n));
}

Code store(const Code& from, const Code& to) {
  return join({op(0x70), from, to});
}

Code bit_and(const Code& a, const Code& b, const Code& target) {
  return binary(0x7b, a, b, target);
}

Code bit_or(const Code& a, const Code& b, const Code& target) {
  return binary(0x7d, a, b, target);
}

Code equal(const Code& a, const Code& b) {
  return join({op(0x93), a, b});
}

Code negate(const Code& condition) {
  return join({op(0x92), condition});
}

Code if_then(const Code& condition, const Terms& terms) {
  return packaged(op(0xa0), condition, terms);
}

Code otherwise(const Terms& terms) {
  return packaged(op(0xa1), {}, terms);
}

Code notify(const Code& object, uint8_t value) {
  return join({op(0x86), object, integer(value)});
}

Code give_back(const Code& value) {
  return join({op(0xa4), value});
}

}  // namespace minivmm::aml
