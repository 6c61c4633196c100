#include "devices/block/qcow2/metadata_io.h"

#include <algorithm>

namespace minivmm::qcow2 {

Task<Result<void>> read_bytes(IoEngine& engine, BlockFile& file, uint64_t offset, std::span<std::byte> out) {
  const iovec piece{out.data(), out.size()};
  co_return co_await file.read(engine, offset, std::span(&piece, 1));
}

Task<Result<void>> write_bytes(IoEngine& engine, BlockFile& file, uint64_t offset,
                               std::span<const std::byte> bytes) {
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-const-cast): an iovec has no const form; a write only reads
  const iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
  co_return co_await file.write(engine, offset, std::span(&piece, 1));
}

Task<Result<Header>> read_header(IoEngine& engine, BlockFile& file, std::string& why, ForRepair for_repair) {
  const uint64_t file_bytes = file.size();
  std::vector<std::byte> first(std::min<uint64_t>(file_bytes, 64 << 10));
  Result<void> good = co_await read_bytes(engine, file, 0, first);
  // Larger clusters may have extensions, or the backing file's name, behind that.
  if (good && first.size() >= kHeaderBytesV2) {
    const uint32_t cluster_bits = load_be32(first.data() + 20);
    if (cluster_bits > 16 && cluster_bits <= kMaxClusterBits) {
      first.resize(std::min<uint64_t>(file_bytes, uint64_t{1} << cluster_bits));
      good = co_await read_bytes(engine, file, 0, first);
    }
  }
  if (!good) {
    why = "the header cannot be read";
    co_return std::unexpected(good.error());
  }
  co_return decode_header(first, file_bytes, why, for_repair);
}

Task<Result<std::vector<uint64_t>>> read_numbers(IoEngine& engine, BlockFile& file, uint64_t offset,
                                                 uint64_t entries) {
  std::vector<uint64_t> numbers(entries);
  const auto bytes = std::as_writable_bytes(std::span(numbers));
  if (!bytes.empty()) {
    const Result<void> good = co_await read_bytes(engine, file, offset, bytes);
    if (!good) co_return std::unexpected(good.error());
  }
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = load_be64(bytes.data() + i * 8);
  co_return numbers;
}

Task<Result<void>> write_numbers(IoEngine& engine, BlockFile& file, uint64_t offset,
                                 std::span<const uint64_t> numbers) {
  std::vector<std::byte> bytes(numbers.size() * 8);
  for (size_t i = 0; i < numbers.size(); ++i) store_be64(bytes.data() + i * 8, numbers[i]);
  co_return co_await write_bytes(engine, file, offset, bytes);
}

Task<Result<std::vector<Snapshot>>> read_snapshots(IoEngine& engine, BlockFile& file, const Header& header,
                                                   uint64_t& used) {
  used = 0;
  if (header.snapshots == 0) co_return std::vector<Snapshot>();
  const uint64_t there = std::min(file.size() - header.snapshots_offset, kMaxSnapshotTableBytes);
  // Its length is known only once it was decoded.
  for (uint64_t bytes = std::min<uint64_t>(there, 64 << 10);; bytes = std::min(there, bytes * 4)) {
    std::vector<std::byte> table(bytes);
    const Result<void> good = co_await read_bytes(engine, file, header.snapshots_offset, table);
    if (!good) co_return std::unexpected(good.error());
    auto snapshots = decode_snapshots(table, header.snapshots, used);
    if (snapshots || snapshots.error().code != Errc::out_of_range) co_return snapshots;
    if (bytes == there) co_return fail(Errc::corrupt, "the snapshot table reaches past the end of the file");
  }
}

}  // namespace minivmm::qcow2
