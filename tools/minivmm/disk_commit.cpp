// `minivmm disk commit`: what an overlay holds goes into its backing file.
#include <fmt/format.h>

#include <cerrno>
#include <memory>
#include <string>

#include "devices/block/backing_name.h"
#include "devices/block/copy/copy_disk.h"
#include "devices/block/open_qcow2.h"
#include "devices/block/qcow2/image.h"
#include "disk.h"
#include "disk_tool.h"
#include "vmm/core/error.h"

namespace minivmm {

namespace {

struct CommitOptions {
  std::string path;
  bool keep = false;
  SourceOptions source;
};

struct Below {
  std::string path;
  std::string format;
  uint64_t overlay_size = 0;
};

Below find_below(IoEngine& engine, const std::string& path, BackingTrust trust) {
  const auto file = BlockFile::open(path, {.read_only = true});
  const qcow2::Header header = read_qcow2_header(engine, *file);
  if (header.backing_file.empty()) {
    throw HostError(EINVAL, fmt::format("cannot commit {}: it has no backing file", path));
  }
  if (header.snapshots != 0) {
    throw HostError(EINVAL, fmt::format("cannot commit {}: it has {} internal snapshots, and what they show "
                                        "of the backing file would change; delete them first",
                                        path, header.snapshots));
  }
  Below below{resolve_backing_name(header.backing_file, path, trust), header.backing_format().value_or(""),
              header.size};
  if (is_same_file(below.path, path)) {
    throw HostError(ELOOP, fmt::format("cannot commit {}: it is its own backing file", path));
  }
  return below;
}

// What the overlay held shows through from below now, so dropping it changes nothing at any instant.
Result<void> empty_overlay(IoEngine& engine, const CommitOptions& options) {
  OpenImageOptions alone = options.source.open(false);
  alone.below = nullptr;
  OpenedDisk overlay = open_for_tool(engine, options.path, alone);
  auto emptied = engine.run(overlay.backend->run(
      engine, {.op = BlockOp::discard, .offset = 0, .length = overlay.backend->capacity()}));
  const auto closed = overlay.close(engine);
  return emptied ? closed : emptied;
}

void commit(const CommitOptions& options) {
  const auto engine = IoEngine::create();
  OpenImageOptions overlay_options = options.source.open(false);
  const Below below = find_below(*engine, options.path, overlay_options.backing);
  OpenImageOptions base_options = options.source.open(false);
  base_options.format = below.format;
  OpenedDisk base = open_for_tool(*engine, below.path, base_options);
  const uint64_t unit = copy_unit(base);
  const std::shared_ptr<BlockBackend> base_disk = std::move(base.backend);
  Result<void> done;
  const uint64_t needed = (below.overlay_size + kSectorSize - 1) / kSectorSize * kSectorSize;
  if (base_disk->capacity() < needed) done = engine->run(base_disk->resize(*engine, needed));
  if (done) {
    overlay_options.below = base_disk;
    OpenedDisk overlay = open_for_tool(*engine, options.path, overlay_options);
    Progress progress("committing", overlay.backend->capacity());
    done = copy_top_layer(*overlay.backend, *base_disk, {.unit = unit, .sweep = sweep_with(progress)});
    const auto closed = overlay.close(*engine);
    if (done) done = closed;
  }
  // On stable storage before the overlay gives anything up.
  const auto closed = engine->run(base_disk->close(*engine));
  check_done(done, fmt::format("commit {} into {}", options.path, below.path));
  check_done(closed, fmt::format("write {}", below.path));
  if (!options.keep) check_done(empty_overlay(*engine, options), fmt::format("empty {}", options.path));
}

}  // namespace

void add_disk_commit(CLI::App& disk, Action& action) {
  auto* verb = disk.add_subcommand("commit", "Write what an overlay holds into its backing file");
  auto options = std::make_shared<CommitOptions>();
  verb->add_option("OVERLAY", options->path, "The overlay, a qcow2 image")->required();
  verb->add_flag("--keep", options->keep, "Leave the overlay as it is instead of emptying it");
  options->source.add_to(*verb, "--format");
  verb->callback(
      [&action, options] { action = [options] { return run_disk_tool([&] { commit(*options); }); }; });
}

}  // namespace minivmm
