#include "vmm/core/state.h"

#include <cstring>

namespace minivmm {

namespace {
constexpr size_t kFieldHeader = sizeof(uint16_t) + sizeof(uint32_t);
}

void StateWriter::put(uint16_t id, std::span<const std::byte> v) {
  const auto length = static_cast<uint32_t>(v.size());
  MV_CHECK(length == v.size());
  const size_t at = data_.size();
  data_.resize(at + kFieldHeader + v.size());
  std::memcpy(&data_[at], &id, sizeof id);
  std::memcpy(&data_[at + sizeof id], &length, sizeof length);
  if (!v.empty()) std::memcpy(&data_[at + kFieldHeader], v.data(), v.size());
}

Result<StateReader> StateReader::parse(std::span<const std::byte> data) {
  StateReader reader;
  while (!data.empty()) {
    if (data.size() < kFieldHeader) return fail(Errc::corrupt, "saved state ends inside a field");
    uint16_t id = 0;
    uint32_t length = 0;
    std::memcpy(&id, data.data(), sizeof id);
    std::memcpy(&length, data.data() + sizeof id, sizeof length);
    data = data.subspan(kFieldHeader);
    if (length > data.size()) return fail(Errc::corrupt, "a saved field is longer than its section");
    reader.fields_.push_back({id, false, data.first(length)});
    data = data.subspan(length);
  }
  return reader;
}

const StateReader::Field* StateReader::find(uint16_t id) const {
  const Field* found = nullptr;
  for (const Field& f : fields_) {
    if ((f.id & ~kStateRequired) != (id & ~kStateRequired)) continue;
    f.seen = true;
    if (found == nullptr) found = &f;
  }
  return found;
}

Result<std::span<const std::byte>> StateReader::bytes(uint16_t id, size_t max_size) const {
  const Field* f = find(id);
  if (f == nullptr) return std::span<const std::byte>{};
  if (f->data.size() > max_size) return fail(Errc::corrupt, "a saved field is longer than allowed");
  return f->data;
}

Result<std::string> StateReader::text(uint16_t id, size_t max_size) const {
  auto data = bytes(id, max_size);
  if (!data) return std::unexpected(data.error());
  return std::string(reinterpret_cast<const char*>(data->data()), data->size());
}

Result<std::vector<StateReader>> StateReader::groups(uint16_t id, size_t max_count) const {
  std::vector<StateReader> out;
  for (const Field& f : fields_) {
    if ((f.id & ~kStateRequired) != (id & ~kStateRequired)) continue;
    f.seen = true;
    if (out.size() == max_count) return fail(Errc::corrupt, "more saved elements than allowed");
    auto inner = parse(f.data);
    if (!inner) return std::unexpected(inner.error());
    out.push_back(std::move(*inner));
  }
  return out;
}

Result<void> StateReader::finish() const {
  for (const Field& f : fields_) {
    if ((f.id & kStateRequired) != 0 && !f.seen) return fail(Errc::unsupported, "saved by a newer version");
  }
  return {};
}

}  // namespace minivmm
