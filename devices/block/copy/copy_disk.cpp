#include "devices/block/copy/copy_disk.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "devices/block/copy/cluster_compressor.h"
#include "devices/block/copy/zero.h"
#include "devices/block/qcow2/image.h"

namespace minivmm {

namespace {

constexpr uint64_t kStep = uint64_t{512} << 10;  // bytes read at once: within a CPU's own cache

Task<Result<void>> read(BlockBackend& disk, IoEngine& engine, uint64_t offset, std::span<std::byte> to) {
  const iovec piece{to.data(), to.size()};
  co_return co_await disk.run(
      engine, {.op = BlockOp::read, .offset = offset, .length = to.size(), .data = std::span(&piece, 1)});
}

Task<Result<void>> write(BlockBackend& disk, IoEngine& engine, uint64_t offset, std::span<std::byte> from) {
  const iovec piece{from.data(), from.size()};
  co_return co_await disk.run(
      engine, {.op = BlockOp::write, .offset = offset, .length = from.size(), .data = std::span(&piece, 1)});
}

Task<Result<void>> zero(BlockBackend& disk, IoEngine& engine, uint64_t offset, uint64_t length) {
  return disk.run(engine,
                  {.op = BlockOp::write_zeroes, .offset = offset, .length = length, .may_unmap = true});
}

// How long from the start of `bytes`, in units, it goes on being zero, or not being it.
size_t run_length(std::span<const std::byte> bytes, uint64_t unit, bool& zeroes) {
  const auto unit_at = [&](size_t at) {
    return bytes.subspan(at, std::min<size_t>(unit, bytes.size() - at));
  };
  zeroes = is_zero(unit_at(0));
  size_t length = unit_at(0).size();
  while (length < bytes.size() && is_zero(unit_at(length)) == zeroes) length += unit_at(length).size();
  return length;
}

PieceKind what_reads(const BlockExtent& extent) {
  const bool zeroes =
      extent.state == BlockExtent::State::zero || extent.state == BlockExtent::State::unallocated;
  return zeroes ? PieceKind::zero : PieceKind::data;
}

bool in_top_layer(const BlockExtent& extent) {
  return extent.depth == 0 && extent.state != BlockExtent::State::unallocated;
}

class Copy {
 public:
  Copy(BlockBackend& from, BlockBackend& to, const CopyOptions& options)
      : from_(from), to_(to), options_(options), step_(std::max(kStep, options.unit)) {
    if (!options.compress) return;
    const auto method = options.compress->image->header().compression;
    for (unsigned i = 0; i < sweep_threads(options.sweep); ++i) {
      compressors_.push_back(make_cluster_compressor(method, options.compress->level));
    }
  }

  Result<void> run(PieceKind (*classify)(const BlockExtent&)) {
    PieceCutter pieces(from_, {.length = from_.capacity(),
                               .align = std::max(options_.unit, kSectorSize),
                               .step = step_,
                               .classify = classify});
    return sweep(
        pieces, step_,
        [this](IoEngine& engine, unsigned thread, const Piece& piece, std::span<std::byte> buffer) {
          return copy(engine, thread, piece, buffer);
        },
        options_.sweep);
  }

 private:
  Task<Result<void>> copy(IoEngine& engine, unsigned thread, Piece piece, std::span<std::byte> buffer) {
    if (piece.kind == PieceKind::zero) {
      if (options_.target_is_zero) co_return Result<void>{};
      co_return co_await zero(to_, engine, piece.offset, piece.length);
    }
    const auto bytes = buffer.first(piece.length);
    auto result = co_await read(from_, engine, piece.offset, bytes);
    engine.flush();  // this thread may write for a while: the others' reads go on meanwhile
    for (size_t at = 0; result && at < bytes.size();) {
      bool zeroes = false;
      const size_t length = run_length(bytes.subspan(at), options_.unit, zeroes);
      if (!zeroes && !compressors_.empty()) {
        result =
            co_await compress(engine, *compressors_[thread], piece.offset + at, buffer.subspan(at), length);
      } else if (!zeroes) {
        result = co_await write(to_, engine, piece.offset + at, bytes.subspan(at, length));
      } else if (!options_.target_is_zero) {
        result = co_await zero(to_, engine, piece.offset + at, length);
      }
      at += length;
    }
    co_return result;
  }

  // `length` bytes, in clusters; the buffer goes on to the end of the last one.
  Task<Result<void>> compress(IoEngine& engine, ClusterCompressor& compressor, uint64_t offset,
                              std::span<std::byte> buffer, size_t length) {
    const size_t cluster_bytes = options_.unit;
    for (size_t at = 0; at < length; at += cluster_bytes) {
      const auto cluster = buffer.subspan(at, cluster_bytes);
      if (length - at < cluster_bytes) std::ranges::fill(cluster.subspan(length - at), std::byte{});
      const auto compressed = compressor.compress(cluster);
      // The compressor is this thread's, and its next user may come while the write waits.
      const std::vector<std::byte> kept(compressed.begin(), compressed.end());
      auto written = co_await options_.compress->image->write_compressed(
          engine, offset + at, cluster,
          kept.empty() ? std::span<const std::byte>(cluster) : std::span<const std::byte>(kept));
      if (!written) co_return written;
    }
    co_return Result<void>{};
  }

  BlockBackend& from_;
  BlockBackend& to_;
  const CopyOptions& options_;
  const uint64_t step_;
  std::vector<std::unique_ptr<ClusterCompressor>> compressors_;
};

class Difference {
 public:
  Difference(BlockBackend& overlay, BlockBackend* base, const CopyOptions& options)
      : overlay_(overlay), base_(base), options_(options), step_(std::max(kStep, options.unit)) {}

  Result<void> run() {
    PieceCutter pieces(overlay_, {.length = overlay_.capacity(),
                                  .align = std::max(options_.unit, kSectorSize),
                                  .step = step_,
                                  .classify = [](const BlockExtent& extent) {
                                    return in_top_layer(extent) ? PieceKind::skip : what_reads(extent);
                                  }});
    return sweep(
        pieces, 2 * step_,
        [this](IoEngine& engine, unsigned, const Piece& piece, std::span<std::byte> buffer) {
          return compare(engine, piece, buffer);
        },
        options_.sweep);
  }

 private:
  Task<Result<void>> compare(IoEngine& engine, Piece piece, std::span<std::byte> buffer) {
    uint64_t at = piece.offset;
    const uint64_t end = piece.offset + piece.length;
    while (at < end) {
      // Where both read as zeroes there is nothing to compare, however far that goes.
      uint64_t length = std::min(step_, end - at);
      if (piece.kind == PieceKind::zero) {
        const auto zeroes = co_await base_zeroes(engine, at, end - at);
        if (!zeroes) co_return std::unexpected(zeroes.error());
        const uint64_t whole = at + *zeroes == end ? *zeroes : *zeroes / options_.unit * options_.unit;
        if (whole != 0) {
          at += whole;
          continue;
        }
      }
      const auto shown = buffer.first(length);
      const auto would_be = buffer.subspan(step_, length);
      auto result = co_await read(overlay_, engine, at, shown);
      if (result) result = co_await read_base(engine, at, would_be);
      for (size_t unit = 0; result && unit < length; unit += options_.unit) {
        const size_t bytes = std::min<size_t>(options_.unit, length - unit);
        if (std::memcmp(shown.data() + unit, would_be.data() + unit, bytes) == 0) continue;
        result = co_await keep(engine, at + unit, shown.subspan(unit, bytes));
      }
      if (!result) co_return result;
      at += length;
    }
    co_return Result<void>{};
  }

  // How many bytes from `offset` read as zeroes in the base.
  Task<Result<uint64_t>> base_zeroes(IoEngine& engine, uint64_t offset, uint64_t length) {
    if (base_ == nullptr || offset >= base_->capacity()) co_return length;
    const auto extent = co_await base_->extent(engine, offset, std::min(length, base_->capacity() - offset));
    if (!extent) co_return std::unexpected(extent.error());
    co_return what_reads(*extent) == PieceKind::zero ? extent->length : 0;
  }

  Task<Result<void>> read_base(IoEngine& engine, uint64_t offset, std::span<std::byte> to) {
    const uint64_t there = base_ == nullptr || offset >= base_->capacity()
                               ? 0
                               : std::min<uint64_t>(to.size(), base_->capacity() - offset);
    std::ranges::fill(to.subspan(there), std::byte{});
    if (there == 0) co_return Result<void>{};
    co_return co_await read(*base_, engine, offset, to.first(there));
  }

  // Makes the overlay hold these bytes itself. Zeroes need not be stored, but they have to be said: a layer
  // that has nothing below it may think that they are there already.
  Task<Result<void>> keep(IoEngine& engine, uint64_t offset, std::span<std::byte> bytes) {
    if (is_zero(bytes)) {
      auto zeroed = co_await zero(overlay_, engine, offset, bytes.size());
      if (!zeroed) co_return zeroed;
      const auto extent = co_await overlay_.extent(engine, offset, bytes.size());
      if (!extent) co_return std::unexpected(extent.error());
      if (in_top_layer(*extent) && extent->length == bytes.size()) co_return zeroed;
    }
    co_return co_await write(overlay_, engine, offset, bytes);
  }

  BlockBackend& overlay_;
  BlockBackend* base_;
  const CopyOptions& options_;
  const uint64_t step_;
};

}  // namespace

Result<void> copy_disk(BlockBackend& from, BlockBackend& to, const CopyOptions& options) {
  return Copy(from, to, options).run(what_reads);
}

Result<void> copy_top_layer(BlockBackend& overlay, BlockBackend& base, const CopyOptions& options) {
  return Copy(overlay, base, options).run([](const BlockExtent& extent) {
    return in_top_layer(extent) ? what_reads(extent) : PieceKind::skip;
  });
}

Result<void> copy_difference(BlockBackend& overlay, BlockBackend* base, const CopyOptions& options) {
  return Difference(overlay, base, options).run();
}

}  // namespace minivmm
