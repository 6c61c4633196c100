// An image's metadata, read from and written to its file in one piece.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "devices/block/block_file.h"
#include "devices/block/qcow2/format.h"

namespace minivmm::qcow2 {

Task<Result<void>> read_bytes(IoEngine&, BlockFile&, uint64_t offset, std::span<std::byte> out);
Task<Result<void>> write_bytes(IoEngine&, BlockFile&, uint64_t offset, std::span<const std::byte> bytes);

// decode_header() of what stands in the file; Errc::io besides its errors.
Task<Result<Header>> read_header(IoEngine&, BlockFile&, std::string& why,
                                 ForRepair for_repair = ForRepair::no);

// `entries` 64-bit numbers from `offset` on. The caller has checked that they are not too many.
Task<Result<std::vector<uint64_t>>> read_numbers(IoEngine&, BlockFile&, uint64_t offset, uint64_t entries);
Task<Result<void>> write_numbers(IoEngine&, BlockFile&, uint64_t offset, std::span<const uint64_t> numbers);

// The snapshot table, and its length in bytes in `used`. Errc::corrupt, Errc::too_large.
Task<Result<std::vector<Snapshot>>> read_snapshots(IoEngine&, BlockFile&, const Header&, uint64_t& used);

}  // namespace minivmm::qcow2
