#include "virtio/device/blk_request.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

namespace minivmm::blk {

namespace {

using Parsed = std::expected<BlockRequest, Answer>;

std::unexpected<Answer> answer(Status status) {
  return std::unexpected(Answer{status});
}

template <class T>
Result<T> read(const Chain& chain, uint64_t offset) {
  T out;
  if (auto r = chain.read(offset, std::as_writable_bytes(std::span(&out, 1))); !r) {
    return std::unexpected(r.error());
  }
  return out;
}

// Sectors to bytes without overflow: `sectors` is at most 2^32 / 512 or a u32, so only the sum can be too
// large.
bool on_disk(uint64_t sector, uint64_t sectors, uint64_t capacity) {
  const uint64_t total = capacity / kSectorSize;
  return sector <= total && sectors <= total - sector;
}

Parsed parse_transfer(Chain& chain, const Header& header, const DiskFacts& disk, IoVec& pieces) {
  const bool write = header.type == kTypeOut;
  if (write && disk.read_only) return answer(Status::io_error);  // 5.2.6.2
  const uint64_t length =
      write ? chain.readable_bytes() - sizeof(Header) : chain.writable_bytes() - sizeof(Status);
  if (length % kSectorSize != 0 || !on_disk(header.sector, length / kSectorSize, disk.capacity)) {
    return answer(Status::io_error);
  }
  if (length == 0) return answer(Status::ok);
  const auto sliced = write ? chain.readable_slices(sizeof(Header), length, pieces)
                            : chain.writable_slices(0, length, pieces);
  if (!sliced) return answer(Status::io_error);
  return BlockRequest{.op = write ? BlockOp::write : BlockOp::read,
                      .offset = header.sector * kSectorSize,
                      .length = length,
                      .data = pieces};
}

Parsed parse_range(const Chain& chain, const Header& header, const DiskFacts& disk) {
  if (disk.read_only) return answer(Status::io_error);
  // We offer one segment a request (max_discard_seg, max_write_zeroes_seg).
  if (chain.readable_bytes() != sizeof(Header) + sizeof(Segment)) {
    return answer(Status::io_error);
  }
  const auto segment = read<Segment>(chain, sizeof(Header));
  if (!segment) return answer(Status::io_error);
  // 5.2.6.2: unknown flags, and unmap in a discard, are unsupported.
  const bool discard = header.type == kTypeDiscard;
  if ((segment->flags & ~(discard ? 0 : kSegmentUnmap)) != 0) return answer(Status::unsupported);
  if (segment->sectors > kMaxRangeSectors || !on_disk(segment->sector, segment->sectors, disk.capacity)) {
    return answer(Status::io_error);
  }
  if (segment->sectors == 0) return answer(Status::ok);
  return BlockRequest{.op = discard ? BlockOp::discard : BlockOp::write_zeroes,
                      .offset = segment->sector * kSectorSize,
                      .length = segment->sectors * kSectorSize,
                      .may_unmap = (segment->flags & kSegmentUnmap) != 0};
}

std::unexpected<Answer> answer_id(Chain& chain, const DiskFacts& disk) {
  std::array<std::byte, kIdBytes> id{};  // padded with NULs; none where it is 20 bytes long
  std::memcpy(id.data(), disk.serial.data(), std::min(disk.serial.size(), id.size()));
  const uint64_t room = std::min<uint64_t>(id.size(), chain.writable_bytes() - sizeof(Status));
  if (!chain.write(0, std::span(id).first(room))) return answer(Status::io_error);
  return std::unexpected(Answer{Status::ok, room});
}

}  // namespace

std::optional<uint64_t> status_offset(const Chain& chain) {
  if (chain.writable_bytes() == 0) return std::nullopt;
  return chain.writable_bytes() - sizeof(Status);
}

Parsed parse(Chain& chain, const DiskFacts& disk, IoVec& pieces) {
  const auto header = read<Header>(chain, 0);
  if (!header) return answer(Status::io_error);
  switch (header->type) {
    case kTypeIn:
    case kTypeOut: return parse_transfer(chain, *header, disk, pieces);
    case kTypeFlush: return BlockRequest{.op = BlockOp::flush};
    case kTypeDiscard:
    case kTypeWriteZeroes: return parse_range(chain, *header, disk);
    case kTypeGetId: return answer_id(chain, disk);
    default: return answer(Status::unsupported);
  }
}

}  // namespace minivmm::blk
