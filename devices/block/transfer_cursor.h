// Walks a transfer's pieces by what each system call moved.
#pragma once

#include <limits.h>
#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <vector>

namespace minivmm {

class TransferCursor {
 public:
  // One system call moves no more than this, so that a stop is noticed between two of them.
  static constexpr uint64_t kMaxTransfer = uint64_t{16} << 20;
  static constexpr size_t kMaxPieces = IOV_MAX;

  explicit TransferCursor(std::span<const iovec> pieces) : pieces_(pieces) {
    for (const iovec& piece : pieces) left_ += piece.iov_len;
  }

  uint64_t left() const { return left_; }  // bytes
  uint64_t done() const { return done_; }

  // The next pieces, at most kMaxTransfer bytes; valid until the next call. The scratch space is used only
  // where a piece has to be cut.
  std::span<const iovec> next() {
    uint64_t bytes = 0;
    size_t count = 0;
    bool cut = skip_ != 0;
    while (count < pieces_.size() && count < kMaxPieces && bytes < kMaxTransfer) {
      bytes += pieces_[count].iov_len - (count == 0 ? skip_ : 0);
      ++count;
    }
    if (bytes > kMaxTransfer) cut = true;
    if (!cut) return pieces_.first(count);
    scratch_.assign(pieces_.begin(), pieces_.begin() + static_cast<std::ptrdiff_t>(count));
    scratch_[0].iov_base = static_cast<std::byte*>(scratch_[0].iov_base) + skip_;
    scratch_[0].iov_len -= skip_;
    if (bytes > kMaxTransfer) scratch_.back().iov_len -= bytes - kMaxTransfer;
    return scratch_;
  }

  void advance(uint64_t moved) {
    left_ -= moved;
    done_ += moved;
    skip_ += moved;
    while (!pieces_.empty() && skip_ >= pieces_.front().iov_len) {
      skip_ -= pieces_.front().iov_len;
      pieces_ = pieces_.subspan(1);
    }
  }

 private:
  std::span<const iovec> pieces_;
  uint64_t left_ = 0;
  uint64_t done_ = 0;
  uint64_t skip_ = 0;  // bytes of the first piece that are done
  std::vector<iovec> scratch_;
};

}  // namespace minivmm
