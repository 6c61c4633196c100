#include "devices/block/disk_spec.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>

#include "devices/block/image_format.h"
#include "vmm/core/error.h"
#include "vmm/core/spec_string.h"

namespace minivmm {

namespace {

uint64_t get_number(const SpecString& spec, std::string_view key) {
  const auto text = spec.get(key);
  if (!text) return 0;
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), number);
  if (error != std::errc{} || end != text->data() + text->size()) {
    throw ConfigError(fmt::format("--disk {}={}: give a whole number", key, *text));
  }
  return number;
}

RateLimiter::Bucket get_limit(std::string_view key, uint64_t per_second, std::string_view burst_key,
                              uint64_t burst) {
  if (burst != 0 && per_second == 0) {
    throw ConfigError(fmt::format("--disk {}: goes with {}", burst_key, key));
  }
  return {per_second, burst};
}

std::optional<uint16_t> get_queues(const SpecString& spec) {
  if (!spec.get("queues")) return std::nullopt;
  const uint64_t queues = get_number(spec, "queues");
  if (queues == 0 || queues > kMaxDiskQueues) {
    throw ConfigError(fmt::format("--disk queues={}: give a number from 1 to {}", queues, kMaxDiskQueues));
  }
  return static_cast<uint16_t>(queues);
}

std::chrono::seconds get_reconnect_delay(const SpecString& spec) {
  if (!spec.get("reconnect-delay")) return kReconnectDelay;
  const uint64_t seconds = get_number(spec, "reconnect-delay");
  if (seconds > static_cast<uint64_t>(kMaxReconnectDelay.count())) {
    throw ConfigError(fmt::format("--disk reconnect-delay={}: give seconds, {} at most", seconds,
                                  kMaxReconnectDelay.count()));
  }
  return std::chrono::seconds(seconds);
}

std::string get_format(const SpecString& spec) {
  std::string format = spec.get("format").value_or("auto");
  if (format == "auto") return "";
  const ImageFormat* known = find_image_format(format);
  if (known != nullptr && known->open != nullptr) return format;
  std::string choices = "auto";
  for (const ImageFormat& f : image_formats()) {
    if (f.open != nullptr) choices += fmt::format(", {}", f.name);
  }
  throw ConfigError(fmt::format("--disk format={}: choose one of {}", format, choices));
}

CacheMode get_cache(const SpecString& spec) {
  const std::string cache = spec.get_choice("cache", {"writeback", "none", "unsafe"}, "writeback");
  return cache == "none" ? CacheMode::none : cache == "unsafe" ? CacheMode::unsafe : CacheMode::writeback;
}

BackingTrust get_backing(const SpecString& spec) {
  const std::string backing = spec.get_choice("backing", {"safe", "trusted", "none"}, "safe");
  return backing == "trusted" ? BackingTrust::trusted
         : backing == "none"  ? BackingTrust::none
                              : BackingTrust::safe;
}

}  // namespace

DiskSpec parse_disk_spec(std::string_view text) {
  const SpecString spec("--disk", text,
                        {"format", "readonly", "overlay", "cache", "queues", "iops", "iops-burst", "bps",
                         "bps-burst", "serial", "discard", "backing", "on-error", "reconnect-delay"});
  DiskSpec disk;
  disk.path = spec.head();
  if (disk.path.empty()) throw ConfigError(fmt::format("--disk {}: name the disk image first", text));
  disk.format = get_format(spec);
  disk.read_only = spec.get_switch("readonly", false);
  disk.cache = get_cache(spec);
  disk.backing = get_backing(spec);
  disk.discard = spec.get_switch("discard", true);
  disk.pause_when_full = spec.get_choice("on-error", {"pause", "report"}, "pause") == "pause";
  disk.reconnect_delay = get_reconnect_delay(spec);
  disk.queues = get_queues(spec);
  disk.serial = spec.get("serial");
  if (disk.serial && disk.serial->size() > kMaxDiskSerial) {
    throw ConfigError(fmt::format("--disk serial={}: longer than {} bytes", *disk.serial, kMaxDiskSerial));
  }
  disk.requests = get_limit("iops", get_number(spec, "iops"), "iops-burst", get_number(spec, "iops-burst"));
  disk.bytes = get_limit("bps", spec.get_size("bps", 0), "bps-burst", spec.get_size("bps-burst", 0));
  if (const auto overlay = spec.get("overlay")) {
    if (overlay->empty() || *overlay == "on" || *overlay == "off") {
      throw ConfigError(
          fmt::format("--disk overlay={}: write overlay=temp, or the path of a qcow2 image", *overlay));
    }
    if (disk.read_only)
      throw ConfigError("--disk readonly=on,overlay=...: an overlay is there to be written");
    disk.temporary_overlay = *overlay == "temp";
    if (!disk.temporary_overlay) disk.overlay = *overlay;
  }
  return disk;
}

}  // namespace minivmm
