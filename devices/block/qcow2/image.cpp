#include "devices/block/qcow2/image.h"

#include "devices/block/qcow2/runtime.h"

namespace minivmm::qcow2 {

namespace {

Task<Result<void>> ended(Result<void> result) {
  co_return result;
}

}  // namespace

Image::Image(std::unique_ptr<Runtime> runtime) : runtime_(std::move(runtime)) {}
Image::~Image() = default;

Task<Result<std::unique_ptr<Image>>> Image::open(IoEngine& engine, std::unique_ptr<BlockFile> file,
                                                 Options options, std::string& why) {
  why.clear();
  Result<std::unique_ptr<Runtime>> runtime =
      co_await Runtime::open(engine, std::move(file), std::move(options), why);
  if (!runtime) co_return std::unexpected(runtime.error());
  co_return std::unique_ptr<Image>(new Image(std::move(*runtime)));
}

Header Image::header() const {
  return runtime_->header();
}
BlockFile& Image::file() const {
  return runtime_->file();
}
const std::shared_ptr<BlockBackend>& Image::backing() const {
  return runtime_->backing();
}
uint64_t Image::capacity() const {
  return runtime_->capacity();
}
bool Image::read_only() const {
  return runtime_->read_only();
}

BlockGeometry Image::geometry() const {
  BlockGeometry geometry;
  geometry.physical_block = static_cast<uint32_t>(std::min<uint64_t>(4096, runtime_->layout().sub_size()));
  geometry.optimal_io = static_cast<uint32_t>(runtime_->layout().sub_size());
  return geometry;
}

Task<Result<void>> Image::run(IoEngine& engine, BlockRequest request) {
  if (request.op == BlockOp::flush) return runtime_->flush(engine);
  const uint64_t capacity = runtime_->capacity();
  if (request.offset > capacity || request.length > capacity - request.offset)
    return ended(fail(Errc::out_of_range, "a request reaches past the end of the disk"));
  if (request.length == 0) return ended({});
  if (request.op == BlockOp::read) return runtime_->read(engine, request);
  const Result<void> may = runtime_->may_write();
  if (!may) return ended(may);
  switch (request.op) {
    case BlockOp::write: return runtime_->write(engine, request);
    case BlockOp::write_zeroes: return runtime_->write_zeroes(engine, request);
    case BlockOp::discard: return runtime_->discard(engine, request);
    default: return ended(fail(Errc::unsupported, "a request of an unknown kind"));
  }
}

bool Image::read_now(uint64_t offset, uint64_t length, std::span<const iovec> data) {
  return runtime_->read_now(offset, length, data);
}
Task<Result<BlockExtent>> Image::extent(IoEngine& engine, uint64_t offset, uint64_t length) {
  return runtime_->extent(engine, offset, length);
}
Task<Result<void>> Image::resize(IoEngine& engine, uint64_t capacity_bytes) {
  return runtime_->resize(engine, capacity_bytes);
}
Task<Result<void>> Image::close(IoEngine& engine) {
  return runtime_->close(engine);
}

Task<Result<void>> Image::write_compressed(IoEngine& engine, uint64_t offset,
                                           std::span<const std::byte> cluster,
                                           std::span<const std::byte> compressed) {
  return runtime_->write_compressed(engine, offset, cluster, compressed);
}
Task<Result<void>> Image::set_backing(IoEngine& engine, std::string file, std::string format) {
  co_return co_await runtime_->set_backing(engine, file, format);
}

}  // namespace minivmm::qcow2
