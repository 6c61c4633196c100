// "Header" and "Header extensions": to the file's bytes.
#include <algorithm>

#include "devices/block/qcow2/format.h"

namespace minivmm::qcow2 {

namespace {

uint64_t padded(uint64_t bytes) {
  return (bytes + 7) / 8 * 8;
}

}  // namespace

Result<std::vector<std::byte>> encode_header(const Header& h, uint64_t name_at) {
  uint64_t header_bytes = kHeaderBytesV2;
  if (h.version >= 3) {
    header_bytes = std::max<uint64_t>(h.header_bytes, kHeaderBytesV3);
    if (h.compression != Compression::zlib || !h.additional.empty())
      header_bytes = std::max(header_bytes, padded(kHeaderBytesV3 + 1 + h.additional.size()));
  }
  uint64_t total = header_bytes;
  for (const Extension& extension : h.extensions) total += 8 + padded(extension.data.size());
  total += 8;  // the end mark
  name_at = std::max(name_at, total);
  if (!h.backing_file.empty()) total = name_at + h.backing_file.size();
  if (total > h.cluster_size() || h.backing_file.size() > kMaxBackingNameBytes)
    return fail(Errc::too_large, "the header does not fit into a cluster");

  std::vector<std::byte> out((total + 511) / 512 * 512);
  std::byte* at = out.data();
  store_be32(at, kMagic);
  store_be32(at + 4, h.version);
  store_be64(at + 8, h.backing_file.empty() ? 0 : name_at);
  store_be32(at + 16, static_cast<uint32_t>(h.backing_file.size()));
  store_be32(at + 20, h.cluster_bits);
  store_be64(at + 24, h.size);
  store_be32(at + 32, h.crypt_method);
  store_be32(at + 36, h.l1_size);
  store_be64(at + 40, h.l1_offset);
  store_be64(at + 48, h.refcount_table_offset);
  store_be32(at + 56, h.refcount_table_clusters);
  store_be32(at + 60, h.snapshots);
  store_be64(at + 64, h.snapshots_offset);
  if (h.version >= 3) {
    store_be64(at + kFieldIncompatible, h.incompatible);
    store_be64(at + kFieldCompatible, h.compatible);
    store_be64(at + kFieldAutoclear, h.autoclear);
    store_be32(at + kFieldRefcountOrder, h.refcount_order);
    store_be32(at + kFieldHeaderBytes, static_cast<uint32_t>(header_bytes));
    if (header_bytes > kHeaderBytesV3) {
      at[kHeaderBytesV3] = static_cast<std::byte>(h.compression);
      std::ranges::copy(h.additional, at + kHeaderBytesV3 + 1);
    }
  }
  at += header_bytes;
  for (const Extension& extension : h.extensions) {
    store_be32(at, extension.type);
    store_be32(at + 4, static_cast<uint32_t>(extension.data.size()));
    std::ranges::copy(extension.data, at + 8);
    at += 8 + padded(extension.data.size());
  }
  if (!h.backing_file.empty())
    std::ranges::copy(std::as_bytes(std::span(h.backing_file)), out.data() + name_at);
  return out;
}

}  // namespace minivmm::qcow2
