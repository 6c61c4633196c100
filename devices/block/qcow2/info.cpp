#include "devices/block/qcow2/info.h"

#include <utility>

#include "devices/block/qcow2/metadata_io.h"

namespace minivmm::qcow2 {

Task<Result<ImageInfo>> read_info(IoEngine& engine, BlockFile& file, std::string& why) {
  auto header = co_await read_header(engine, file, why);
  if (!header) co_return std::unexpected(header.error());
  ImageInfo info;
  info.header = std::move(*header);

  uint64_t used = 0;
  auto snapshots = co_await read_snapshots(engine, file, info.header, used);
  if (snapshots) {
    info.snapshots = std::move(*snapshots);
  } else {
    info.problems.emplace_back(snapshots.error().what);
  }

  const auto directory = bitmap_directory(info.header, file.size());
  if (!directory) info.problems.emplace_back(directory.error().what);
  if (!directory || !*directory) co_return info;
  auto bitmaps = co_await read_bitmaps(engine, file, **directory);
  if (bitmaps) {
    info.bitmaps = std::move(*bitmaps);
  } else {
    info.problems.emplace_back(bitmaps.error().what);
  }
  co_return info;
}

}  // namespace minivmm::qcow2
