#include "devices/block/copy/piece.h"

#include <algorithm>
#include <utility>

namespace minivmm {

Task<Result<std::optional<Piece>>> PieceCutter::next(IoEngine& engine) {
  if (position_ >= options_.length) co_return std::optional<Piece>{};
  const Result<Piece> piece = co_await cut(engine);
  if (!piece) co_return std::unexpected(piece.error());
  position_ += piece->length;
  co_return std::optional<Piece>{*piece};
}

// What is at `offset`, in whole multiples of the alignment; what is not of one kind for so long counts as
// data.
Task<Result<Piece>> PieceCutter::look(IoEngine& engine, uint64_t offset) {
  if (ahead_ && ahead_->offset <= offset && offset - ahead_->offset < ahead_->length) {
    const uint64_t passed = offset - ahead_->offset;
    co_return Piece{offset, ahead_->length - passed, ahead_->kind};
  }
  ahead_.reset();
  Piece piece{offset, 0, PieceKind::data};
  const uint64_t end = options_.length;
  do {  // neighbours of one kind are one
    const uint64_t at = offset + piece.length;
    const auto extent = co_await disk_.extent(engine, at, end - at);
    if (!extent) co_return std::unexpected(extent.error());
    const PieceKind kind = options_.classify(*extent);
    if (piece.length != 0 && kind != piece.kind) break;
    piece.kind = kind;
    piece.length += std::min(extent->length, end - at);
  } while (piece.length < options_.align && offset + piece.length < end);
  if (offset + piece.length < end) {
    const uint64_t whole = piece.length / options_.align * options_.align;
    if (whole == 0) piece.kind = PieceKind::data;
    piece.length = std::max(whole, options_.align);
    piece.length = std::min(piece.length, end - offset);
  }
  ahead_ = piece;
  co_return piece;
}

Task<Result<Piece>> PieceCutter::cut(IoEngine& engine) {
  Result<Piece> piece = co_await look(engine, position_);
  if (!piece || piece->kind != PieceKind::data) co_return piece;
  piece->length = std::min(piece->length, options_.step);
  while (piece->length < options_.step && position_ + piece->length < options_.length) {
    const auto more = co_await look(engine, position_ + piece->length);
    if (!more) co_return more;
    if (more->kind != PieceKind::data) break;
    piece->length = std::min(piece->length + more->length, options_.step);
  }
  co_return piece;
}

}  // namespace minivmm
