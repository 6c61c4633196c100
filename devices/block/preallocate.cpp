#include "devices/block/preallocate.h"

#include <algorithm>
#include <vector>

namespace minivmm {

namespace {

constexpr uint64_t kPiece = 1 << 20;

Task<Result<void>> write_out_zeroes(IoEngine& engine, BlockFile& file, uint64_t offset, uint64_t length,
                                    const std::function<void(uint64_t, uint64_t)>& progress) {
  std::vector<std::byte> zeroes(std::min(kPiece, length));
  for (uint64_t done = 0; done < length;) {
    const uint64_t bytes = std::min<uint64_t>(zeroes.size(), length - done);
    const iovec piece{zeroes.data(), bytes};
    const Result<void> good = co_await file.write(engine, offset + done, std::span(&piece, 1));
    if (!good) co_return good;
    done += bytes;
    if (progress) progress(done, length);
  }
  co_return Result<void>();
}

}  // namespace

Task<Result<void>> preallocate(IoEngine& engine, BlockFile& file, uint64_t offset, uint64_t length,
                               Preallocation how,
                               const std::function<void(uint64_t done, uint64_t total)>& progress) {
  if (!file.is_block_device() && file.size() < offset + length) {
    const Result<void> good = file.resize(offset + length);
    if (!good) co_return good;
  }
  if (length == 0) co_return Result<void>();
  if (how == Preallocation::full) co_return co_await write_out_zeroes(engine, file, offset, length, progress);
  if (how == Preallocation::falloc) co_return co_await file.write_zeroes(engine, offset, length, false);
  co_return Result<void>();
}

}  // namespace minivmm
