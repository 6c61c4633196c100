#include "devices/block/open_disk.h"

#include <fmt/format.h>

#include "devices/block/chain_opener.h"
#include "devices/block/overlay.h"
#include "vmm/core/error.h"

namespace minivmm {

namespace {

OpenImageOptions options_of(const DiskSpec& spec, bool read_only) {
  return {.format = spec.format,
          .read_only = read_only,
          .cache = spec.cache,
          .backing = spec.backing,
          .discard = spec.discard,
          .reconnect_delay = spec.reconnect_delay};
}

}  // namespace

Result<void> OpenedDisk::close(IoEngine& engine) {
  if (!backend) return {};
  auto closed = engine.run(backend->close(engine));
  backend.reset();
  qcow2 = nullptr;
  return closed;
}

std::string OpenedDisk::describe() const {
  std::string text;
  for (const DiskLayer& layer : chain) text += (text.empty() ? "" : " on ") + layer.format;
  return text;
}

OpenedDisk open_image(IoEngine& engine, const std::string& path, const OpenImageOptions& options) {
  ChainOpener chain(engine, options);
  auto top = chain.open(path, {.format = options.format, .read_only = options.read_only});
  return chain.finish(std::move(top));
}

OpenedDisk open_disk(IoEngine& engine, const DiskSpec& spec) {
  if (spec.temporary_overlay) return open_temporary_overlay(engine, spec.path, options_of(spec, true));
  if (!spec.overlay.empty()) return open_overlay(engine, spec.overlay, spec.path, options_of(spec, false));
  return open_image(engine, spec.path, options_of(spec, spec.read_only));
}

OpenedDisk inspect_disk(IoEngine& engine, const DiskSpec& spec) {
  if (!spec.overlay.empty() && is_overlay_there(engine, spec.overlay, spec.path)) {
    OpenImageOptions options = options_of(spec, true);
    return open_existing_overlay(engine, spec.overlay, spec.path, options);
  }
  return open_image(engine, spec.path, options_of(spec, true));
}

}  // namespace minivmm
