#include "devices/block/qcow2/header_rename.h"

#include <algorithm>
#include <array>

namespace minivmm::qcow2 {

namespace {

constexpr uint64_t kSector = 512;

struct Range {
  uint64_t from = 0, end = 0;
};
// What a header uses of its cluster: the fields and extensions with their end mark; the name.
using Used = std::array<Range, 2>;

Used used_by(const Header& h) {
  uint64_t end = h.header_bytes + 8;
  for (const Extension& extension : h.extensions) end += 8 + (extension.data.size() + 7) / 8 * 8;
  const Range name{h.backing_offset, h.backing_offset + h.backing_size};
  return {Range{0, end}, h.backing_file.empty() ? Range{} : name};
}

uint64_t end_of(const Used& used) {
  return std::max(used[0].end, used[1].end);
}

bool within(const Used& used, uint64_t at) {
  return std::ranges::any_of(used, [at](const Range& one) { return one.from <= at && at < one.end; });
}

// Whether the old header still says the same with the new one's bytes past the first sector.
bool harmless(const Used& before, std::span<const std::byte> old, std::span<const std::byte> bytes) {
  for (uint64_t at = kSector; at < bytes.size(); ++at)
    if (within(before, at) && bytes[at] != old[at]) return false;
  return true;
}

// The header with its name at `name_at` or later, in the old one's place.
Result<BackingChange> lay_out(const Header& now, std::span<const std::byte> cluster, Header wanted,
                              uint64_t name_at) {
  const auto encoded = encode_header(wanted, name_at);
  if (!encoded) return std::unexpected(encoded.error());
  wanted.backing_offset = load_be64(encoded->data() + kFieldBackingOffset);
  wanted.backing_size = static_cast<uint32_t>(wanted.backing_file.size());
  if (wanted.version >= 3) wanted.header_bytes = load_be32(encoded->data() + kFieldHeaderBytes);

  const Used before = used_by(now);
  const Used after = used_by(wanted);
  std::vector<std::byte> old(encoded->size());
  std::ranges::copy(cluster.first(std::min(cluster.size(), old.size())), old.begin());
  BackingChange change{std::move(wanted), old};
  std::ranges::copy(std::span(*encoded).first(kSector), change.bytes.begin());
  for (uint64_t at = kSector; at < encoded->size(); ++at)
    if (within(after, at)) change.bytes[at] = (*encoded)[at];
  if (!harmless(before, old, change.bytes))
    return fail(Errc::too_large, "the header has no room for another backing file's name beside the old one");
  return change;
}

}  // namespace

Result<BackingChange> change_backing(const Header& now, std::span<const std::byte> cluster,
                                     const std::string& name, const std::string& format) {
  if (name.size() > kMaxBackingNameBytes) return fail(Errc::too_large, "the backing file's name is too long");
  Header wanted = now;
  wanted.backing_file = name;
  set_extension(wanted, kExtensionBackingFormat, std::as_bytes(std::span(format)));
  Header shorter = wanted;
  set_extension(shorter, kExtensionFeatureNames, {});
  Result<BackingChange> change;
  for (const Header& header : {wanted, shorter}) {
    // The name right behind the extensions, as others put it; else behind everything there is now.
    for (const uint64_t name_at : {uint64_t{0}, end_of(used_by(now))}) {
      change = lay_out(now, cluster, header, name_at);
      if (change || change.error().code != Errc::too_large) return change;
    }
  }
  return change;
}

}  // namespace minivmm::qcow2
