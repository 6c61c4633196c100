// Opening an image: what its header says, its tables, and what must be settled before anything is written.

#include <fmt/format.h>

#include <algorithm>

#include "devices/block/qcow2/check.h"
#include "devices/block/qcow2/runtime.h"

namespace minivmm::qcow2 {

namespace {

constexpr uint64_t kFirstRead = 65536;  // bytes: the header's cluster, mostly
constexpr uint64_t kMostBlockCache = uint64_t{8} << 20;
constexpr uint64_t kMostOffset = uint64_t{1} << 55;  // a host offset has 56 bits; nobody has such files

using Bytes = std::vector<std::byte>;

Task<Result<Bytes>> read_bytes(IoEngine& engine, BlockFile& file, uint64_t offset, uint64_t length) {
  Bytes bytes(length);
  const iovec whole = piece(bytes.data(), bytes.size());
  const Result<void> read = co_await file.read(engine, offset, std::span(&whole, 1));
  if (!read) co_return std::unexpected(read.error());
  co_return bytes;
}

Task<Result<std::vector<uint64_t>>> read_table(IoEngine& engine, BlockFile& file, uint64_t offset,
                                               uint64_t entries) {
  std::vector<uint64_t> table(entries);
  if (entries == 0) co_return table;
  const Result<Bytes> bytes = co_await read_bytes(engine, file, offset, entries * 8);
  if (!bytes) co_return std::unexpected(bytes.error());
  for (uint64_t i = 0; i < entries; ++i) table[i] = load_be64(bytes->data() + i * 8);
  co_return table;
}

void add_bytes(MetadataSet& metadata, const Header& header, uint64_t offset, uint64_t bytes) {
  const uint64_t first = offset >> header.cluster_bits;
  const uint64_t end = (offset + bytes + header.cluster_size() - 1) >> header.cluster_bits;
  metadata.add_range(first, end - first);
}

// The snapshot table and the L1 tables it names; their L2 tables are counted like data, and shared with ours.
Task<Result<void>> add_snapshots(IoEngine& engine, BlockFile& file, const Header& header,
                                 MetadataSet& metadata) {
  if (header.snapshots == 0) co_return Result<void>{};
  const uint64_t room = file.size() - std::min(file.size(), header.snapshots_offset);
  const Result<Bytes> bytes =
      co_await read_bytes(engine, file, header.snapshots_offset, std::min(room, kMaxSnapshotTableBytes));
  if (!bytes) co_return std::unexpected(bytes.error());
  uint64_t used = 0;
  const auto snapshots = decode_snapshots(*bytes, header.snapshots, used);
  if (!snapshots) co_return fail(Errc::corrupt, "the snapshot table contradicts itself");
  add_bytes(metadata, header, header.snapshots_offset, used);
  for (const Snapshot& snapshot : *snapshots) {
    const Result<void> sound =
        check_table(header, file.size(), snapshot.l1_offset, uint64_t{snapshot.l1_size} * 8);
    if (!sound) co_return fail(Errc::corrupt, "a snapshot's L1 table lies where none can be");
    add_bytes(metadata, header, snapshot.l1_offset, uint64_t{snapshot.l1_size} * 8);
  }
  co_return Result<void>{};
}

// "Bitmaps extension": where their directory is.
void add_bitmap_directory(const Header& header, uint64_t file_bytes, MetadataSet& metadata) {
  const Extension* bitmaps = find_extension(header, kExtensionBitmaps);
  if (bitmaps == nullptr || bitmaps->data.size() < 24) return;
  const uint64_t bytes = load_be64(bitmaps->data.data() + 8);
  const uint64_t offset = load_be64(bitmaps->data.data() + 16);
  if (bytes > 0 && check_table(header, file_bytes, offset, bytes)) add_bytes(metadata, header, offset, bytes);
}

// False: metadata lies over metadata.
bool add_tables(const Header& header, uint64_t file_bytes, const std::vector<uint64_t>& entries,
                MetadataSet& metadata) {
  for (const uint64_t entry : entries) {
    const uint64_t offset = entry & kOffsetMask;
    // One that points nowhere is refused when it is used.
    if (offset == 0 || offset % header.cluster_size() != 0 || offset >= file_bytes) continue;
    metadata.add_table(offset >> header.cluster_bits);
  }
  return true;
}

// On a device, whose size says nothing: the clusters up to the last one that is counted.
Task<Result<uint64_t>> counted_end(IoEngine& engine, BlockFile& file, const Header& header,
                                   const std::vector<uint64_t>& table) {
  const uint64_t per_block = header.refcounts_per_block();
  for (uint64_t index = table.size(); index-- > 0;) {
    if (table[index] == 0 || table[index] >= file.size()) continue;
    const Result<Bytes> block = co_await read_bytes(engine, file, table[index], header.cluster_size());
    if (!block) co_return std::unexpected(block.error());
    for (uint64_t i = per_block; i-- > 0;)
      if (load_refcount(*block, header.refcount_order, i) != 0) co_return index* per_block + i + 1;
  }
  co_return uint64_t{1};
}

Error explained(const Error& error, std::string& why, std::string text = {}) {
  if (why.empty()) why = text.empty() ? error.what : std::move(text);
  return error;
}

}  // namespace

Task<Result<Header>> Runtime::read_header(IoEngine& engine, BlockFile& file,
                                          std::array<std::byte, kSectorSize>& sector, std::string& why) {
  Result<Bytes> first = co_await read_bytes(engine, file, 0, std::min(kFirstRead, file.size()));
  if (!first) co_return std::unexpected(explained(first.error(), why));
  if (first->size() >= kHeaderBytesV2) {
    const uint32_t bits = load_be32(first->data() + 20);
    if (bits > 16 && bits <= kMaxClusterBits && file.size() > kFirstRead) {
      first = co_await read_bytes(engine, file, 0, std::min(uint64_t{1} << bits, file.size()));
      if (!first) co_return std::unexpected(explained(first.error(), why));
    }
  }
  const Result<Header> header = decode_header(*first, file.size(), why);
  if (!header) co_return std::unexpected(explained(header.error(), why));
  sector.fill(std::byte{0});
  std::copy_n(first->begin(), std::min(first->size(), sector.size()), sector.begin());
  co_return *header;
}

// What has to be so before anything is written: Start's metadata and refcounts.
Task<Result<void>> Runtime::prepare_writing(IoEngine& engine, Start& start, std::string& why) {
  BlockFile& file = *start.file;
  Header& header = start.header;
  Result<std::vector<uint64_t>> refcounts =
      co_await read_table(engine, file, header.refcount_table_offset,
                          uint64_t{header.refcount_table_clusters} << (header.cluster_bits - 3));
  if (!refcounts) co_return std::unexpected(explained(refcounts.error(), why));

  start.metadata.add_range(0, 1);
  add_bytes(start.metadata, header, header.l1_offset, uint64_t{header.l1_size} * 8);
  add_bytes(start.metadata, header, header.refcount_table_offset, refcounts->size() * 8);
  add_bitmap_directory(header, file.size(), start.metadata);
  const Result<void> snapshots = co_await add_snapshots(engine, file, header, start.metadata);
  if (!snapshots) co_return std::unexpected(explained(snapshots.error(), why));
  add_tables(header, file.size(), start.l1, start.metadata);
  add_tables(header, file.size(), *refcounts, start.metadata);
  if (!start.metadata.settle())
    co_return std::unexpected(explained({Errc::corrupt, "two of its tables lie in the same place"}, why));

  // For what the file has, and what it gets when the whole disk is written.
  const uint64_t clusters = (file.size() + header.size) >> header.cluster_bits;
  const uint64_t blocks = clusters / header.refcounts_per_block() + 1;
  start.refcounts.table_offset = header.refcount_table_offset;
  start.refcounts.file_clusters = (file.size() + header.cluster_size() - 1) >> header.cluster_bits;
  start.refcounts.most_clusters = kMostOffset >> header.cluster_bits;
  start.refcounts.cache_bytes = TableCache::bytes_for(blocks, header.cluster_size(), kMostBlockCache);
  if (file.is_block_device()) {
    const Result<uint64_t> end = co_await counted_end(engine, file, header, *refcounts);
    if (!end) co_return std::unexpected(explained(end.error(), why));
    start.refcounts.file_clusters = *end;
    start.refcounts.most_clusters = file.size() >> header.cluster_bits;
    start.refcounts.fresh_end = false;
  }
  start.refcounts.table = std::move(*refcounts);
  co_return Result<void>{};
}

Task<Result<std::unique_ptr<Runtime>>> Runtime::open(IoEngine& engine, std::unique_ptr<BlockFile> file,
                                                     Options options, std::string& why) {
  Start start;
  start.file = std::move(file);
  start.options = std::move(options);
  const bool writing = !start.options.read_only;
  Result<Header> header = co_await read_header(engine, *start.file, start.first_sector, why);
  if (!header) co_return std::unexpected(header.error());
  if (header->has_data_file() != (start.options.data_file != nullptr)) {
    const Error error{Errc::invalid, header->has_data_file() ? "it needs its external data file"
                                                             : "it has no external data file"};
    co_return std::unexpected(explained(error, why));
  }
  if (writing && (header->incompatible & kIncompatCorrupt) != 0) {
    const Error error{Errc::corrupt, "it is marked as corrupt: repair it, or open it for reading only"};
    co_return std::unexpected(explained(error, why));
  }
  if (writing && (header->incompatible & kIncompatDirty) != 0) {
    const Result<void> rebuilt = co_await rebuild_refcounts(engine, *start.file, *header);
    if (!rebuilt) {
      co_return std::unexpected(explained(
          rebuilt.error(), why,
          fmt::format("it was not closed, and its refcounts cannot be rebuilt: {}", rebuilt.error().what)));
    }
    header = co_await read_header(engine, *start.file, start.first_sector, why);
    if (!header) co_return std::unexpected(header.error());
  }
  start.header = *header;
  Result<std::vector<uint64_t>> l1 =
      co_await read_table(engine, *start.file, header->l1_offset, header->l1_size);
  if (!l1) co_return std::unexpected(explained(l1.error(), why));
  start.l1 = std::move(*l1);
  if (writing) {
    const Result<void> ready = co_await prepare_writing(engine, start, why);
    if (!ready) co_return std::unexpected(ready.error());
  }
  std::unique_ptr<Runtime> runtime(new Runtime(std::move(start)));
  if (writing) {
    const Result<void> cleared = co_await runtime->clear_autoclear(engine);
    if (!cleared) co_return std::unexpected(explained(cleared.error(), why));
  }
  co_return runtime;
}

}  // namespace minivmm::qcow2
