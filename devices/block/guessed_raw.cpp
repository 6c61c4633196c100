#include "devices/block/guessed_raw.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "devices/block/image_format.h"

namespace minivmm {

Task<Result<void>> GuessedRaw::run(IoEngine& engine, BlockRequest request) {
  // Requests are whole sectors, so only one that begins at 0 touches the first; and zeroes are no format.
  if (request.op == BlockOp::write && request.offset == 0 && request.length != 0) {
    return write_first_sector(engine, request);
  }
  return below().run(engine, request);
}

// The sector is copied first: a guest may change its memory between our look at it and the write.
Task<Result<void>> GuessedRaw::write_first_sector(IoEngine& engine, BlockRequest request) {
  alignas(4096) std::array<std::byte, kSectorSize> sector;
  std::vector<iovec> pieces{{sector.data(), sector.size()}};
  size_t copied = 0;
  for (const iovec& piece : request.data) {
    const size_t taken = std::min(piece.iov_len, sector.size() - copied);
    std::memcpy(sector.data() + copied, piece.iov_base, taken);
    copied += taken;
    if (piece.iov_len > taken) {
      pieces.push_back({static_cast<std::byte*>(piece.iov_base) + taken, piece.iov_len - taken});
    }
  }
  if (probe_image_format(sector).probe != nullptr) {
    co_return fail(Errc::io,
                   "refused a first sector that would turn a disk whose format was guessed as raw into "
                   "another format; format=raw on the command line allows it");
  }
  request.data = pieces;
  co_return co_await below().run(engine, request);
}

}  // namespace minivmm
