// What the user says of a disk: --disk PATH[,key=value...].
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "devices/block/block_file.h"
#include "vmm/core/rate_limiter.h"

namespace minivmm {

// Which of the files that images name are opened.
enum class BackingTrust : uint8_t {
  safe,     // local files; one whose format is nowhere said may not name further ones
  trusted,  // also servers, and chains whose formats have to be guessed
  none,     // none: an image that needs another file is refused
};

// How long requests wait for a server that was lost, before they fail.
inline constexpr std::chrono::seconds kReconnectDelay{10};
inline constexpr std::chrono::seconds kMaxReconnectDelay{86'400};

struct DiskSpec {
  std::string path;    // of a file or a block device, or a URL
  std::string format;  // empty: guessed from the first bytes
  bool read_only = false;
  CacheMode cache = CacheMode::writeback;
  BackingTrust backing = BackingTrust::safe;
  bool discard = true;          // what the guest discards is freed
  bool pause_when_full = true;  // hold the guest while the host has no space; else its requests fail
  std::chrono::seconds reconnect_delay = kReconnectDelay;

  bool temporary_overlay = false;
  std::string overlay;  // path of the qcow2 image that takes the writes; empty: none

  std::optional<uint16_t> queues;     // 1 to kMaxDiskQueues
  std::optional<std::string> serial;  // at most kMaxDiskSerial bytes
  RateLimiter::Bucket requests;       // what it may do a second
  RateLimiter::Bucket bytes;
};
inline constexpr uint16_t kMaxDiskQueues = 64;
inline constexpr size_t kMaxDiskSerial = 20;  // virtio 1.2, 5.2.6: VIRTIO_BLK_ID_BYTES

inline constexpr std::string_view kDiskSpecMetavar = "PATH[,KEY=VALUE...]";
inline constexpr std::string_view kDiskSpecHelp =
    "a disk: an image file, a block device or an NBD server's URL. format=auto|raw|qcow2|vmdk|vdi|vhdx, "
    "readonly=on, overlay=temp (throw the "
    "writes away) or overlay=FILE (keep them there), cache=writeback|none|unsafe, discard=off, queues=N, "
    "iops=N, bps=SIZE, iops-burst=N, bps-burst=SIZE, serial=S, on-error=pause|report (when the host is "
    "full), backing=safe|trusted|none, reconnect-delay=SECONDS";

// Throws ConfigError for what makes no sense; looks at no file.
DiskSpec parse_disk_spec(std::string_view text);

}  // namespace minivmm
