// A file taken for a qcow2 image: its header, tables and bitmaps are read, it is checked, repaired and
// checked again. Half of the inputs are the whole file; the others are patches of a good one, to get past its
// header.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "devices/block/block_file.h"
#include "devices/block/qcow2/check.h"
#include "devices/block/qcow2/create.h"
#include "devices/block/qcow2/info.h"
#include "devices/block/qcow2/metadata_io.h"
#include "vmm/core/error.h"

namespace {

using namespace minivmm;
using namespace minivmm::qcow2;

IoEngine& engine() {
  static const auto one = IoEngine::create(IoEngine::Kind::automatic, 8);
  return *one;
}

BlockFile memory_file() {
  UniqueFd fd(::memfd_create("image", MFD_CLOEXEC));
  MV_CHECK(fd);
  return {std::move(fd), "image", {.lock = false}, 0};
}

// Small clusters, so that a short input reaches everything: preallocated, which gives L2 tables; a snapshot
// of the same clusters; a bitmap.
void write_good_image(BlockFile& file, uint8_t kind) {
  CreateOptions options{.size = 20000, .cluster_size = 512, .preallocation = Preallocation::metadata};
  if ((kind & 1) != 0) options.version = 2;
  if ((kind & 2) != 0 && options.version == 3) options.refcount_bits = 1;
  if ((kind & 4) != 0 && options.version == 3) {
    options.extended_l2 = true;
    options.cluster_size = 16384;
  }
  MV_CHECK(engine().run(write_image(engine(), file, nullptr, options)));
  std::string why;
  auto header = engine().run(read_header(engine(), file, why));
  MV_CHECK(header);
  const uint64_t end = (file.size() + options.cluster_size - 1) / options.cluster_size * options.cluster_size;
  if ((kind & 8) != 0) {
    const std::vector<Snapshot> snapshots{{.l1_offset = end + options.cluster_size,
                                           .l1_size = header->l1_size,
                                           .id = "1",
                                           .name = "s",
                                           .extra = {}}};
    header->snapshots = 1;
    header->snapshots_offset = end;
    MV_CHECK(engine().run(write_bytes(engine(), file, end, encode_snapshots(snapshots))));
    const auto l1 = engine().run(read_numbers(engine(), file, header->l1_offset, header->l1_size));
    MV_CHECK(l1 && engine().run(write_numbers(engine(), file, end + options.cluster_size, *l1)));
  } else if (header->version == 3) {
    std::vector<std::byte> extension(24), entry(32);
    store_be32(extension.data(), 1);
    store_be64(extension.data() + 8, entry.size());
    store_be64(extension.data() + 16, end);
    set_extension(*header, kExtensionBitmaps, extension);
    header->autoclear = kAutoclearBitmaps;
    store_be64(entry.data(), end + options.cluster_size);
    store_be32(entry.data() + 8, 2);
    entry[16] = std::byte{1};
    entry[17] = std::byte{9};
    entry[19] = std::byte{1};
    entry[24] = std::byte{'b'};
    MV_CHECK(engine().run(write_bytes(engine(), file, end, entry)));
    const std::vector<uint64_t> table{0, end + 2 * options.cluster_size};
    MV_CHECK(engine().run(write_numbers(engine(), file, end + options.cluster_size, table)));
  }
  MV_CHECK(file.resize(end + 3 * options.cluster_size));
  const auto bytes = encode_header(*header);
  MV_CHECK(bytes && engine().run(write_bytes(engine(), file, 0, *bytes)));
}

// Each patch: 3 bytes of offset, 1 of length (up to 16), and that many bytes.
void patch(BlockFile& file, std::span<const std::byte> input) {
  while (input.size() > 4) {
    const uint64_t offset = (load_be32(input.data()) >> 8) % file.size();
    const size_t length = std::min<size_t>(1 + std::to_integer<size_t>(input[3]) % 16, input.size() - 4);
    MV_CHECK(engine().run(write_bytes(engine(), file, offset, input.subspan(4, length))));
    input = input.subspan(4 + length);
  }
}

void examine(BlockFile& file) {
  std::string why;
  (void)engine().run(read_info(engine(), file, why));
  (void)engine().run(check_image(engine(), file, {}, why));
  CheckOptions options;
  options.repair = Repair::all;
  const auto repaired = engine().run(check_image(engine(), file, options, why));
  if (!repaired || repaired->corruptions != 0) return;
  const auto again = engine().run(check_image(engine(), file, {}, why));
  MV_CHECK(again && again->corruptions == 0 && again->leaks == 0 && !again->dirty && !again->marked_corrupt);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const auto input = std::as_bytes(std::span(data + 1, size - 1));
  BlockFile file = memory_file();
  if ((data[0] & 0x80) == 0) {
    MV_CHECK(engine().run(write_bytes(engine(), file, 0, input)));
  } else {
    write_good_image(file, data[0]);
    patch(file, input);
  }
  examine(file);
  uint64_t used = 0;
  (void)decode_snapshots(input, data[0], used);
  (void)decode_bitmaps(input, data[0]);
  return 0;
}
