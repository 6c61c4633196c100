// `minivmm disk rebase`: another backing file for an overlay.
#include <fmt/format.h>

#include <cerrno>
#include <memory>
#include <string>

#include "devices/block/backing_name.h"
#include "devices/block/copy/copy_disk.h"
#include "devices/block/image_format.h"
#include "devices/block/qcow2/image.h"
#include "disk.h"
#include "disk_tool.h"
#include "vmm/core/error.h"

namespace minivmm {

namespace {

struct RebaseOptions {
  std::string path;
  std::string backing;
  std::string backing_format;
  bool no_backing = false;
  bool unsafe = false;
  SourceOptions source;
};

struct Named {
  std::string file;
  std::string format;
};

OpenedDisk open_overlay(IoEngine& engine, const RebaseOptions& options) {
  OpenImageOptions open = options.source.open(false);
  if (options.unsafe) open.below = nullptr;  // the old one may be gone
  OpenedDisk overlay = open_for_tool(engine, options.path, open);
  if (overlay.qcow2 == nullptr) {
    throw HostError(EINVAL,
                    fmt::format("cannot rebase {}: it is {}, and only qcow2 images have a backing file",
                                options.path, overlay.chain.front().format));
  }
  return overlay;
}

OpenedDisk open_new_base(IoEngine& engine, const RebaseOptions& options) {
  if (is_same_file(options.backing, options.path)) {
    throw HostError(ELOOP, fmt::format("cannot rebase {}: it cannot be its own backing file", options.path));
  }
  OpenImageOptions open = options.source.open(true);
  open.format = options.backing_format;
  return open_for_tool(engine, options.backing, open);
}

void copy_what_differs(OpenedDisk& overlay, BlockBackend* base) {
  Progress progress("rebasing", overlay.backend->capacity());
  check_done(copy_difference(*overlay.backend, base,
                             {.unit = overlay.qcow2->header().cluster_size(), .sweep = sweep_with(progress)}),
             "copy what the two backing files differ in");
}

// What the overlay's header is to name; the data is such that it may.
Named prepare(IoEngine& engine, const RebaseOptions& options, OpenedDisk& overlay) {
  if (options.no_backing) {
    if (!options.unsafe) copy_what_differs(overlay, nullptr);
    return {};
  }
  Named named{backing_name_for(options.backing, options.path), options.backing_format};
  if (options.unsafe) {
    if (named.format.empty()) {
      throw ConfigError("disk rebase --unsafe: say the backing file's format too (--backing-format)");
    }
    return named;
  }
  const OpenedDisk base = open_new_base(engine, options);
  copy_what_differs(overlay, base.backend.get());
  named.format = base.chain.front().format;
  return named;
}

void check_options(const RebaseOptions& options) {
  if (options.backing.empty() != options.no_backing) {
    throw ConfigError("disk rebase: give either --backing FILE or --no-backing");
  }
  if (!options.backing_format.empty() && find_image_format(options.backing_format) == nullptr) {
    throw ConfigError(fmt::format("there is no image format '{}' here", options.backing_format));
  }
}

void rebase(const RebaseOptions& options) {
  check_options(options);
  const auto engine = IoEngine::create();
  OpenedDisk overlay = open_overlay(*engine, options);
  try {
    const Named named = prepare(*engine, options, overlay);
    // The copies first, and on stable storage: whenever this ends, one of the two chains is whole.
    check_done(engine->run(overlay.backend->run(*engine, {.op = BlockOp::flush})),
               fmt::format("write {}", options.path));
    check_done(engine->run(overlay.qcow2->set_backing(*engine, named.file, named.format)),
               fmt::format("name the backing file in {}", options.path));
  } catch (const HostError&) {
    [[maybe_unused]] const auto closed = overlay.close(*engine);  // the first failure is the one to tell
    throw;
  }
  check_done(overlay.close(*engine), fmt::format("write {}", options.path));
}

}  // namespace

void add_disk_rebase(CLI::App& disk, Action& action) {
  auto* verb = disk.add_subcommand("rebase", "Give an overlay another backing file, or none");
  auto options = std::make_shared<RebaseOptions>();
  verb->add_option("IMAGE", options->path, "The overlay, a qcow2 image")->required();
  verb->add_option("--backing", options->backing, "The new backing file")->type_name("FILE");
  verb->add_option("--backing-format", options->backing_format, "Its format")->type_name("FORMAT");
  verb->add_flag("--no-backing", options->no_backing, "Let the image hold all of the disk itself");
  verb->add_flag("-u,--unsafe", options->unsafe,
                 "Only change the name in the header: for a backing file that was moved or renamed");
  options->source.add_to(*verb, "--format");
  verb->callback(
      [&action, options] { action = [options] { return run_disk_tool([&] { rebase(*options); }); }; });
}

}  // namespace minivmm
