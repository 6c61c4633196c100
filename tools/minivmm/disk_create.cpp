// `minivmm disk create`: a new, empty image.
#include <fmt/format.h>

#include <cerrno>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "devices/block/backing_name.h"
#include "devices/block/preallocate.h"
#include "devices/block/qcow2/create.h"
#include "disk.h"
#include "disk_tool.h"
#include "json.h"
#include "vmm/core/error.h"
#include "vmm/core/spec_string.h"

namespace minivmm {

namespace {

struct DiskCreateOptions {
  std::string path;
  std::string size;
  std::string format;
  std::string cluster_size = "64K";
  unsigned refcount_bits = 16;
  std::string compat = "1.1";
  bool extended_l2 = false;
  bool lazy_refcounts = false;
  std::string compression = "zlib";
  std::string backing;
  std::string data_file;
  bool data_file_raw = false;
  std::string preallocation = "off";
  bool force = false;
  bool json = false;
};

Preallocation preallocation_of(const std::string& text) {
  if (text == "metadata") return Preallocation::metadata;
  if (text == "falloc") return Preallocation::falloc;
  return text == "full" ? Preallocation::full : Preallocation::off;
}

uint64_t size_of(const char* option, const std::string& text) {
  const auto size = parse_size(text);
  if (!size)
    throw ConfigError(fmt::format("disk create: {} '{}' is no size; write 20G or 64K", option, text));
  return *size;
}

std::string format_of(const DiskCreateOptions& o) {
  if (!o.format.empty()) return o.format;
  return o.path.ends_with(".raw") || o.path.ends_with(".img") ? "raw" : "qcow2";
}

struct Backing {
  std::string name;  // as the image will say it
  std::string format;
  uint64_t capacity = 0;
};

Backing find_backing(IoEngine& engine, const DiskCreateOptions& o) {
  const SpecString spec("--backing", o.backing, {"format"});
  OpenImageOptions open;
  open.read_only = true;
  open.format = spec.get("format").value_or("");
  if (open.format == "auto") open.format.clear();
  OpenedDisk disk = open_for_tool(engine, spec.head(), open);
  const Backing backing{backing_name_for(spec.head(), o.path), disk.chain.at(0).format,
                        disk.backend->capacity()};
  check_done(disk.close(engine), fmt::format("close {}", spec.head()));
  return backing;
}

qcow2::CreateOptions qcow2_options(const DiskCreateOptions& o, const std::optional<Backing>& backing,
                                   uint64_t size) {
  qcow2::CreateOptions create;
  create.size = size;
  create.cluster_size = size_of("--cluster-size", o.cluster_size);
  create.refcount_bits = o.refcount_bits;
  create.version = o.compat == "0.10" ? 2 : 3;
  create.extended_l2 = o.extended_l2;
  create.lazy_refcounts = o.lazy_refcounts;
  create.compression = o.compression == "zstd" ? qcow2::Compression::zstd : qcow2::Compression::zlib;
  if (backing) {
    create.backing_file = backing->name;
    create.backing_format = backing->format;
  }
  // Absolute: other programs take a relative name as one in the folder that they run in.
  if (!o.data_file.empty()) create.data_file = std::filesystem::absolute(o.data_file).string();
  create.data_file_raw = o.data_file_raw;
  create.preallocation = preallocation_of(o.preallocation);
  return create;
}

void create_raw(IoEngine& engine, const std::string& path, uint64_t size, const DiskCreateOptions& o) {
  const auto file = BlockFile::open(path, {.create = true});
  Progress progress("creating", size);
  const auto made = engine.run(preallocate(engine, *file, 0, size, preallocation_of(o.preallocation),
                                           [&](uint64_t done, uint64_t) { progress.update(done); }));
  check_done(made, fmt::format("create {}", o.path));
  check_done(engine.run(file->sync(engine)), fmt::format("create {}", o.path));
}

void refuse_for_raw(const DiskCreateOptions& o, const CLI::App& verb) {
  for (const char* option :
       {"--cluster-size", "--refcount-bits", "--compat", "--extended-l2", "--lazy-refcounts", "--compression",
        "--backing", "--data-file", "--data-file-raw"}) {
    if (verb.count(option) != 0)
      throw ConfigError(fmt::format("disk create: {} goes with --format qcow2", option));
  }
  if (o.preallocation == "metadata")
    throw ConfigError("disk create: --preallocation metadata goes with --format qcow2");
}

void tell(const DiskCreateOptions& o, const std::string& format, uint64_t size,
          const std::optional<Backing>& backing) {
  if (o.json) {
    json::object object{{"filename", o.path}, {"format", format}, {"virtual-size", size}};
    if (backing) {
      object["backing-filename"] = backing->name;
      object["backing-filename-format"] = backing->format;
    }
    print_json(object);
    return;
  }
  fmt::print("{}: {}, {}{}\n", o.path, format, format_size(size),
             backing ? fmt::format(", over {} ({})", backing->name, backing->format) : "");
}

void create(const DiskCreateOptions& o, const CLI::App& verb) {
  const std::string format = format_of(o);
  if (format == "raw") refuse_for_raw(o, verb);
  const auto engine = IoEngine::create();
  std::optional<Backing> backing;
  if (!o.backing.empty()) backing = find_backing(*engine, o);
  if (o.size.empty() && !backing)
    throw ConfigError("disk create: SIZE is missing (only a disk over a backing file can do without)");
  uint64_t size = o.size.empty() ? backing->capacity : size_of("SIZE", o.size);
  if (size > static_cast<uint64_t>(INT64_MAX) - kSectorSize)
    throw ConfigError("disk create: SIZE is too large");
  size = (size + kSectorSize - 1) / kSectorSize * kSectorSize;

  TargetFile target(o.path, o.force);
  if (format == "raw") {
    create_raw(*engine, target.temporary(), size, o);
  } else {
    qcow2::CreateOptions options = qcow2_options(o, backing, size);
    if (const char* why = qcow2::why_not_create(options))
      throw ConfigError(fmt::format("cannot create the disk image {}: {}", o.path, why));
    Progress progress("creating", size);
    options.progress = [&](uint64_t done, uint64_t) { progress.update(done); };
    qcow2::create_image(*engine, target.temporary(), options);
  }
  target.keep();
  tell(o, format, size, backing);
}

void add_qcow2_options(CLI::App& verb, DiskCreateOptions& o) {
  verb.add_option(
          "--backing", o.backing,
          "The image to lie over, which this one then shows and leaves as it is: FILE[,format=qcow2|raw]")
      ->type_name("FILE");
  verb.add_option("--cluster-size", o.cluster_size, "The unit of allocation: 512 to 2M (default 64K)")
      ->type_name("SIZE");
  verb.add_option("--refcount-bits", o.refcount_bits,
                  "Width of a reference count: 1, 2, 4, ... 64 (default 16)")
      ->type_name("N");
  verb.add_option("--compat", o.compat,
                  "0.10 for programs that know only version 2; 1.1 (default) for version 3")
      ->check(CLI::IsMember({"0.10", "1.1"}))
      ->type_name("VERSION");
  verb.add_flag("--extended-l2", o.extended_l2, "Allocate by subclusters, 32 a cluster");
  verb.add_flag("--lazy-refcounts", o.lazy_refcounts,
                "Fewer metadata writes; counts are rebuilt after a crash");
  verb.add_option("--compression", o.compression, "Of compressed clusters: zlib (default) or zstd")
      ->check(CLI::IsMember({"zlib", "zstd"}))
      ->type_name("METHOD");
  verb.add_option("--data-file", o.data_file, "Keep the data in this new file, and the mapping alone in PATH")
      ->type_name("FILE");
  verb.add_flag("--data-file-raw", o.data_file_raw, "The data file is a raw disk, readable without PATH");
}

}  // namespace

void add_disk_create(CLI::App& disk, Action& action) {
  auto* verb = disk.add_subcommand("create", "Create an empty disk image");
  verb->footer("Status: 0 done, 1 failure, 2 usage error.");
  auto options = std::make_shared<DiskCreateOptions>();
  verb->add_option("PATH", options->path, "The new image")->required();
  verb->add_option("SIZE", options->size, "The disk's size, as in 20G; the backing file's if left out");
  verb->add_option("--format", options->format, "qcow2 (default) or raw (default for NAME.raw and NAME.img)")
      ->check(CLI::IsMember({"qcow2", "raw"}))
      ->type_name("FORMAT");
  verb->add_option(
          "--preallocation", options->preallocation,
          "off (default), metadata (clusters have their places), falloc (and space on the disk), full "
          "(and are written)")
      ->check(CLI::IsMember({"off", "metadata", "falloc", "full"}))
      ->type_name("HOW");
  add_qcow2_options(*verb, *options);
  verb->add_flag("--force", options->force, "Replace PATH if it is there");
  verb->add_flag("--json", options->json, "Print what was made as JSON");
  verb->callback([&action, options, verb] {
    action = [options, verb] { return run_disk_tool([&] { create(*options, *verb); }); };
  });
}

}  // namespace minivmm
