// `minivmm disk resize`: another size for the disk that an image holds.
#include <fmt/format.h>

#include <cerrno>
#include <memory>
#include <string>

#include "disk.h"
#include "disk_tool.h"
#include "vmm/core/error.h"
#include "vmm/core/spec_string.h"

namespace minivmm {

namespace {

struct ResizeOptions {
  std::string path;
  std::string size;
  bool shrink = false;
  SourceOptions source;
};

uint64_t new_size(const std::string& text, uint64_t now) {
  const bool more = text.starts_with('+');
  const bool less = text.starts_with('-');
  const auto parsed = parse_size(std::string_view(text).substr(more || less ? 1 : 0));
  uint64_t size = parsed.value_or(0);
  bool good = parsed.has_value();
  if (more) good = good && !__builtin_add_overflow(now, size, &size);
  if (less) good = good && !__builtin_sub_overflow(now, size, &size);
  uint64_t rounded = 0;
  good = good && !__builtin_add_overflow(size, kSectorSize - 1, &rounded);
  rounded = rounded / kSectorSize * kSectorSize;
  if (!good || rounded == 0) {
    throw ConfigError(fmt::format("disk resize: '{}' is no size; write 20G, +5G or -512M", text));
  }
  return rounded;
}

void resize(const ResizeOptions& options) {
  const auto engine = IoEngine::create();
  OpenedDisk disk = open_for_tool(*engine, options.path, options.source.open(false));
  const uint64_t before = disk.backend->capacity();
  const uint64_t after = new_size(options.size, before);
  if (after < before && !options.shrink) {
    throw ConfigError(fmt::format("disk resize: {} of the disk's {} would be lost; --shrink does it",
                                  format_size(before - after), format_size(before)));
  }
  const auto resized = engine->run(disk.backend->resize(*engine, after));
  const auto closed = disk.close(*engine);
  check_done(resized, fmt::format("resize {}", options.path));
  check_done(closed, fmt::format("write {}", options.path));
}

}  // namespace

void add_disk_resize(CLI::App& disk, Action& action) {
  auto* verb = disk.add_subcommand("resize", "Give a disk another size");
  auto options = std::make_shared<ResizeOptions>();
  verb->add_option("IMAGE", options->path, "The image")->required();
  verb->add_option("SIZE", options->size, "The new size (20G), or what is added (+5G) or cut off (-512M)")
      ->required();
  verb->add_flag("--shrink", options->shrink, "Make it smaller: what is past the new end is lost");
  options->source.add_to(*verb, "--format");
  verb->callback(
      [&action, options] { action = [options] { return run_disk_tool([&] { resize(*options); }); }; });
}

}  // namespace minivmm
