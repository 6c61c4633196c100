// Compressed kernel payloads: what Linux's arch/x86/boot/compressed can be built with, as far as a library is
// at hand.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>

#include "vmm/core/error.h"

namespace minivmm {

enum class Compression : uint8_t { gzip, lz4, xz, zstd };

std::string_view name_of(Compression);
// By its first bytes; nullopt for bzip2, LZMA, LZO and what is nothing.
std::optional<Compression> detect_compression(std::span<const std::byte> data);

// Fills `out` with what `data` unpacks to; both sizes are fixed beforehand, so nothing can grow.
// Errc::corrupt where it is damaged or unpacks to another size. xz takes a dictionary of up to 128 MiB
// meanwhile.
Result<void> unpack(Compression, std::span<const std::byte> data, std::span<std::byte> out);
// The same for the first out.size() bytes, at little cost.
Result<void> unpack_prefix(Compression, std::span<const std::byte> data, std::span<std::byte> out);

}  // namespace minivmm
