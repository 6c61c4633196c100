#include "devices/block/copy/cluster_compressor.h"

#include <fmt/format.h>
#include <zlib.h>
#include <zstd.h>

#include <cerrno>

#include "vmm/core/error.h"

namespace minivmm {

namespace {

void check_level(std::string_view method, int level, int highest) {
  if (level >= 0 && level <= highest) return;
  throw ConfigError(fmt::format("compression level {}: {} has levels 1 to {}", level, method, highest));
}

// The state is made once and reset for each cluster: making it costs as much as compressing a small one.
class ZlibCompressor final : public ClusterCompressor {
 public:
  explicit ZlibCompressor(int level) {
    // QEMU reads with a window of 2^12 bytes, and no zlib header.
    constexpr int kWindowBits = -12;
    constexpr int kMemoryLevel = 9;
    if (::deflateInit2(&stream_, level == 0 ? Z_DEFAULT_COMPRESSION : level, Z_DEFLATED, kWindowBits,
                       kMemoryLevel, Z_DEFAULT_STRATEGY) != Z_OK) {
      throw HostError(ENOMEM, "cannot compress: no memory for it");
    }
  }
  ZlibCompressor(const ZlibCompressor&) = delete;
  ZlibCompressor& operator=(const ZlibCompressor&) = delete;
  ~ZlibCompressor() override { ::deflateEnd(&stream_); }

  std::span<const std::byte> compress(std::span<const std::byte> cluster) override {
    out_.resize(cluster.size());
    ::deflateReset(&stream_);
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(cluster.data()));
    stream_.avail_in = static_cast<uInt>(cluster.size());
    stream_.next_out = reinterpret_cast<Bytef*>(out_.data());
    stream_.avail_out = static_cast<uInt>(out_.size() - 1);
    if (::deflate(&stream_, Z_FINISH) != Z_STREAM_END) return {};
    return std::span(out_).first(out_.size() - 1 - stream_.avail_out);
  }

 private:
  z_stream stream_{};
  std::vector<std::byte> out_;
};

class ZstdCompressor final : public ClusterCompressor {
 public:
  explicit ZstdCompressor(int level) : context_(::ZSTD_createCCtx()) {
    if (context_ == nullptr) throw HostError(ENOMEM, "cannot compress: no memory for it");
    ::ZSTD_CCtx_setParameter(context_, ZSTD_c_compressionLevel, level == 0 ? ZSTD_CLEVEL_DEFAULT : level);
  }
  ZstdCompressor(const ZstdCompressor&) = delete;
  ZstdCompressor& operator=(const ZstdCompressor&) = delete;
  ~ZstdCompressor() override { ::ZSTD_freeCCtx(context_); }

  std::span<const std::byte> compress(std::span<const std::byte> cluster) override {
    out_.resize(cluster.size());
    const size_t length =
        ::ZSTD_compress2(context_, out_.data(), out_.size() - 1, cluster.data(), cluster.size());
    if (::ZSTD_isError(length) != 0) return {};  // there is too little room for it
    return std::span(out_).first(length);
  }

 private:
  ZSTD_CCtx* context_;
  std::vector<std::byte> out_;
};

}  // namespace

std::unique_ptr<ClusterCompressor> make_cluster_compressor(qcow2::Compression method, int level) {
  if (method == qcow2::Compression::zstd) {
    check_level("zstd", level, ::ZSTD_maxCLevel());
    return std::make_unique<ZstdCompressor>(level);
  }
  check_level("zlib", level, Z_BEST_COMPRESSION);
  return std::make_unique<ZlibCompressor>(level);
}

}  // namespace minivmm
