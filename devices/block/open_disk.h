// From a name to a disk: finds the format, opens the chain of backing files, puts an overlay on top.
//
// - A format that was guessed as raw never lets the guest turn the disk into another one (guessed_raw.h).
// - A backing file is opened when an image names it that the user named: read-only, locked shared. Where the
//   image does not say its format, it is guessed, and one that then names further files is refused.
// - No chain is deeper than kMaxChainDepth, and none comes back to a file that it holds already.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "devices/block/block_backend.h"
#include "devices/block/disk_spec.h"
#include "devices/block/io_engine.h"

namespace minivmm {

namespace qcow2 {
class Image;
}

inline constexpr size_t kMaxChainDepth = 64;  // files

struct DiskLayer {
  std::string path;
  std::string format;           // "raw", "qcow2", ...
  bool format_guessed = false;  // else it was said: by the user, or by the image above
  uint64_t capacity = 0;        // bytes
  std::string data_file = {};   // where the data is, if not in the image; empty: it is
};

struct OpenedDisk {
  std::unique_ptr<BlockBackend> backend;
  qcow2::Image* qcow2 = nullptr;      // the backend, where it is one
  std::vector<DiskLayer> chain;       // the first is what the guest writes to
  std::vector<std::string> warnings;  // one line each

  // Brings everything to stable storage and closes the image; the backend is gone afterwards.
  Result<void> close(IoEngine&);
  std::string describe() const;  // "qcow2 on raw": the formats of the chain
};

struct OpenImageOptions {
  std::string format = {};  // empty: guessed
  bool read_only = false;
  CacheMode cache = CacheMode::writeback;
  BackingTrust backing = BackingTrust::safe;
  bool discard = true;
  bool blocking = false;                                        // BlockFileOptions'
  std::chrono::milliseconds reconnect_delay = kReconnectDelay;  // DiskSpec's
  // What lies below instead of what the image names: null is nothing, which makes what is not allocated read
  // as zeroes.
  std::optional<std::shared_ptr<BlockBackend>> below = std::nullopt;
};

// One image and what is below it. Throws HostError: it cannot be opened, is locked, is no image of its
// format; ConfigError for a URL of a kind we do not know.
OpenedDisk open_image(IoEngine&, const std::string& path, const OpenImageOptions& options);

// What the user asked for, overlay included: an overlay=FILE that is not there is created. Throws as
// open_image().
OpenedDisk open_disk(IoEngine&, const DiskSpec& spec);

// The same to look at only: read-only, nothing is created, an overlay that is not there is left out.
OpenedDisk inspect_disk(IoEngine&, const DiskSpec& spec);

}  // namespace minivmm
