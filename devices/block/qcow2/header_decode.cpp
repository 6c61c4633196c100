// "Header" and "Header extensions": from the file's bytes, checked.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "devices/block/qcow2/format.h"

namespace minivmm::qcow2 {

namespace {

// What refuses a header: the error for programs, and the line for people.
class Refusal {
 public:
  explicit Refusal(std::string& why) : why_(why) {}
  std::unexpected<Error> operator()(Errc code, const char* what, std::string detail = {}) const {
    why_ = detail.empty() ? what : std::move(detail);
    return fail(code, what);
  }

 private:
  std::string& why_;
};

// The fields as they are.
Header read_fields(std::span<const std::byte> first) {
  const std::byte* at = first.data();
  Header h;
  h.version = load_be32(at + 4);
  h.backing_offset = load_be64(at + 8);
  h.backing_size = load_be32(at + 16);
  h.cluster_bits = load_be32(at + 20);
  h.size = load_be64(at + 24);
  h.crypt_method = load_be32(at + 32);
  h.l1_size = load_be32(at + 36);
  h.l1_offset = load_be64(at + 40);
  h.refcount_table_offset = load_be64(at + 48);
  h.refcount_table_clusters = load_be32(at + 56);
  h.snapshots = load_be32(at + 60);
  h.snapshots_offset = load_be64(at + 64);
  return h;
}

// Version 3's own fields, but for the extensions.
Result<void> read_version_3(std::span<const std::byte> first, Header& h, const Refusal& refuse) {
  if (first.size() < kHeaderBytesV3) return refuse(Errc::corrupt, "the file ends within the header");
  const std::byte* at = first.data();
  h.incompatible = load_be64(at + kFieldIncompatible);
  h.compatible = load_be64(at + kFieldCompatible);
  h.autoclear = load_be64(at + kFieldAutoclear);
  h.refcount_order = load_be32(at + kFieldRefcountOrder);
  h.header_bytes = load_be32(at + 100);
  if (h.header_bytes < kHeaderBytesV3 || h.header_bytes % 8 != 0 || h.header_bytes > h.cluster_size())
    return refuse(Errc::corrupt, "the header's length is wrong",
                  fmt::format("the header says that it is {} bytes long: it must be 104 or more, a multiple "
                              "of 8, and within a cluster",
                              h.header_bytes));
  if (first.size() < h.header_bytes) return refuse(Errc::corrupt, "the file ends within the header");
  if (h.refcount_order > 6)
    return refuse(Errc::corrupt, "the reference counts' width is wrong",
                  fmt::format("reference counts of 2^{} bits: at most 2^6 can be", h.refcount_order));
  return {};
}

// "Header extensions": up to the end mark, the backing file's name, or the cluster's end.
Result<void> read_extensions(std::span<const std::byte> first, Header& h, const Refusal& refuse) {
  constexpr std::array kKnown{kExtensionBackingFormat, kExtensionFeatureNames, kExtensionBitmaps,
                              kExtensionEncryption, kExtensionDataFile};
  uint64_t end = std::min<uint64_t>(h.cluster_size(), first.size());
  if (h.backing_offset != 0) end = std::min(end, h.backing_offset);
  for (uint64_t at = h.header_bytes; at <= end && end - at >= 8;) {
    const uint32_t type = load_be32(first.data() + at);
    const uint32_t length = load_be32(first.data() + at + 4);
    at += 8;
    if (type == 0) break;
    if (length > end - at)
      return refuse(
          Errc::corrupt, "a header extension reaches past the header's cluster",
          fmt::format("header extension {:#x} of {} bytes reaches past the header's cluster", type, length));
    // "each header extension type shall appear at most once": of those whose meaning we know, a second one
    // would be a second meaning.
    if (std::ranges::find(kKnown, type) != kKnown.end() && find_extension(h, type))
      return refuse(Errc::corrupt, "a header extension appears twice",
                    fmt::format("header extension {:#x} appears twice", type));
    const auto data = first.subspan(at, length);
    h.extensions.push_back({type, {data.begin(), data.end()}});
    at += (uint64_t{length} + 7) / 8 * 8;
  }
  return {};
}

Result<void> check_features(std::span<const std::byte> first, Header& h, const Refusal& refuse) {
  if (const uint64_t unknown = h.incompatible & ~kIncompatKnown; unknown != 0) {
    std::string names;
    for (unsigned bit = 0; bit < 64; ++bit) {
      if ((unknown >> bit & 1) == 0) continue;
      names += (names.empty() ? "" : ", ") + incompatible_feature_name(h, bit);
    }
    return refuse(Errc::unsupported, "the image needs a feature that is not known here",
                  "the image needs the feature " + names + ", which is not known here");
  }
  if (h.extended_l2() && h.cluster_bits < 14)
    return refuse(Errc::corrupt, "extended L2 entries need clusters of 16 KiB or more");

  const unsigned type =
      h.header_bytes > kHeaderBytesV3 ? std::to_integer<unsigned>(first[kHeaderBytesV3]) : 0;
  if (((h.incompatible & kIncompatCompression) != 0) != (type != 0))
    return refuse(Errc::corrupt, "the compression type and its feature bit contradict each other");
  if (type > static_cast<unsigned>(Compression::zstd))
    return refuse(Errc::unsupported, "the image's compression type is not known here",
                  fmt::format("compression type {} is not known here", type));
  h.compression = static_cast<Compression>(type);
  if (h.header_bytes > kHeaderBytesV3 + 1) {
    const auto rest = first.subspan(kHeaderBytesV3 + 1, h.header_bytes - kHeaderBytesV3 - 1);
    h.additional.assign(rest.begin(), rest.end());
  }

  if ((h.autoclear & kAutoclearDataFileRaw) != 0 && !h.has_data_file())
    return refuse(Errc::corrupt, "a raw external data file is promised, but there is no external data file");
  if (h.has_data_file() && h.snapshots != 0)
    return refuse(Errc::corrupt, "an image with an external data file cannot have internal snapshots");
  // Without the extension there is nothing that the bit could vouch for.
  if (!find_extension(h, kExtensionBitmaps)) h.autoclear &= ~kAutoclearBitmaps;
  return {};
}

Result<void> read_backing_name(std::span<const std::byte> first, Header& h, const Refusal& refuse) {
  if (h.backing_offset == 0 || h.backing_size == 0) return {};
  if (h.backing_size > kMaxBackingNameBytes)
    return refuse(Errc::corrupt, "the backing file's name is too long",
                  fmt::format("the backing file's name has {} bytes; 1023 are allowed", h.backing_size));
  const uint64_t room = std::min<uint64_t>(h.cluster_size(), first.size());
  if (h.backing_offset < h.header_bytes || h.backing_offset > room ||
      h.backing_size > room - h.backing_offset)
    return refuse(Errc::corrupt, "the backing file's name lies outside the header's cluster");
  const auto name = first.subspan(h.backing_offset, h.backing_size);
  h.backing_file.assign(reinterpret_cast<const char*>(name.data()), name.size());
  return {};
}

// What opens a file by the name would see it end at the NUL, and what shows it would not.
Result<void> check_names(const Header& h, const Refusal& refuse) {
  const auto has_nul = [](const std::optional<std::string>& name) {
    return name && name->find('\0') != std::string::npos;
  };
  if (has_nul(h.backing_file)) return refuse(Errc::corrupt, "the backing file's name contains a NUL");
  if (has_nul(h.data_file())) return refuse(Errc::corrupt, "the external data file's name contains a NUL");
  if ((h.autoclear & kAutoclearDataFileRaw) != 0 && !h.backing_file.empty())
    return refuse(Errc::corrupt, "a raw external data file and a backing file exclude each other");
  return {};
}

struct Table {
  const char* name;
  uint64_t offset, bytes;
};

Result<void> check_one_table(const Header& h, uint64_t file_bytes, const Refusal& refuse, const Table& t) {
  if (auto good = check_table(h, file_bytes, t.offset, t.bytes); !good)
    return refuse(good.error().code, good.error().what,
                  fmt::format("the {} ({} bytes at {:#x}) is misplaced: {}", t.name, t.bytes, t.offset,
                              good.error().what));
  return {};
}

bool overlap(const Table& a, const Table& b) {
  return a.bytes != 0 && b.bytes != 0 && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
}

Result<void> check_apart(const Table& a, const Table& b, const Refusal& refuse) {
  if (!overlap(a, b)) return {};
  return refuse(Errc::corrupt, "two of the image's tables overlap",
                fmt::format("the {} and the {} overlap", a.name, b.name));
}

// The L1 table and the snapshot table.
Result<void> check_mapping_tables(const Header& h, uint64_t file_bytes, const Refusal& refuse,
                                  const Table& l1, const Table& snapshots) {
  if (h.size > static_cast<uint64_t>(INT64_MAX) || h.l1_entries_needed() > kMaxL1Bytes / 8)
    return refuse(Errc::too_large, "the virtual size is too large",
                  fmt::format("a virtual size of {} bytes is too large for clusters of {} bytes", h.size,
                              h.cluster_size()));
  if (l1.bytes > kMaxL1Bytes)
    return refuse(Errc::too_large, "the L1 table is too large",
                  fmt::format("an L1 table of {} entries is too large", h.l1_size));
  if (h.l1_size < h.l1_entries_needed())
    return refuse(Errc::corrupt, "the L1 table is too small for the virtual size",
                  fmt::format("the L1 table has {} entries; the virtual size of {} bytes needs {}", h.l1_size,
                              h.size, h.l1_entries_needed()));
  if (h.snapshots > kMaxSnapshots)
    return refuse(Errc::too_large, "the image has too many snapshots",
                  fmt::format("{} snapshots: at most {} can be", h.snapshots, kMaxSnapshots));
  Result<void> good = check_one_table(h, file_bytes, refuse, l1);
  if (good) good = check_one_table(h, file_bytes, refuse, snapshots);
  if (good) good = check_apart(l1, snapshots, refuse);
  return good;
}

Result<void> check_refcount_table(const Header& h, uint64_t file_bytes, const Refusal& refuse,
                                  const Table& l1, const Table& snapshots) {
  if (h.refcount_table_clusters == 0) return refuse(Errc::corrupt, "the image has no refcount table");
  const Table table{"refcount table", h.refcount_table_offset,
                    uint64_t{h.refcount_table_clusters} << h.cluster_bits};
  if (table.bytes > kMaxRefcountTableBytes)
    return refuse(Errc::too_large, "the refcount table is too large",
                  fmt::format("a refcount table of {} clusters is too large", h.refcount_table_clusters));
  Result<void> good = check_one_table(h, file_bytes, refuse, table);
  if (good) good = check_apart(table, l1, refuse);
  if (good) good = check_apart(table, snapshots, refuse);
  return good;
}

Result<void> check_tables(Header& h, uint64_t file_bytes, const Refusal& refuse, ForRepair for_repair) {
  constexpr uint64_t kLeastSnapshotBytes = 40;
  const Table l1{"L1 table", h.l1_offset, uint64_t{h.l1_size} * 8};
  const Table snapshots{"snapshot table", h.snapshots == 0 ? 0 : h.snapshots_offset,
                        h.snapshots * kLeastSnapshotBytes};
  if (auto good = check_mapping_tables(h, file_bytes, refuse, l1, snapshots); !good) return good;
  auto good = check_refcount_table(h, file_bytes, refuse, l1, snapshots);
  if (good || for_repair == ForRepair::no) return good;
  h.refcount_table_offset = 0;
  h.refcount_table_clusters = 0;
  return {};
}

}  // namespace

Result<Header> decode_header(std::span<const std::byte> first, uint64_t file_bytes, std::string& why,
                             ForRepair for_repair) {
  const Refusal refuse(why);
  if (first.size() < 8 || load_be32(first.data()) != kMagic)
    return refuse(Errc::corrupt, "it does not begin as a qcow2 image does");
  const uint32_t version = load_be32(first.data() + 4);
  if (version != 2 && version != 3)
    return refuse(Errc::unsupported, "this version of qcow2 is not known here",
                  fmt::format("qcow2 version {} is not known here, only 2 and 3", version));
  if (first.size() < kHeaderBytesV2) return refuse(Errc::corrupt, "the file ends within the header");
  Header h = read_fields(first);
  if (h.cluster_bits < kMinClusterBits || h.cluster_bits > kMaxClusterBits)
    return refuse(Errc::corrupt, "the cluster size is wrong",
                  fmt::format("clusters of 2^{} bytes: only 2^9 to 2^21 can be", h.cluster_bits));
  Result<void> good;
  if (version == 3 && !(good = read_version_3(first, h, refuse))) return std::unexpected(good.error());
  if (h.crypt_method == 1 || h.crypt_method == 2) {
    const char* method = h.crypt_method == 1 ? "AES" : "LUKS";
    return refuse(
        Errc::unsupported, "the image is encrypted",
        fmt::format("the image is encrypted ({}), which is not supported: decrypt it with 'qemu-img "
                    "convert' first",
                    method));
  }
  if (h.crypt_method != 0)
    return refuse(
        Errc::unsupported, "the image is encrypted",
        fmt::format("the image is encrypted by method {}, which is not known here", h.crypt_method));
  if (!(good = read_extensions(first, h, refuse)) || !(good = check_features(first, h, refuse)) ||
      !(good = read_backing_name(first, h, refuse)) || !(good = check_names(h, refuse)) ||
      !(good = check_tables(h, file_bytes, refuse, for_repair)))
    return std::unexpected(good.error());
  return h;
}

}  // namespace minivmm::qcow2
