// The qcow2 image format as the host sees it: QEMU's docs/interop/qcow2.txt, whose section names are cited.
// All of it is big-endian on disk; these are decoded values. What a file says is not trusted: decode() has
// checked each field alone, Layout's functions what follows from several.
#pragma once

#include <endian.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vmm/core/error.h"

namespace minivmm::qcow2 {

inline constexpr uint32_t kMagic = 0x514649fb;  // "QFI\xfb"
inline constexpr unsigned kMinClusterBits = 9;  // "Header", cluster_bits
inline constexpr unsigned kMaxClusterBits = 21;
inline constexpr uint32_t kHeaderBytesV2 = 72;
inline constexpr uint32_t kHeaderBytesV3 = 104;

// Our limits on what is held in memory; QEMU has the same ones.
inline constexpr uint64_t kMaxL1Bytes = uint64_t{32} << 20;
inline constexpr uint64_t kMaxRefcountTableBytes = uint64_t{8} << 20;
inline constexpr uint32_t kMaxSnapshots = 65536;
inline constexpr uint64_t kMaxSnapshotTableBytes = uint64_t{16} << 20;
inline constexpr uint32_t kMaxBackingNameBytes = 1023;

// "Header", incompatible_features, compatible_features, autoclear_features.
inline constexpr uint64_t kIncompatDirty = 1 << 0;
inline constexpr uint64_t kIncompatCorrupt = 1 << 1;
inline constexpr uint64_t kIncompatDataFile = 1 << 2;
inline constexpr uint64_t kIncompatCompression = 1 << 3;
inline constexpr uint64_t kIncompatExtendedL2 = 1 << 4;
inline constexpr uint64_t kIncompatKnown = (1 << 5) - 1;
inline constexpr uint64_t kCompatLazyRefcounts = 1 << 0;
inline constexpr uint64_t kAutoclearBitmaps = 1 << 0;
inline constexpr uint64_t kAutoclearDataFileRaw = 1 << 1;

enum class Compression : uint8_t { zlib = 0, zstd = 1 };

// "L1 table entry", "Standard Cluster Descriptor", "Compressed Clusters Descriptor".
inline constexpr uint64_t kCopied = uint64_t{1} << 63;      // refcount is exactly 1
inline constexpr uint64_t kCompressed = uint64_t{1} << 62;  // L2 only
inline constexpr uint64_t kZero = 1;  // standard L2 entries, version 3, not with extended L2
inline constexpr uint64_t kOffsetMask = 0x00fffffffffffe00;
inline constexpr uint64_t kL1Reserved = ~(kCopied | kOffsetMask);
inline constexpr unsigned kSubclusters = 32;  // "Extended L2 Entries"

// A header extension that is carried along: unknown ones unchanged.
struct Extension {
  uint32_t type = 0;
  std::vector<std::byte> data;
};
inline constexpr uint32_t kExtensionBackingFormat = 0xe2792aca;
inline constexpr uint32_t kExtensionFeatureNames = 0x6803f857;
inline constexpr uint32_t kExtensionBitmaps = 0x23852875;
inline constexpr uint32_t kExtensionEncryption = 0x0537be77;
inline constexpr uint32_t kExtensionDataFile = 0x44415441;

struct Header {
  uint32_t version = 3;
  uint64_t backing_offset = 0;
  uint32_t backing_size = 0;
  unsigned cluster_bits = 16;
  uint64_t size = 0;  // virtual size in bytes
  uint32_t crypt_method = 0;
  uint32_t l1_size = 0;  // entries
  uint64_t l1_offset = 0;
  uint64_t refcount_table_offset = 0;
  uint32_t refcount_table_clusters = 0;
  uint32_t snapshots = 0;
  uint64_t snapshots_offset = 0;
  // Version 3; what version 2 means otherwise.
  uint64_t incompatible = 0;
  uint64_t compatible = 0;
  uint64_t autoclear = 0;
  unsigned refcount_order = 4;
  uint32_t header_bytes = kHeaderBytesV2;
  Compression compression = Compression::zlib;
  std::vector<std::byte>
      additional;  // the header's bytes from 105 to header_bytes: fields unknown to us, kept

  std::string backing_file;  // as the image names it; empty: none
  std::vector<Extension> extensions;

  // Derived.
  uint64_t cluster_size() const { return uint64_t{1} << cluster_bits; }
  bool extended_l2() const { return (incompatible & kIncompatExtendedL2) != 0; }
  bool has_data_file() const { return (incompatible & kIncompatDataFile) != 0; }
  unsigned l2_entry_bytes() const { return extended_l2() ? 16 : 8; }
  uint64_t l2_entries() const { return cluster_size() / l2_entry_bytes(); }
  uint64_t subcluster_size() const { return extended_l2() ? cluster_size() / kSubclusters : cluster_size(); }
  unsigned refcount_bits() const { return 1U << refcount_order; }
  uint64_t refcounts_per_block() const { return cluster_size() * 8 / refcount_bits(); }
  uint64_t max_refcount() const {
    return refcount_order == 6 ? ~uint64_t{0} : (uint64_t{1} << refcount_bits()) - 1;
  }
  uint64_t l1_entries_needed() const;                 // for `size`
  std::optional<std::string> backing_format() const;  // the extension's text
  std::optional<std::string> data_file() const;
};

// Where single fields lie: what changes one of them writes it alone, within one sector.
inline constexpr uint64_t kFieldBackingOffset = 8;         // u64, then u32 backing_file_size
inline constexpr uint64_t kFieldSize = 24;                 // u64
inline constexpr uint64_t kFieldL1Size = 36;               // u32, then u64 l1_table_offset
inline constexpr uint64_t kFieldRefcountTableOffset = 48;  // u64, then u32 refcount_table_clusters
inline constexpr uint64_t kFieldSnapshots = 60;            // u32, then u64 snapshots_offset
inline constexpr uint64_t kFieldIncompatible = 72;         // u64
inline constexpr uint64_t kFieldCompatible = 80;           // u64
inline constexpr uint64_t kFieldAutoclear = 88;            // u64
inline constexpr uint64_t kFieldRefcountOrder = 96;        // u32
inline constexpr uint64_t kFieldHeaderBytes = 100;         // u32

// Decodes and checks `first`, the image's first cluster (or 2 MiB, or the whole file where that is less), of
// a file of `file_bytes`. Refused are: Errc::corrupt, what contradicts the specification or itself (offsets,
// alignments, tables past the end of the file or over the header or each other, an L1 table too small for the
// size); Errc::unsupported, a version, an encryption, an incompatible feature; Errc::too_large. `why`
// receives one line for a person ("it is encrypted (LUKS)", "it needs the feature 'xyz' (incompatible bit
// 5)"). An autoclear bit for bitmaps without the extension is dropped.
enum class ForRepair : uint8_t {
  no,
  yes,  // a refcount table that is misplaced or missing is let through, as one of 0 clusters
};
Result<Header> decode_header(std::span<const std::byte> first, uint64_t file_bytes, std::string& why,
                             ForRepair for_repair = ForRepair::no);

// The header with its extensions and the backing file's name (whose offset and size follow from that), as it
// stands at offset 0: whole sectors, at most one cluster. The name stands behind the extensions, at `name_at`
// if that is later. Errc::too_large where it does not fit.
Result<std::vector<std::byte>> encode_header(const Header&, uint64_t name_at = 0);

// The extension of that type, or null.
const Extension* find_extension(const Header&, uint32_t type);
// Sets the extension's data; empty data takes the extension away.
void set_extension(Header&, uint32_t type, std::span<const std::byte> data);
// The names of this image's features, for the feature name table: what encode_header writes is up to the
// caller's extensions.
std::vector<std::byte> feature_name_table();
// "'dirty bit' (incompatible bit 0)": from the image's own table, or else ours.
std::string incompatible_feature_name(const Header&, unsigned bit);

// Whether `bytes` at `offset` can be a table of the image: on a cluster's start, behind the header's cluster,
// within the file. A table of 0 bytes always can. Errc::corrupt.
Result<void> check_table(const Header&, uint64_t file_bytes, uint64_t offset, uint64_t bytes);

// "Refcounts": entry `index` of a block whose entries are 1 << order bits wide (bytes are numbered from the
// low bits where several entries share one).
uint64_t load_refcount(std::span<const std::byte> block, unsigned order, uint64_t index);
void store_refcount(std::span<std::byte> block, unsigned order, uint64_t index, uint64_t value);

// "Compressed Clusters Descriptor": where the bytes are in the file.
struct CompressedRun {
  uint64_t offset = 0;  // in bytes, any alignment
  uint64_t bytes = 0;   // up to the end of the last 512-byte sector; what is stored may end before
};
CompressedRun decode_compressed(uint64_t l2_entry, unsigned cluster_bits);
// The entry for `bytes` stored at `offset`.
uint64_t encode_compressed(const CompressedRun&, unsigned cluster_bits);

// "Snapshots": an entry of the snapshot table.
struct Snapshot {
  uint64_t l1_offset = 0;
  uint32_t l1_size = 0;  // entries
  std::string id;
  std::string name;
  uint32_t seconds = 0, nanoseconds = 0;
  uint64_t vm_clock_ns = 0;
  uint32_t vm_state_bytes = 0;
  std::vector<std::byte> extra;
  std::optional<uint64_t> disk_size() const;
  uint64_t vm_state_size() const;  // the extra data's 64-bit value where there is one
};
// Of the table's bytes, `count` entries; `used` receives its length. Errc::out_of_range where `table` ends
// too early (more of the file may help). An entry's L1 table is not looked at: check_table() is for that.
Result<std::vector<Snapshot>> decode_snapshots(std::span<const std::byte> table, uint32_t count,
                                               uint64_t& used);
std::vector<std::byte> encode_snapshots(std::span<const Snapshot>);

inline uint64_t load_be64(const std::byte* at) {
  uint64_t value = 0;
  std::memcpy(&value, at, sizeof(value));
  return be64toh(value);
}
inline uint32_t load_be32(const std::byte* at) {
  uint32_t value = 0;
  std::memcpy(&value, at, sizeof(value));
  return be32toh(value);
}
inline void store_be32(std::byte* at, uint32_t value) {
  for (int i = 3; i >= 0; --i, value >>= 8) at[i] = static_cast<std::byte>(value);
}
inline void store_be64(std::byte* at, uint64_t value) {
  for (int i = 7; i >= 0; --i, value >>= 8) at[i] = static_cast<std::byte>(value);
}

}  // namespace minivmm::qcow2
