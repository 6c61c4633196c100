#include "devices/block/qcow2/create.h"

#include <algorithm>
#include <bit>

#include "devices/block/qcow2/metadata_io.h"

namespace minivmm::qcow2 {

namespace {

constexpr uint64_t kSector = 512;

uint64_t divide_up(uint64_t a, uint64_t b) {
  return a / b + (a % b != 0 ? 1 : 0);
}

// Where everything is, in clusters: the header, the refcount table, its blocks, the L1 table, and where
// clusters are preallocated, the L2 tables and the data.
struct Layout {
  uint64_t guest_clusters = 0;
  uint64_t table_clusters = 0, blocks = 0, l1_clusters = 0, l2_tables = 0, data_clusters = 0;

  uint64_t table() const { return 1; }
  uint64_t first_block() const { return table() + table_clusters; }
  uint64_t l1() const { return first_block() + blocks; }
  uint64_t first_l2() const { return l1() + l1_clusters; }
  uint64_t first_data() const { return first_l2() + l2_tables; }
  uint64_t total() const { return first_data() + data_clusters; }
};

bool preallocates(const CreateOptions& o) {
  return o.preallocation != Preallocation::off || o.data_file_raw;
}

Header make_header(const CreateOptions& o) {
  Header h;
  h.version = o.version;
  h.cluster_bits = static_cast<unsigned>(std::countr_zero(o.cluster_size));
  h.refcount_order = static_cast<unsigned>(std::countr_zero(o.refcount_bits));
  h.size = divide_up(o.size, kSector) * kSector;
  h.compression = o.compression;
  if (o.extended_l2) h.incompatible |= kIncompatExtendedL2;
  if (o.compression != Compression::zlib) h.incompatible |= kIncompatCompression;
  if (!o.data_file.empty()) h.incompatible |= kIncompatDataFile;
  if (o.data_file_raw) h.autoclear |= kAutoclearDataFileRaw;
  if (o.lazy_refcounts) h.compatible |= kCompatLazyRefcounts;
  h.header_bytes = o.version >= 3 ? kHeaderBytesV3 + 8 : kHeaderBytesV2;  // with the compression type
  h.backing_file = o.backing_file;
  set_extension(h, kExtensionBackingFormat, std::as_bytes(std::span(o.backing_format)));
  set_extension(h, kExtensionDataFile, std::as_bytes(std::span(o.data_file)));
  // Names for people: smaller clusters need their room for what may come, as with qemu-img.
  if (o.version >= 3 && o.cluster_size >= 4096) {
    set_extension(h, kExtensionFeatureNames, feature_name_table());
    if (!encode_header(h)) set_extension(h, kExtensionFeatureNames, {});
  }
  h.l1_size = static_cast<uint32_t>(h.l1_entries_needed());
  return h;
}

Layout lay_out(const Header& h, const CreateOptions& o) {
  Layout l;
  l.guest_clusters = divide_up(h.size, h.cluster_size());
  l.l1_clusters = divide_up(uint64_t{h.l1_size} * 8, h.cluster_size());
  if (preallocates(o)) {
    l.l2_tables = h.l1_size;
    l.data_clusters = h.has_data_file() ? 0 : l.guest_clusters;
  }
  for (l.table_clusters = 1;;) {  // the refcount structures count themselves
    const uint64_t blocks = divide_up(l.total(), h.refcounts_per_block());
    const uint64_t table = std::max<uint64_t>(1, divide_up(blocks * 8, h.cluster_size()));
    if (blocks == l.blocks && table == l.table_clusters) return l;
    l.blocks = blocks;
    l.table_clusters = table;
  }
}

const char* why_no_features(const CreateOptions& o) {
  const bool needs_version_3 = o.extended_l2 || o.lazy_refcounts || o.compression != Compression::zlib ||
                               !o.data_file.empty() || o.refcount_bits != 16;
  if (o.version != 2 && o.version != 3) return "there are versions 2 and 3 of qcow2 only";
  if (o.version == 2 && needs_version_3)
    return "version 2 has no extended L2 entries, lazy refcounts, zstd, external data files, nor refcounts "
           "of "
           "other than 16 bits";
  if (o.extended_l2 && o.cluster_size < 16384) return "extended L2 entries need clusters of 16 KiB or more";
  if (o.data_file_raw && o.data_file.empty()) return "a raw external data file needs an external data file";
  if (o.data_file_raw && !o.backing_file.empty())
    return "a raw external data file and a backing file exclude each other";
  if (o.backing_file.empty() != o.backing_format.empty())
    return "a backing file and its format are named together";
  if (o.preallocation != Preallocation::off && !o.backing_file.empty() && !o.extended_l2)
    return "preallocation would hide the backing file (extended L2 entries would not)";
  return nullptr;
}

// The refcount blocks: 1 for every cluster there is.
Task<Result<void>> write_refcounts(IoEngine& engine, BlockFile& file, const Header& h, const Layout& l) {
  std::vector<uint64_t> table(l.table_clusters * h.cluster_size() / 8);
  std::vector<std::byte> block(h.cluster_size());
  for (uint64_t i = 0; i < l.blocks; ++i) {
    table[i] = (l.first_block() + i) << h.cluster_bits;
    const uint64_t counted = l.total() - i * h.refcounts_per_block();  // from this block on
    for (uint64_t c = 0; c < h.refcounts_per_block(); ++c)
      store_refcount(block, h.refcount_order, c, c < counted ? 1 : 0);
    const Result<void> good = co_await write_bytes(engine, file, table[i], block);
    if (!good) co_return good;
  }
  co_return co_await write_numbers(engine, file, h.refcount_table_offset, table);
}

Task<Result<void>> write_mapping(IoEngine& engine, BlockFile& file, const Header& h, const Layout& l) {
  std::vector<uint64_t> l1(h.l1_size);
  std::vector<std::byte> l2(h.cluster_size());
  for (uint64_t i = 0; i < l.l2_tables; ++i) {
    const uint64_t offset = (l.first_l2() + i) << h.cluster_bits;
    l1[i] = offset | kCopied;
    for (uint64_t e = 0; e < h.l2_entries(); ++e) {
      const uint64_t cluster = i * h.l2_entries() + e;
      std::byte* at = l2.data() + e * h.l2_entry_bytes();
      const bool there = cluster < l.guest_clusters;
      const uint64_t host = h.has_data_file() ? cluster : l.first_data() + cluster;
      store_be64(at, there ? host << h.cluster_bits | kCopied : 0);
      // Over a backing file the subclusters have their place, and still show what is below.
      if (h.extended_l2()) store_be64(at + 8, there && h.backing_file.empty() ? 0xffffffff : 0);
    }
    const Result<void> good = co_await write_bytes(engine, file, offset, l2);
    if (!good) co_return good;
  }
  co_return co_await write_numbers(engine, file, h.l1_offset, l1);
}

// Where the preallocated clusters are.
Task<Result<void>> reserve(IoEngine& engine, BlockFile& file, uint64_t offset, uint64_t length,
                           const CreateOptions& o) {
  // A device does not read as zeroes before it was told to.
  const bool tell = file.is_block_device() && preallocates(o) && o.preallocation != Preallocation::full;
  const Preallocation how = tell ? Preallocation::falloc : o.preallocation;
  co_return co_await preallocate(engine, file, offset, length, how, o.progress);
}

}  // namespace

const char* why_not_create(const CreateOptions& o) {
  if (!std::has_single_bit(o.cluster_size) || o.cluster_size < (uint64_t{1} << kMinClusterBits) ||
      o.cluster_size > (uint64_t{1} << kMaxClusterBits))
    return "a cluster's size is a power of 2 from 512 to 2 MiB";
  if (!std::has_single_bit(o.refcount_bits) || o.refcount_bits > 64)
    return "a refcount's bits are a power of 2 from 1 to 64";
  if (const char* why = why_no_features(o)) return why;
  if (o.size > static_cast<uint64_t>(INT64_MAX) - kSector) return "the size is too large";
  const Header h = make_header(o);
  if (h.l1_entries_needed() > kMaxL1Bytes / 8) return "the size is too large for the cluster size";
  if (lay_out(h, o).table_clusters * h.cluster_size() > kMaxRefcountTableBytes)
    return "the size is too large to be preallocated with these clusters";
  if (!encode_header(h)) return "the names of the backing file and the data file are too long";
  return nullptr;
}

Task<Result<void>> write_image(IoEngine& engine, BlockFile& file, BlockFile* data_file,
                               const CreateOptions& o) {
  if (const char* why = why_not_create(o)) co_return fail(Errc::invalid, why);
  MV_CHECK((data_file != nullptr) == !o.data_file.empty());
  Header h = make_header(o);
  const Layout l = lay_out(h, o);
  h.refcount_table_offset = l.table() << h.cluster_bits;
  h.refcount_table_clusters = static_cast<uint32_t>(l.table_clusters);
  h.l1_offset = l.l1() << h.cluster_bits;  // also of no entries

  Result<void> good = co_await write_refcounts(engine, file, h, l);
  if (good) good = co_await write_mapping(engine, file, h, l);
  if (good)
    good = co_await reserve(engine, file, l.first_data() << h.cluster_bits, l.data_clusters << h.cluster_bits,
                            o);
  if (good && data_file) {
    good = co_await reserve(engine, *data_file, 0, h.size, o);
    if (good) good = co_await data_file->sync(engine);
  }
  if (good) good = co_await file.sync(engine);
  if (!good) co_return good;
  // Last, so that what was interrupted is no image.
  const auto header = encode_header(h);
  MV_CHECK(header.has_value());
  good = co_await write_bytes(engine, file, 0, *header);
  if (good) good = co_await file.sync(engine);
  co_return good;
}

}  // namespace minivmm::qcow2
