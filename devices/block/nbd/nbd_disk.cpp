#include "devices/block/nbd/nbd_disk.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "vmm/core/error.h"

namespace minivmm {

using nbd::Command;

namespace {

constexpr uint64_t kMaxTransfer = uint64_t{1} << 20;  // bytes of one read or write
constexpr uint64_t kMaxRange = uint64_t{1} << 30;     // bytes of one command without data: NBD's are 32 bits
constexpr uint32_t kMaxBlockSize = 65536;

[[noreturn]] void cannot_use(const std::string& name, const std::string& why) {
  throw HostError(EIO, fmt::format("cannot use the disk {}: {}", name, why));
}

void check_size(const nbd::Connection& connection, const std::string& name) {
  if (connection.info().size < kSectorSize) {
    cannot_use(name,
               fmt::format("it has {} bytes, and a sector has {}", connection.info().size, kSectorSize));
  }
}

// Copies between the pieces of a request, from `skip` bytes on, and a command's buffer.
template <class Copy>
void each_piece(std::span<const iovec> pieces, uint64_t skip, uint64_t length, const Copy& copy) {
  uint64_t done = 0;
  for (const iovec& piece : pieces) {
    if (skip >= piece.iov_len) {
      skip -= piece.iov_len;
      continue;
    }
    const uint64_t taken = std::min<uint64_t>(piece.iov_len - skip, length - done);
    copy(static_cast<std::byte*>(piece.iov_base) + skip, done, taken);
    skip = 0;
    done += taken;
    if (done == length) return;
  }
}

std::shared_ptr<Command> command(Command::Kind kind, uint64_t offset, uint64_t length, const StopFlag* stop) {
  auto out = std::make_shared<Command>();
  out->kind = kind;
  out->offset = offset;
  out->length = length;
  out->stop = stop;
  // Not initialised where it is written to: of a read, libnbd clears it first, so that a server which leaves
  // parts out does not show the guest what was there.
  if (kind == Command::Kind::read || kind == Command::Kind::write) {
    out->data = std::make_unique_for_overwrite<std::byte[]>(length);
  }
  return out;
}

}  // namespace

std::unique_ptr<NbdDisk> NbdDisk::connect(const std::string& uri, const Options& options) {
  auto library = nbd::load_library();
  nbd::ClientOptions client{.endpoint = {.uri = uri, .uri_may_name_files = options.uri_may_name_files},
                            .reconnect_delay = options.reconnect_delay,
                            .patience = options.patience};
  std::string why;
  auto connection = nbd::Connection::open(library, client.endpoint, nbd::Clock::now() + options.connect_limit,
                                          nullptr, why);
  if (!connection) cannot_use(uri, why);
  check_size(*connection, uri);
  return std::unique_ptr<NbdDisk>(
      new NbdDisk(std::move(library), std::move(connection), std::move(client), options.read_only));
}

std::unique_ptr<NbdDisk> NbdDisk::connect(UniqueFd socket, const std::string& name, const Options& options) {
  auto library = nbd::load_library();
  std::string why;
  auto connection =
      nbd::Connection::open(library, std::move(socket), nbd::Clock::now() + options.connect_limit, why);
  if (!connection) cannot_use(name, why);
  check_size(*connection, name);
  return std::unique_ptr<NbdDisk>(new NbdDisk(std::move(library), std::move(connection),
                                              {.endpoint = {}, .patience = options.patience},
                                              options.read_only));
}

NbdDisk::NbdDisk(std::shared_ptr<const nbd::Library> library, std::unique_ptr<nbd::Connection> connection,
                 nbd::ClientOptions options, bool read_only)
    : client_(std::move(library), std::move(connection), std::move(options)),
      capacity_(client_.info().size / kSectorSize * kSectorSize),
      read_only_(read_only || client_.info().read_only) {}

BlockGeometry NbdDisk::geometry() const {
  BlockGeometry geometry;
  geometry.logical_block = std::max<uint32_t>(client_.info().minimum_block, kSectorSize);
  const uint32_t preferred = client_.info().preferred_block;
  if (std::has_single_bit(preferred) && preferred <= kMaxBlockSize) geometry.physical_block = preferred;
  geometry.physical_block = std::max(geometry.physical_block, geometry.logical_block);
  return geometry;
}

bool NbdDisk::aligned(const BlockRequest& request) const {
  return (request.offset | request.length) % client_.info().minimum_block == 0;
}

Task<Result<void>> NbdDisk::run(IoEngine& engine, BlockRequest request) {
  const bool changes = request.op != BlockOp::read && request.op != BlockOp::flush;
  if (changes && read_only_) co_return fail(Errc::unsupported, "the NBD export is read-only");
  switch (request.op) {
    case BlockOp::read: co_return co_await read(engine, request);
    case BlockOp::write: co_return co_await write(engine, request);
    case BlockOp::flush: co_return co_await flush(engine, request.stop);
    case BlockOp::discard:
      if (!client_.info().can_trim) co_return Result<void>{};
      co_return co_await clear(engine, request, Command::Kind::trim);
    case BlockOp::write_zeroes: co_return co_await write_zeroes(engine, request);
  }
  co_return fail(Errc::unsupported, "no such operation");
}

// Whole blocks are read, whatever part of them is wanted.
Task<Result<void>> NbdDisk::read(IoEngine& engine, BlockRequest request) {
  const uint64_t block = client_.info().minimum_block;
  const uint64_t most = std::min<uint64_t>(kMaxTransfer, client_.info().maximum_payload);
  for (uint64_t done = 0; done < request.length;) {
    const uint64_t offset = request.offset + done;
    const uint64_t skip = offset % block;
    const uint64_t taken = std::min(request.length - done, most - skip);
    const uint64_t end = std::min((offset + taken + block - 1) / block * block, client_.info().size);
    const auto cmd = command(Command::Kind::read, offset - skip, end - (offset - skip), request.stop);
    if (const auto got = co_await client_.run(engine, cmd); !got) co_return got;
    each_piece(request.data, done, taken, [&](std::byte* to, uint64_t at, uint64_t count) {
      std::memcpy(to, cmd->data.get() + skip + at, count);
    });
    done += taken;
  }
  co_return Result<void>{};
}

Task<Result<void>> NbdDisk::write(IoEngine& engine, BlockRequest request) {
  if (!aligned(request)) co_return fail(Errc::invalid, "a write of part of the NBD export's block");
  const uint64_t most = std::min<uint64_t>(kMaxTransfer, client_.info().maximum_payload);
  for (uint64_t done = 0; done < request.length;) {
    const uint64_t taken =
        std::min(request.length - done, most / client_.info().minimum_block * client_.info().minimum_block);
    const auto cmd = command(Command::Kind::write, request.offset + done, taken, request.stop);
    if (request.data.empty()) {
      std::memset(cmd->data.get(), 0, taken);
    } else {
      each_piece(request.data, done, taken, [&](const std::byte* from, uint64_t at, uint64_t count) {
        std::memcpy(cmd->data.get() + at, from, count);
      });
    }
    if (const auto put = co_await client_.run(engine, cmd); !put) co_return put;
    done += taken;
  }
  co_return Result<void>{};
}

Task<Result<void>> NbdDisk::write_zeroes(IoEngine& engine, BlockRequest request) {
  request.data = {};
  if (!client_.info().can_zero || !aligned(request)) co_return co_await write(engine, request);
  const auto done = co_await clear(engine, request, Command::Kind::zero);
  if (done || done.error().code != Errc::unsupported) co_return done;
  co_return co_await write(engine, request);
}

// Trims or zeroes the whole blocks of a range.
Task<Result<void>> NbdDisk::clear(IoEngine& engine, BlockRequest request, Command::Kind kind) {
  const uint64_t block = client_.info().minimum_block;
  uint64_t offset = (request.offset + block - 1) / block * block;
  const uint64_t end = (request.offset + request.length) / block * block;
  while (offset < end) {
    const uint64_t taken = std::min(end - offset, kMaxRange);
    const auto cmd = command(kind, offset, taken, request.stop);
    cmd->keep_space = kind == Command::Kind::zero && !request.may_unmap;
    if (const auto done = co_await client_.run(engine, cmd); !done) co_return done;
    offset += taken;
  }
  co_return Result<void>{};
}

Task<Result<void>> NbdDisk::flush(IoEngine& engine, const StopFlag* stop) {
  if (read_only_) co_return Result<void>{};
  co_return co_await client_.run(engine, command(Command::Kind::flush, 0, 0, stop));
}

std::optional<nbd::Extent> NbdDisk::known_extent(uint64_t offset) {
  const std::scoped_lock lock(mutex_);
  if (offset < map_offset_) return std::nullopt;
  uint64_t skip = offset - map_offset_;
  for (const nbd::Extent& extent : map_) {
    if (skip < extent.length) return nbd::Extent{extent.length - skip, extent.flags};
    skip -= extent.length;
  }
  return std::nullopt;
}

Task<Result<BlockExtent>> NbdDisk::extent(IoEngine& engine, uint64_t offset, uint64_t length) {
  if (offset >= capacity_ || length == 0)
    co_return fail(Errc::out_of_range, "an extent past the end of the disk");
  length = std::min(length, capacity_ - offset);
  if (!client_.info().can_map) co_return BlockExtent{.length = length};
  auto known = read_only_ ? known_extent(offset) : std::nullopt;
  if (!known) {
    const uint64_t block = client_.info().minimum_block;
    const uint64_t first = offset / block * block;
    const uint64_t end =
        std::min((offset + std::min(length, kMaxRange) + block - 1) / block * block, client_.info().size);
    const auto cmd = command(Command::Kind::map, first, end - first, nullptr);
    cmd->one_extent = !read_only_;
    if (const auto done = co_await client_.run(engine, cmd); !done) co_return std::unexpected(done.error());
    if (cmd->extents.empty() || cmd->extents.front().length <= offset - first) {
      co_return fail(Errc::io, "the NBD server's answer makes no sense");
    }
    known = {cmd->extents.front().length - (offset - first), cmd->extents.front().flags};
    if (read_only_) {
      const std::scoped_lock lock(mutex_);
      map_offset_ = first;
      map_ = std::move(cmd->extents);
    }
  }
  BlockExtent extent{.length = std::min(length, known->length / kSectorSize * kSectorSize)};
  if (extent.length == 0) co_return BlockExtent{.length = kSectorSize};  // a part of a sector: call it data
  if ((known->flags & LIBNBD_STATE_ZERO) != 0) extent.state = BlockExtent::State::zero;
  co_return extent;
}

Task<Result<void>> NbdDisk::resize(IoEngine& /*engine*/, uint64_t /*capacity_bytes*/) {
  co_return fail(Errc::unsupported, "the size of an NBD disk is its server's");
}

Task<Result<void>> NbdDisk::close(IoEngine& engine) {
  co_return co_await flush(engine, nullptr);
}

}  // namespace minivmm
