#include "boot/unpack.h"

#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

namespace minivmm {

namespace {

constexpr uint32_t kLz4Legacy = 0x184c2102;
constexpr size_t kLz4Block = 8U << 20;
// xz of kernels: a 32 MiB dictionary up to Linux 6.11, 128 MiB after (scripts/xz_wrap.sh).
constexpr uint64_t kXzMemoryLimit = uint64_t{160} << 20;

std::unexpected<Error> damaged() {
  return fail(Errc::corrupt, "the compressed kernel is damaged");
}

uint32_t load32(std::span<const std::byte> data) {
  uint32_t v = 0;
  std::memcpy(&v, data.data(), sizeof v);
  return v;
}

// zlib counts in unsigned int.
bool fits_zlib(size_t size) {
  return size <= uInt(-1);
}

const Bytef* zlib_bytes(std::span<const std::byte> data) {
  return reinterpret_cast<const Bytef*>(data.data());
}

Result<void> gunzip(std::span<const std::byte> data, std::span<std::byte> out, bool whole) {
  if (!fits_zlib(data.size()) || !fits_zlib(out.size())) return fail(Errc::too_large, "payload too large");
  z_stream stream{};
  stream.next_in = const_cast<Bytef*>(zlib_bytes(data));  // an old interface: it does not write there
  stream.avail_in = static_cast<uInt>(data.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  if (inflateInit2(&stream, 15 + 16) != Z_OK) return damaged();  // a gzip header, CRC checked
  const int result = inflate(&stream, whole ? Z_FINISH : Z_SYNC_FLUSH);
  inflateEnd(&stream);
  if (stream.avail_out != 0 || (whole && result != Z_STREAM_END)) return damaged();
  return {};
}

// The legacy frame: a magic, then blocks {u32 compressed size, data} of 8 MiB each, every one on its own
// (lz4's doc/lz4_Frame_format.md, "Legacy frame").
Result<void> unlz4(std::span<const std::byte> data, std::span<std::byte> out, bool whole) {
  if (data.size() < 4 || load32(data) != kLz4Legacy) return damaged();
  data = data.subspan(4);
  while (!out.empty()) {
    if (data.size() < 4) return damaged();
    const uint32_t size = load32(data);
    data = data.subspan(4);
    if (size == kLz4Legacy) continue;  // another frame follows
    if (size > data.size() || size > static_cast<uint32_t>(LZ4_COMPRESSBOUND(kLz4Block))) return damaged();
    const auto room = static_cast<int>(std::min(out.size(), kLz4Block));
    const auto* from = reinterpret_cast<const char*>(data.data());
    auto* to = reinterpret_cast<char*>(out.data());
    const int n = whole ? LZ4_decompress_safe(from, to, static_cast<int>(size), room)
                        : LZ4_decompress_safe_partial(from, to, static_cast<int>(size), room, room);
    if (n <= 0) return damaged();
    out = out.subspan(static_cast<size_t>(n));
    data = data.subspan(size);
  }
  return {};
}

Result<void> unxz(std::span<const std::byte> data, std::span<std::byte> out, bool whole) {
  lzma_stream stream = LZMA_STREAM_INIT;
  if (lzma_stream_decoder(&stream, kXzMemoryLimit, 0) != LZMA_OK) return damaged();
  const std::unique_ptr<lzma_stream, decltype(&lzma_end)> cleanup(&stream, lzma_end);
  stream.next_in = reinterpret_cast<const uint8_t*>(data.data());
  stream.avail_in = data.size();
  stream.next_out = reinterpret_cast<uint8_t*>(out.data());
  stream.avail_out = out.size();
  lzma_ret result = LZMA_OK;
  // Goes on with no room left, because the stream's index and checks come after the last byte.
  while (result == LZMA_OK && (whole || stream.avail_out != 0)) {
    result = lzma_code(&stream, LZMA_RUN);  // LZMA_BUF_ERROR when it gets no further
  }
  if (stream.avail_out != 0 || (whole && result != LZMA_STREAM_END)) return damaged();
  return {};
}

Result<void> unzstd(std::span<const std::byte> data, std::span<std::byte> out) {
  // In one call: the output is the window, so a kernel's 128 MiB one costs nothing.
  const size_t n = ZSTD_decompress(out.data(), out.size(), data.data(), data.size());
  if (ZSTD_isError(n) != 0 || n != out.size()) return damaged();
  return {};
}

Result<void> unzstd_prefix(std::span<const std::byte> data, std::span<std::byte> out) {
  const std::unique_ptr<ZSTD_DStream, decltype(&ZSTD_freeDStream)> stream(ZSTD_createDStream(),
                                                                          ZSTD_freeDStream);
  if (!stream) return damaged();
  ZSTD_inBuffer from{data.data(), data.size(), 0};
  ZSTD_outBuffer to{out.data(), out.size(), 0};
  while (to.pos < to.size) {
    const size_t before = from.pos + to.pos;
    const size_t left = ZSTD_decompressStream(stream.get(), &to, &from);
    if (ZSTD_isError(left) != 0) return damaged();
    if (to.pos < to.size && (left == 0 || from.pos + to.pos == before)) return damaged();
  }
  return {};
}

}  // namespace

std::string_view name_of(Compression compression) {
  switch (compression) {
    case Compression::gzip: return "gzip";
    case Compression::lz4: return "LZ4";
    case Compression::xz: return "xz";
    case Compression::zstd: return "zstd";
  }
  return "";
}

std::optional<Compression> detect_compression(std::span<const std::byte> data) {
  const auto begins = [data](std::initializer_list<uint8_t> magic) {
    return data.size() >= magic.size() &&
           std::equal(magic.begin(), magic.end(), data.begin(),
                      [](uint8_t m, std::byte b) { return m == std::to_integer<uint8_t>(b); });
  };
  if (begins({0x1f, 0x8b, 0x08})) return Compression::gzip;
  if (begins({0x02, 0x21, 0x4c, 0x18})) return Compression::lz4;
  if (begins({0xfd, '7', 'z', 'X', 'Z', 0x00})) return Compression::xz;
  if (begins({0x28, 0xb5, 0x2f, 0xfd})) return Compression::zstd;
  return std::nullopt;
}

Result<void> unpack(Compression compression, std::span<const std::byte> data, std::span<std::byte> out) {
  switch (compression) {
    case Compression::gzip: return gunzip(data, out, true);
    case Compression::lz4: return unlz4(data, out, true);
    case Compression::xz: return unxz(data, out, true);
    case Compression::zstd: return unzstd(data, out);
  }
  return damaged();
}

Result<void> unpack_prefix(Compression compression, std::span<const std::byte> data,
                           std::span<std::byte> out) {
  switch (compression) {
    case Compression::gzip: return gunzip(data, out, false);
    case Compression::lz4: return unlz4(data, out, false);
    case Compression::xz: return unxz(data, out, false);
    case Compression::zstd: return unzstd_prefix(data, out);
  }
  return damaged();
}

}  // namespace minivmm
