// Cuts a disk into pieces by what its extents say of it.
#pragma once

#include <cstdint>
#include <optional>

#include "devices/block/block_backend.h"

namespace minivmm {

enum class PieceKind : uint8_t {
  skip,  // nothing to be done
  zero,  // reads as zeroes
  data,  // has to be read
};

struct Piece {
  uint64_t offset = 0;  // bytes
  uint64_t length = 0;
  PieceKind kind = PieceKind::data;
};

struct CutOptions {
  uint64_t length = 0;                  // bytes of the disk that are walked; at most its capacity
  uint64_t align = kSectorSize;         // pieces begin at multiples of it, and end there or at `length`
  uint64_t step = uint64_t{512} << 10;  // bytes of a data piece at most; a multiple of align
  PieceKind (*classify)(const BlockExtent&) = nullptr;  // what is to be done with an extent
};

// Cuts one piece after another, in the disk's order. A piece of kind zero or skip has no extent of kind data
// in it; a data piece may hold any.
class PieceCutter {
 public:
  PieceCutter(BlockBackend& disk, const CutOptions& options) : disk_(disk), options_(options) {}
  Task<Result<std::optional<Piece>>> next(IoEngine&);  // empty: the end; one at a time

 private:
  Task<Result<Piece>> cut(IoEngine&);
  Task<Result<Piece>> look(IoEngine&, uint64_t offset);

  BlockBackend& disk_;
  CutOptions options_;
  uint64_t position_ = 0;
  std::optional<Piece> ahead_;  // what was seen beyond the last piece
};

}  // namespace minivmm
