// Compressed clusters: reading them, and storing what was compressed elsewhere.

#include <zlib.h>
#include <zstd.h>

#include <algorithm>

#include "devices/block/qcow2/runtime.h"

namespace minivmm::qcow2 {

namespace {

constexpr int kRawDeflateWindow = -12;  // "Compressed Clusters Descriptor": no header, 4 KiB of history

bool inflate_into(std::span<const std::byte> from, std::span<std::byte> to) {
  z_stream stream{};
  if (inflateInit2(&stream, kRawDeflateWindow) != Z_OK) return false;
  // zlib takes no const; it does not write to its input.
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(from.data()));
  stream.avail_in = static_cast<uInt>(from.size());
  stream.next_out = reinterpret_cast<Bytef*>(to.data());
  stream.avail_out = static_cast<uInt>(to.size());
  const int end = inflate(&stream, Z_FINISH);
  const bool whole = (end == Z_STREAM_END || end == Z_BUF_ERROR) && stream.avail_out == 0;
  inflateEnd(&stream);
  return whole;
}

// The stored bytes may go on after the frame (to the sector's end), so that their length is not the frame's.
bool unzstd_into(std::span<const std::byte> from, std::span<std::byte> to) {
  const std::unique_ptr<ZSTD_DCtx, size_t (*)(ZSTD_DCtx*)> context(ZSTD_createDCtx(), ZSTD_freeDCtx);
  if (context == nullptr) return false;
  ZSTD_inBuffer in{from.data(), from.size(), 0};
  ZSTD_outBuffer out{to.data(), to.size(), 0};
  while (out.pos < out.size) {
    const size_t in_before = in.pos;
    const size_t out_before = out.pos;
    const size_t hint = ZSTD_decompressStream(context.get(), &out, &in);
    if (ZSTD_isError(hint) != 0) return false;
    if (in.pos == in_before && out.pos == out_before) return false;  // it ends too early
    if (hint == 0) break;                                            // one frame a cluster
  }
  return out.pos == out.size;
}

}  // namespace

Task<Result<void>> Runtime::decompress_cluster(IoEngine& engine, uint64_t word, std::span<std::byte> cluster,
                                               const StopFlag* stop) {
  CompressedRun run = decode_compressed(word, layout_.cluster_bits);
  const uint64_t file_bytes = file_->size();
  if (run.offset >= file_bytes)
    co_return fail(Errc::corrupt, "a compressed cluster lies past the end of the file");
  run.bytes = std::min(run.bytes, file_bytes - run.offset);
  std::vector<std::byte> stored(run.bytes);
  const iovec whole = piece(stored.data(), stored.size());
  const Result<void> read = co_await file_->read(engine, run.offset, std::span(&whole, 1), stop);
  if (!read) co_return read;
  const bool done =
      compression_ == Compression::zstd ? unzstd_into(stored, cluster) : inflate_into(stored, cluster);
  if (!done) co_return fail(Errc::corrupt, "a compressed cluster does not give a whole cluster");
  co_return Result<void>{};
}

Task<Result<void>> Runtime::read_compressed(IoEngine& engine, uint64_t word, uint64_t skip, uint64_t length,
                                            std::span<const iovec> pieces, const StopFlag* stop) {
  bool first = false;
  const DecompressedCache::Ptr cluster = decompressed_.get(word, first);
  if (first) {
    cluster->bytes.resize(layout_.cluster_size());
    // Others may wait for it, so that this one's stop does not end it.
    cluster->status = co_await decompress_cluster(engine, word, cluster->bytes, nullptr);
    decompressed_.done(cluster);
  } else {
    co_await cluster->ready.wait(engine);
  }
  if (stop != nullptr && stop->give_up()) co_return fail(Errc::closed, "the request was given up");
  if (cluster->status) copy_to(pieces, std::span(cluster->bytes).subspan(skip, length));
  co_return cluster->status;
}

// Room for so many bytes behind the last compressed cluster, or in new clusters; each one it touches is
// counted once more.
Attempt<CompressedRun> Runtime::allocate_compressed(uint64_t bytes) {
  const uint64_t cluster_size = layout_.cluster_size();
  const uint64_t used = layout_.in_cluster(compressed_tail_);
  const uint64_t left = used == 0 ? 0 : cluster_size - used;
  if (left > 0) {
    const uint64_t tail = compressed_tail_ >> layout_.cluster_bits;
    const auto count = refcounts_.count_of(tail);
    if (!count) return std::unexpected(count.error());
    if (*count > 0 && *count < refcounts_.max_count()) {
      HostRun next;
      if (bytes > left) {  // less than a cluster: one more is enough, if it is the next one
        const auto more = refcounts_.allocate(1);
        if (!more) return std::unexpected(more.error());
        next = *more;
      }
      if (bytes <= left || next.first == tail + 1) {
        const auto raised = refcounts_.raise(tail);
        if (!raised) return std::unexpected(raised.error());
        const CompressedRun run{compressed_tail_, bytes};
        compressed_tail_ += bytes;
        return run;
      }
      compressed_tail_ = (next.first << layout_.cluster_bits) + bytes;
      return CompressedRun{next.first << layout_.cluster_bits, bytes};
    }
  }
  const auto cluster = refcounts_.allocate(1);
  if (!cluster) return std::unexpected(cluster.error());
  const CompressedRun run{cluster->first << layout_.cluster_bits, bytes};
  compressed_tail_ = run.offset + bytes;
  return run;
}

Task<Result<void>> Runtime::write_compressed(IoEngine& engine, uint64_t guest,
                                             std::span<const std::byte> cluster,
                                             std::span<const std::byte> compressed) {
  if (layout_.data_file)
    co_return fail(Errc::unsupported, "an image with an external data file has no compressed clusters");
  const uint64_t size = layout_.cluster_size();
  if (layout_.in_cluster(guest) != 0 || guest >= capacity() || cluster.size() != size)
    co_return fail(Errc::out_of_range, "a compressed write is of one whole cluster of the image");
  Result<void> ready = co_await make_room(engine);
  if (!ready) co_return ready;
  ready = co_await mark_in_use(engine);
  if (!ready) co_return ready;
  ClusterLock::Hold hold(locks_);
  co_await hold.take(engine, guest >> layout_.cluster_bits, guest >> layout_.cluster_bits,
                     ClusterLock::Mode::exclusive);
  if (compressed.empty() || compressed.size() >= size) {
    const iovec whole = piece(const_cast<std::byte*>(cluster.data()), size);  // only read from
    co_return co_await write_mapped(engine, guest, size, std::span(&whole, 1), nullptr);
  }
  // The table first, so that nothing can fail once the space is taken.
  TablePtr table;
  const uint64_t bytes = compressed.size();
  auto place = [this, guest, bytes, &table]() -> Attempt<CompressedRun> {
    const auto own = writable_table(guest);
    if (!own) return std::unexpected(own.error());
    table = tables_.get((*own)->offset);
    return allocate_compressed(bytes);
  };
  const Result<CompressedRun> run = co_await attempt_change<CompressedRun>(engine, place);
  if (!run) co_return std::unexpected(run.error());
  Result<void> written = cover_with_file(layout_.cluster_ceil(run->offset + bytes));
  if (written) {
    const iovec whole = piece(const_cast<std::byte*>(compressed.data()), bytes);  // only read from
    written = co_await file_->write(engine, run->offset, std::span(&whole, 1));
  }
  if (!written) {
    const uint64_t first = run->offset >> layout_.cluster_bits;
    const uint64_t last = (run->offset + bytes - 1) >> layout_.cluster_bits;
    {
      const std::scoped_lock guard(mutex_);
      compressed_tail_ = 0;  // nobody adds to a cluster that may be free soon
    }
    co_await give_back(engine, {first, last - first + 1, false});
    co_return written;
  }
  const std::scoped_lock guard(mutex_);
  release(load_entry(layout_, table->bytes, layout_.l2_index(guest)), false);
  Entry entry;
  entry.word = encode_compressed(*run, layout_.cluster_bits);
  decompressed_.forget(entry.word);
  set_entry(*table, guest, entry);
  co_return Result<void>{};
}

}  // namespace minivmm::qcow2
