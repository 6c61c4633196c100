// `minivmm disk convert`: a disk as another image: another format, compressed, without its chain.
#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <memory>
#include <optional>
#include <string>

#include "devices/block/block_file.h"
#include "devices/block/copy/copy_disk.h"
#include "devices/block/qcow2/create.h"
#include "devices/block/qcow2/image.h"
#include "disk.h"
#include "disk_tool.h"
#include "vmm/core/error.h"
#include "vmm/core/spec_string.h"

namespace minivmm {

namespace {

struct ConvertOptions {
  std::string from;
  std::string to;
  std::string format;
  std::string compress;
  std::string cluster_size;
  int level = 0;
  unsigned threads = 0;
  bool force = false;
  SourceOptions source;
};

bool is_block_device(const std::string& path) {
  struct stat info{};
  return ::stat(path.c_str(), &info) == 0 && S_ISBLK(info.st_mode);
}

std::string target_format(const ConvertOptions& options) {
  if (!options.format.empty()) return options.format;
  const bool raw =
      options.to.ends_with(".raw") || options.to.ends_with(".img") || is_block_device(options.to);
  return raw && options.compress.empty() ? "raw" : "qcow2";
}

uint64_t cluster_size(const ConvertOptions& options) {
  if (options.cluster_size.empty()) return uint64_t{64} << 10;
  const auto size = parse_size(options.cluster_size);
  if (!size) throw ConfigError(fmt::format("--cluster-size {}: not a size; write 64K", options.cluster_size));
  return *size;
}

void check_options(const ConvertOptions& options, const std::string& format) {
  if (format == "raw" && !options.compress.empty()) throw ConfigError("--compress goes with --format qcow2");
  if (format == "raw" && !options.cluster_size.empty()) {
    throw ConfigError("--cluster-size goes with --format qcow2");
  }
  if (options.level != 0 && options.compress.empty()) throw ConfigError("--level goes with --compress");
}

void create_target(IoEngine& engine, const std::string& path, const std::string& format, uint64_t capacity,
                   const ConvertOptions& options) {
  if (format == "raw") {
    const auto file = BlockFile::open(path, {.create = true});
    check_done(file->resize(capacity), fmt::format("give {} its size", path));
    return;
  }
  qcow2::CreateOptions create;
  create.size = capacity;
  create.cluster_size = cluster_size(options);
  if (options.compress == "zstd") create.compression = qcow2::Compression::zstd;
  qcow2::create_image(engine, path, create);
}

// Into a disk that is open; closes it.
void copy_into(IoEngine& engine, OpenedDisk& from, OpenedDisk& to, bool is_new,
               const ConvertOptions& options) {
  Progress progress("converting", from.backend->capacity());
  CopyOptions copy{.unit = copy_unit(to), .target_is_zero = is_new, .sweep = sweep_with(progress)};
  copy.sweep.threads = options.threads;
  if (!options.compress.empty()) copy.compress = {.image = to.qcow2, .level = options.level};
  const auto copied = copy_disk(*from.backend, *to.backend, copy);
  const auto closed = to.close(engine);
  check_done(copied, fmt::format("convert {} to {}", options.from, options.to));
  check_done(closed, fmt::format("write {}", options.to));
}

void convert_to_device(IoEngine& engine, OpenedDisk& from, const ConvertOptions& options) {
  if (!options.force) {
    throw HostError(
        EEXIST,
        fmt::format("cannot write {}: what is on this device would be lost; --force does it", options.to));
  }
  OpenedDisk to = open_for_tool(engine, options.to, {.format = "raw", .blocking = true});
  if (to.backend->capacity() < from.backend->capacity()) {
    throw HostError(ENOSPC,
                    fmt::format("cannot write {}: it has {}, and the disk {}", options.to,
                                format_size(to.backend->capacity()), format_size(from.backend->capacity())));
  }
  copy_into(engine, from, to, false, options);
}

void convert(const ConvertOptions& options) {
  const std::string format = target_format(options);
  check_options(options, format);
  const auto engine = IoEngine::create();
  OpenImageOptions source = options.source.open(true);
  source.blocking = true;
  OpenedDisk from = open_for_tool(*engine, options.from, source);
  if (format == "raw" && is_block_device(options.to)) return convert_to_device(*engine, from, options);
  TargetFile target(options.to, options.force);
  create_target(*engine, target.temporary(), format, from.backend->capacity(), options);
  // As with cp(1), it is the system's business when the copy reaches the disk.
  OpenedDisk to = open_for_tool(*engine, target.temporary(),
                                {.format = format, .cache = CacheMode::unsafe, .blocking = true});
  copy_into(*engine, from, to, true, options);
  target.keep();
}

}  // namespace

void add_disk_convert(CLI::App& disk, Action& action) {
  auto* verb = disk.add_subcommand("convert", "Copy a disk to a new image, of the same or another format");
  auto options = std::make_shared<ConvertOptions>();
  verb->add_option("SRC", options->from, "The image to read, with what is below it")->required();
  verb->add_option("DST", options->to, "The image to write")->required();
  verb->add_option("--format", options->format,
                   "DST's format (default: raw for NAME.raw, NAME.img and block devices, else qcow2)")
      ->check(CLI::IsMember({"raw", "qcow2"}))
      ->type_name("FORMAT");
  verb->add_option("-c,--compress", options->compress, "Compress the clusters: zlib or zstd")
      ->check(CLI::IsMember({"zlib", "zstd"}))
      ->type_name("METHOD");
  verb->add_option("--level", options->level, "How hard: zlib 1 to 9 (default 6), zstd 1 to 22 (default 3)")
      ->check(CLI::Range(1, 22))
      ->type_name("N");
  verb->add_option("--cluster-size", options->cluster_size, "qcow2: 512 to 2M (default 64K)")
      ->type_name("SIZE");
  verb->add_option("--threads", options->threads, "How many threads (default: one for each CPU)")
      ->check(CLI::Range(1, 16))
      ->type_name("N");
  verb->add_flag("--force", options->force, "Replace DST if it is there");
  options->source.add_to(*verb, "--source-format");
  verb->callback(
      [&action, options] { action = [options] { return run_disk_tool([&] { convert(*options); }); }; });
}

}  // namespace minivmm
