#include <fmt/format.h>

#include "devices/block/chain_opener.h"
#include "devices/block/nbd/nbd_disk.h"
#include "devices/block/open_formats.h"

namespace minivmm {

std::unique_ptr<BlockBackend> open_nbd_disk(ChainOpener& chain, const std::string& url, size_t layer) {
  const bool top = layer == 0;
  auto disk = NbdDisk::connect(url, {.read_only = !top || chain.options().read_only,
                                     .reconnect_delay = chain.options().reconnect_delay,
                                     .uri_may_name_files = top});
  if (top && disk->read_only() && !chain.options().read_only) {
    chain.warn(fmt::format("{}: the server exports it read-only", url));
  }
  if (!disk->read_only() && !disk->can_flush()) {
    chain.warn(fmt::format("{}: the server has no flush; what the guest has saved may be lost with it", url));
  }
  return disk;
}

}  // namespace minivmm
