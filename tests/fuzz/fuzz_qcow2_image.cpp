// Damaged and hostile qcow2 images: a sound image is patched as the input says (or is the input), opened, and
// read, written, zeroed, discarded, flushed, resized, given another backing file's name, closed and opened
// again. Nothing may crash, hang, or take much memory; and an image that was not patched holds what was
// written to it, and is sound in the end.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "devices/block/qcow2/check.h"
#include "devices/block/qcow2/create.h"
#include "devices/block/qcow2/image.h"
#include "vmm/core/error.h"

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

// One input's image at work.
class Session {
 public:
  // `sound`: what is read and left behind is checked.
  Session(const Bytes& bytes, bool read_only, bool sound)
      : file_(memory_file(bytes)), read_only_(read_only), sound_(sound) {}

  // False: it was refused.
  bool open() {
    UniqueFd fd(::fcntl(file_->fd(), F_DUPFD_CLOEXEC, 0));
    BlockFileOptions options;
    options.lock = false;
    options.read_only = read_only_;
    const auto size = static_cast<uint64_t>(::lseek(fd.get(), 0, SEEK_END));
    auto file = std::make_unique<BlockFile>(std::move(fd), "(fuzz)", options, size);
    Image::Options with;
    with.read_only = read_only_;
    std::string why;
    auto opened = engine().run(Image::open(engine(), std::move(file), std::move(with), why));
    MV_CHECK(opened || !why.empty());
    MV_CHECK(opened || !sound_);
    if (!opened) return false;
    image_ = std::move(*opened);
    if (!sound_) return true;
    const Bytes now = read(0, image_->capacity());
    MV_CHECK(model_.empty() || now == model_);
    model_ = now;
    return true;
  }

  // False: the image cannot go on.
  bool step(uint64_t word) {
    const uint64_t sectors = image_->capacity() / 512;
    if (sectors == 0) return false;
    const uint64_t length = std::min<uint64_t>((word >> 4 & 127) + 1, sectors) * 512;
    const uint64_t offset = (word >> 12) % (sectors - length / 512 + 1) * 512;
    switch (word & 15) {
      case 0:
      case 1:
      case 2: look(offset, length); break;
      case 3: transfer(*image_, BlockOp::flush, 0, 0); break;
      case 4:
        transfer(*image_, BlockOp::discard, offset, length);
        take_over(offset, length);  // any contents are good
        break;
      case 5:
        transfer(*image_, BlockOp::write_zeroes, offset, length);
        fill(offset, length, std::byte{0});
        break;
      case 6: resize(offset + length); break;
      case 7: static_cast<void>(engine().run(image_->extent(engine(), offset, length))); break;
      case 8: return close() && open();
      case 9:  // killed
        transfer(*image_, BlockOp::flush, 0, 0);
        image_.reset();
        return open();
      case 10:
        static_cast<void>(engine().run(image_->set_backing(engine(), std::string(word >> 12 & 1023, 'b'),
                                                           (word & 16) != 0 ? "raw" : "")));
        break;
      default: write(offset, length, static_cast<std::byte>(++writes_));
    }
    return true;
  }

  bool close() {
    const auto closed = engine().run(image_->close(engine()));
    MV_CHECK(closed || !sound_);
    image_.reset();
    if (!sound_) return true;
    std::string why;
    const auto found = engine().run(minivmm::qcow2::check_image(engine(), *file_at_end(), {}, why));
    MV_CHECK(found && found->corruptions == 0);
    return true;
  }

 private:
  std::unique_ptr<BlockFile> file_at_end() const {
    BlockFileOptions options;
    options.lock = false;
    options.read_only = true;
    return std::make_unique<BlockFile>(UniqueFd(::fcntl(file_->fd(), F_DUPFD_CLOEXEC, 0)), "(fuzz)", options,
                                       static_cast<uint64_t>(::lseek(file_->fd(), 0, SEEK_END)));
  }
  Bytes read(uint64_t offset, uint64_t length) const {
    Bytes bytes(length);
    const iovec piece{bytes.data(), length};
    const BlockRequest request{.op = BlockOp::read, .offset = offset, .length = length, .data = {&piece, 1}};
    const auto done = engine().run(image_->run(engine(), request));
    MV_CHECK(done || !sound_);
    return bytes;
  }
  void look(uint64_t offset, uint64_t length) const {
    const Bytes bytes = read(offset, length);
    MV_CHECK(!sound_ || std::ranges::equal(bytes, std::span(model_).subspan(offset, length)));
  }
  void take_over(uint64_t offset, uint64_t length) {
    if (sound_) std::ranges::copy(read(offset, length), std::span(model_).subspan(offset, length).begin());
  }
  void fill(uint64_t offset, uint64_t length, std::byte with) {
    if (sound_ && !read_only_) std::ranges::fill(std::span(model_).subspan(offset, length), with);
  }
  void write(uint64_t offset, uint64_t length, std::byte with) {
    Bytes bytes(length, with);
    const iovec piece{bytes.data(), length};
    const BlockRequest request{.op = BlockOp::write, .offset = offset, .length = length, .data = {&piece, 1}};
    const auto done = engine().run(image_->run(engine(), request));
    MV_CHECK(done || !sound_ || read_only_);
    fill(offset, length, with);
  }
  void resize(uint64_t bytes) {
    if (image_->capacity() >= 64 * kSize) return;
    const auto done = engine().run(image_->resize(engine(), bytes));
    MV_CHECK(done || !sound_ || read_only_);
    if (done && sound_) model_.resize(bytes);
  }

  std::unique_ptr<BlockFile> file_;  // the same file each time
  bool read_only_;
  bool sound_;
  std::unique_ptr<Image> image_;
  Bytes model_;
  unsigned writes_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input({data, size});
  const auto kind = static_cast<unsigned>(input.take(1));
  const auto flags = static_cast<unsigned>(input.take(1));
  const auto operations = static_cast<unsigned>(input.take(1)) % 24;
  std::array<uint64_t, 24> script{};
  for (unsigned i = 0; i < operations; ++i) script[i] = input.take(4);
  Bytes bytes;
  const bool sound = (flags & 5) == 4;
  if ((flags & 1) != 0) {
    const auto rest = std::as_bytes(input.rest());
    bytes.assign(rest.begin(), rest.end());
  } else {
    bytes = base(kind & 127);
    for (unsigned i = 0; i < 16 && !input.empty() && !sound; ++i) {  // patches of one entry
      const uint64_t at = input.take(3) % (bytes.size() / 8) * 8;
      const auto width = input.take(1) % 8 + 1;
      for (uint64_t j = 8 - width; j < 8; ++j) bytes[at + j] = static_cast<std::byte>(input.take(1));
    }
  }
  if (bytes.size() > kMostFile) return 0;
  Session session(bytes, (flags & 2) != 0, sound);
  if (!session.open()) return 0;
  for (unsigned i = 0; i < operations; ++i)
    if (!session.step(script[i])) return 0;
  session.close();
  return 0;
}
