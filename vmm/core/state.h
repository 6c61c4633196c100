// The fields of one saved section: {u16 id, u32 length, little-endian value}, in any order. Ids are never
// reused; a reader gives a default to a field that an older writer did not have, and skips ids it does not
// know unless the writer marked them required. What is read is untrusted: every length is checked, nothing is
// allocated unasked. docs/snapshot-format.md describes the file around it.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "vmm/core/error.h"

namespace minivmm {

inline constexpr uint16_t kStateRequired =
    0x8000;  // or'ed into an id: a reader that does not know it must refuse

template <class T>
concept StateScalar = std::integral<T> || std::is_enum_v<T>;

class StateWriter {
 public:
  template <StateScalar T>
  void field(uint16_t id, T v) {
    const auto wide = static_cast<uint64_t>(v);
    put(id, std::as_bytes(std::span(&wide, 1)).first(sizeof(T)));
  }
  void bytes(uint16_t id, std::span<const std::byte> v) { put(id, v); }
  void text(uint16_t id, std::string_view v) { put(id, std::as_bytes(std::span(v))); }
  // A nested list of fields; the same id may come many times, once for each element.
  template <class F>
  void group(uint16_t id, F&& fill) {
    StateWriter inner;
    fill(inner);
    put(id, inner.data());
  }
  std::span<const std::byte> data() const { return data_; }

 private:
  void put(uint16_t id, std::span<const std::byte> v);

  std::vector<std::byte> data_;
};

class StateReader {
 public:
  // Checks that `data` is a whole number of well-formed fields.
  static Result<StateReader> parse(std::span<const std::byte> data);

  // The field, or `fallback` where the writer had none; Errc::corrupt if its length is not T's.
  template <StateScalar T>
  Result<T> field(uint16_t id, T fallback) const {
    const Field* f = find(id);
    if (f == nullptr) return fallback;
    return scalar<T>(*f);
  }
  // The field; Errc::corrupt where there is none.
  template <StateScalar T>
  Result<T> need(uint16_t id) const {
    const Field* f = find(id);
    if (f == nullptr) return fail(Errc::corrupt, "a saved field is missing");
    return scalar<T>(*f);
  }
  Result<std::span<const std::byte>> bytes(uint16_t id, size_t max_size) const;
  Result<std::string> text(uint16_t id, size_t max_size) const;
  // Every nested group of this id, in the order written.
  Result<std::vector<StateReader>> groups(uint16_t id, size_t max_count) const;
  // Call last: refuses required ids that nobody asked for.
  Result<void> finish() const;

 private:
  struct Field {
    uint16_t id;
    mutable bool seen;
    std::span<const std::byte> data;
  };
  template <StateScalar T>
  static Result<T> scalar(const Field& f) {
    if (f.data.size() != sizeof(T)) return fail(Errc::corrupt, "a saved field has the wrong length");
    uint64_t wide = 0;
    for (size_t i = 0; i < sizeof(T); ++i) wide |= static_cast<uint64_t>(f.data[i]) << (8 * i);
    return static_cast<T>(wide);
  }
  const Field* find(uint16_t id) const;

  std::vector<Field> fields_;
};

}  // namespace minivmm
