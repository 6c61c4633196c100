// Damaged and hostile qcow2 images: a sound image is patched as the input says (or is the input), opened, and
// read, written, zeroed, discarded, flushed, resized and closed. Nothing may crash, hang, or take much
// memory.
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "devices/block/qcow2/create.h"
#include "devices/block/qcow2/image.h"

namespace {

using minivmm::BlockFile;
using minivmm::BlockFileOptions;
using minivmm::BlockOp;
using minivmm::BlockRequest;
using minivmm::IoEngine;
using minivmm::UniqueFd;
using minivmm::qcow2::CreateOptions;
using minivmm::qcow2::Image;
using Bytes = std::vector<std::byte>;

constexpr uint64_t kSize = 256 << 10;    // of the disk
constexpr uint64_t kMostFile = 4 << 20;  // bytes of an image that is worth looking at
constexpr uint64_t kMostTransfer = 64 << 10;

class Input {
 public:
  explicit Input(std::span<const uint8_t> bytes) : bytes_(bytes) {}
  bool empty() const { return bytes_.empty(); }
  uint64_t take(size_t count) {
    uint64_t value = 0;
    for (; count > 0 && !bytes_.empty(); --count, bytes_ = bytes_.subspan(1)) value = value << 8 | bytes_[0];
    return value;
  }
  std::span<const uint8_t> rest() const { return bytes_; }

 private:
  std::span<const uint8_t> bytes_;
};

std::unique_ptr<BlockFile> memory_file(const Bytes& bytes) {
  UniqueFd fd(::memfd_create("fuzz", MFD_CLOEXEC));
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes.size())) != 0) std::abort();
  if (::pwrite(fd.get(), bytes.data(), bytes.size(), 0) < 0) std::abort();
  BlockFileOptions options;
  options.lock = false;
  return std::make_unique<BlockFile>(std::move(fd), "(fuzz)", options, bytes.size());
}

IoEngine& engine() {
  static const auto one = IoEngine::create(IoEngine::Kind::threads);
  return *one;
}

void transfer(Image& image, BlockOp op, uint64_t offset, uint64_t length) {
  static std::array<std::byte, kMostTransfer> buffer;
  const iovec piece{buffer.data(), length};
  BlockRequest request{.op = op, .offset = offset, .length = length};
  if (op == BlockOp::read || op == BlockOp::write) request.data = {&piece, 1};
  request.may_unmap = (offset & 1024) != 0;
  static_cast<void>(engine().run(image.run(engine(), request)));
}

Bytes make(const CreateOptions& options, unsigned kind) {
  auto file = memory_file({});
  BlockFile& made = *file;
  if (!engine().run(minivmm::qcow2::write_image(engine(), made, nullptr, options))) return {};
  Bytes bytes(made.size());
  if (::pread(made.fd(), bytes.data(), bytes.size(), 0) < 0) std::abort();
  std::string why;
  auto image = engine().run(Image::open(engine(), memory_file(bytes), {}, why));
  if (!image) std::abort();
  Image& disk = **image;
  transfer(disk, BlockOp::write, 0, kMostTransfer);
  transfer(disk, BlockOp::write_zeroes, 4096, 4096);
  const uint64_t cluster = disk.header().cluster_size();
  if (kind % 2 == 1 && disk.header().compression == minivmm::qcow2::Compression::zlib) {
    const Bytes zeroes(cluster);
    Bytes small(cluster);
    z_stream stream{};
    if (deflateInit2(&stream, 6, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY) != Z_OK) std::abort();
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(zeroes.data()));  // only read from
    stream.avail_in = static_cast<uInt>(cluster);
    stream.next_out = reinterpret_cast<Bytef*>(small.data());
    stream.avail_out = static_cast<uInt>(cluster);
    deflate(&stream, Z_FINISH);
    small.resize(stream.total_out);
    deflateEnd(&stream);
    for (uint64_t at = 0; at < 4 * cluster && at < kSize; at += cluster)
      static_cast<void>(engine().run(disk.write_compressed(engine(), at, zeroes, small)));
  }
  static_cast<void>(engine().run(disk.close(engine())));
  bytes.resize(disk.file().size());
  if (::pread(disk.file().fd(), bytes.data(), bytes.size(), 0) < 0) std::abort();
  return bytes;
}

// One of a few shapes, made once.
const Bytes& base(unsigned kind) {
  static std::map<unsigned, Bytes> made;
  auto& image = made[kind];
  if (!image.empty()) return image;
  CreateOptions options;
  options.size = kSize;
  options.cluster_size = uint64_t{512} << (kind % 4);
  options.refcount_bits = 1U << (kind / 4 % 7);
  if (kind / 32 % 4 == 1) {
    options.extended_l2 = true;
    options.cluster_size = 16384;
  } else if (kind / 32 % 4 == 2) {
    options.version = 2;
    options.refcount_bits = 16;
  } else if (kind / 32 % 4 == 3) {
    options.lazy_refcounts = true;
  }
  image = make(options, kind);
  if (image.empty()) std::abort();
  return image;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input({data, size});
  const auto kind = static_cast<unsigned>(input.take(1));
  const auto flags = static_cast<unsigned>(input.take(1));
  const auto operations = static_cast<unsigned>(input.take(1)) % 24;
  std::array<uint64_t, 24> script{};
  for (unsigned i = 0; i < operations; ++i) script[i] = input.take(4);
  Bytes bytes;
  if ((flags & 1) != 0) {
    const auto rest = std::as_bytes(input.rest());
    bytes.assign(rest.begin(), rest.end());
  } else {
    bytes = base(kind & 127);
    for (unsigned i = 0; i < 16 && !input.empty(); ++i) {  // patches of one entry
      const uint64_t at = input.take(3) % (bytes.size() / 8) * 8;
      const auto width = input.take(1) % 8 + 1;
      for (uint64_t j = 8 - width; j < 8; ++j) bytes[at + j] = static_cast<std::byte>(input.take(1));
    }
  }
  if (bytes.size() > kMostFile) return 0;
  std::string why;
  Image::Options options;
  options.read_only = (flags & 2) != 0;
  auto opened = engine().run(Image::open(engine(), memory_file(bytes), std::move(options), why));
  if (!opened) return why.empty() ? (std::abort(), 0) : 0;
  Image& image = **opened;
  const uint64_t sectors = image.capacity() / 512;
  for (unsigned i = 0; i < operations && sectors > 0; ++i) {
    const uint64_t word = script[i];
    const uint64_t length = std::min<uint64_t>((word >> 4 & 127) + 1, sectors) * 512;
    const uint64_t offset = (word >> 12) % (sectors - length / 512 + 1) * 512;
    switch (word & 15) {
      case 0:
      case 1:
      case 2:
      case 3: transfer(image, BlockOp::read, offset, length); break;
      case 4: transfer(image, BlockOp::flush, 0, 0); break;
      case 5: transfer(image, BlockOp::discard, offset, length); break;
      case 6: transfer(image, BlockOp::write_zeroes, offset, length); break;
      case 7:
        if (image.capacity() < 64 * kSize)
          static_cast<void>(engine().run(image.resize(engine(), offset + length)));
        if (image.capacity() < offset + length) return 0;
        break;
      case 8: static_cast<void>(engine().run(image.extent(engine(), offset, length))); break;
      default: transfer(image, BlockOp::write, offset, length);
    }
    if (image.capacity() / 512 != sectors) break;
  }
  static_cast<void>(engine().run(image.close(engine())));
  return 0;
}
