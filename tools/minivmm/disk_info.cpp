// `minivmm disk info`: what an image, and those below it, say about themselves.
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "devices/block/backing_name.h"
#include "devices/block/block_file.h"
#include "devices/block/image_format.h"
#include "devices/block/qcow2/info.h"
#include "devices/block/qcow2/metadata_io.h"
#include "disk.h"
#include "disk_tool.h"
#include "json.h"
#include "vmm/core/error.h"
#include "vmm/core/spec_string.h"

namespace minivmm {

namespace {

struct DiskInfoOptions {
  std::string path;
  std::string format = "auto";
  bool chain = false;
  bool json = false;
};

struct LayerInfo {
  std::string path;
  std::string format;
  std::optional<uint64_t> virtual_size;
  std::optional<uint64_t> actual_size;
  std::optional<qcow2::ImageInfo> qcow2;
  std::string backing_path;  // resolved; empty: none, or no local file
};

std::string format_of(IoEngine& engine, BlockFile& file, const std::string& said) {
  if (said != "auto" && !said.empty()) return said;
  std::array<std::byte, kSectorSize> first{};
  check_done(engine.run(qcow2::read_bytes(engine, file, 0, first)), fmt::format("read {}", file.path()));
  return std::string(
      probe_image_format(std::span(first).first(std::min<uint64_t>(first.size(), file.size()))).name);
}

// Of disks that others read for us: by opening them. An empty `format` is guessed.
void look_inside(IoEngine& engine, const std::string& format, LayerInfo& layer) {
  OpenedDisk disk = open_for_tool(engine, layer.path, {.format = format, .read_only = true});
  layer.format = disk.chain.at(0).format;
  layer.virtual_size = disk.backend->capacity();
  check_done(disk.close(engine), fmt::format("close {}", layer.path));
}

LayerInfo look(IoEngine& engine, const std::string& path, const std::string& format) {
  LayerInfo layer;
  layer.path = path;
  if (!url_scheme(path).empty()) {
    look_inside(engine, "", layer);
    return layer;
  }
  // Unlocked: also of a disk that a machine is using.
  const auto file = BlockFile::open(path, {.read_only = true, .lock = false});
  struct stat info{};
  if (::fstat(file->fd(), &info) == 0 && S_ISREG(info.st_mode))
    layer.actual_size = static_cast<uint64_t>(info.st_blocks) * 512;
  layer.format = format_of(engine, *file, format);
  if (layer.format == "raw") layer.virtual_size = file->size();
  if (layer.format != "raw" && layer.format != "qcow2") look_inside(engine, layer.format, layer);
  if (layer.format != "qcow2") return layer;
  std::string why;
  auto read = engine.run(qcow2::read_info(engine, *file, why));
  if (!read) throw HostError(EINVAL, fmt::format("cannot read the qcow2 image {}: {}", path, why));
  layer.virtual_size = read->header.size;
  if (!read->header.backing_file.empty()) {
    try {
      layer.backing_path = resolve_backing_name(read->header.backing_file, path, BackingTrust::safe);
    } catch (const HostError& error) {
      read->problems.emplace_back(error.what());
    }
  }
  layer.qcow2 = std::move(*read);
  return layer;
}

std::vector<LayerInfo> look_at_all(IoEngine& engine, const DiskInfoOptions& o) {
  std::vector<LayerInfo> layers{look(engine, o.path, o.format)};
  while (o.chain && !layers.back().backing_path.empty()) {
    const std::string next = layers.back().backing_path;
    if (layers.size() == kMaxChainDepth)
      throw HostError(
          ELOOP, fmt::format("{}: the chain of backing files is deeper than {}", o.path, kMaxChainDepth));
    for (const LayerInfo& layer : layers) {
      if (is_same_file(layer.path, next))
        throw HostError(ELOOP, fmt::format("{}: the chain of backing files comes back to {}", o.path, next));
    }
    layers.push_back(look(engine, next, layers.back().qcow2->header.backing_format().value_or("")));
  }
  return layers;
}

const char* compression_name(const qcow2::Header& h) {
  return h.compression == qcow2::Compression::zstd ? "zstd" : "zlib";
}

json::array bitmaps_json(const qcow2::ImageInfo& info) {
  json::array list;
  for (const qcow2::Bitmap& bitmap : info.bitmaps) {
    json::array flags;
    if ((bitmap.flags & qcow2::kBitmapInUse) != 0) flags.emplace_back("in-use");
    if ((bitmap.flags & qcow2::kBitmapAuto) != 0) flags.emplace_back("auto");
    list.push_back(json::object{{"name", bitmap.name},
                                {"granularity", uint64_t{1} << bitmap.granularity_bits},
                                {"flags", std::move(flags)}});
  }
  return list;
}

json::array snapshots_json(const qcow2::ImageInfo& info) {
  json::array list;
  for (const qcow2::Snapshot& s : info.snapshots) {
    list.push_back(json::object{{"id", s.id},
                                {"name", s.name},
                                {"vm-state-size", s.vm_state_size()},
                                {"date-sec", s.seconds},
                                {"date-nsec", s.nanoseconds},
                                {"vm-clock-sec", s.vm_clock_ns / 1000000000},
                                {"vm-clock-nsec", s.vm_clock_ns % 1000000000}});
  }
  return list;
}

json::object specific_json(const qcow2::ImageInfo& info) {
  const qcow2::Header& h = info.header;
  json::object data{{"compat", h.version == 2 ? "0.10" : "1.1"},
                    {"compression-type", compression_name(h)},
                    {"refcount-bits", h.refcount_bits()}};
  if (h.version >= 3) {
    data["lazy-refcounts"] = (h.compatible & qcow2::kCompatLazyRefcounts) != 0;
    data["corrupt"] = (h.incompatible & qcow2::kIncompatCorrupt) != 0;
    data["extended-l2"] = h.extended_l2();
  }
  if (h.has_data_file()) {
    data["data-file"] = h.data_file().value_or("");
    data["data-file-raw"] = (h.autoclear & qcow2::kAutoclearDataFileRaw) != 0;
  }
  if (!info.bitmaps.empty()) data["bitmaps"] = bitmaps_json(info);
  return {{"type", "qcow2"}, {"data", std::move(data)}};
}

// The names are qemu-img's.
json::object to_json(const LayerInfo& layer) {
  json::object out{{"filename", layer.path}, {"format", layer.format}};
  if (layer.virtual_size) out["virtual-size"] = *layer.virtual_size;
  if (layer.actual_size) out["actual-size"] = *layer.actual_size;
  if (!layer.qcow2) return out;
  const qcow2::Header& h = layer.qcow2->header;
  out["cluster-size"] = h.cluster_size();
  out["dirty-flag"] = (h.incompatible & qcow2::kIncompatDirty) != 0;
  if (!h.backing_file.empty()) {
    out["backing-filename"] = h.backing_file;
    if (!layer.backing_path.empty()) out["full-backing-filename"] = layer.backing_path;
    if (const auto format = h.backing_format()) out["backing-filename-format"] = *format;
  }
  if (!layer.qcow2->snapshots.empty()) out["snapshots"] = snapshots_json(*layer.qcow2);
  out["format-specific"] = specific_json(*layer.qcow2);
  if (!layer.qcow2->problems.empty()) {
    json::array problems;
    for (const std::string& problem : layer.qcow2->problems) problems.emplace_back(problem);
    out["problems"] = std::move(problems);
  }
  return out;
}

// What a file says, without what a terminal would obey.
std::string printable(const std::string& text) {
  std::string out;
  for (const char c : text) out += static_cast<unsigned char>(c) < ' ' || c == '\x7f' ? '?' : c;
  return out;
}

void row(const char* name, const std::string& value) {
  fmt::print("{:<16} {}\n", name, value);
}

void tell_snapshots(const qcow2::ImageInfo& info) {
  if (info.snapshots.empty()) return;
  fmt::print("snapshots\n  {:<6} {:<20} {:>10}  {:<19}  {}\n", "ID", "NAME", "VM STATE", "DATE", "VM CLOCK");
  for (const qcow2::Snapshot& s : info.snapshots) {
    const std::time_t when = s.seconds;
    const uint64_t ms = s.vm_clock_ns / 1000000;
    fmt::print("  {:<6} {:<20} {:>10}  {:%Y-%m-%d %H:%M:%S}  {:02}:{:02}:{:02}.{:03}\n", printable(s.id),
               printable(s.name), format_size(s.vm_state_size()), fmt::localtime(when), ms / 3600000,
               ms / 60000 % 60, ms / 1000 % 60, ms % 1000);
  }
}

void tell_qcow2(const LayerInfo& layer) {
  const qcow2::ImageInfo& info = *layer.qcow2;
  const qcow2::Header& h = info.header;
  if (!h.backing_file.empty()) {
    std::string backing = printable(h.backing_file);
    if (!layer.backing_path.empty() && layer.backing_path != h.backing_file)
      backing += fmt::format(" (at {})", printable(layer.backing_path));
    row("backing file", backing);
    row("backing format", printable(h.backing_format().value_or("not said")));
  }
  if (h.has_data_file()) {
    const bool raw = (h.autoclear & qcow2::kAutoclearDataFileRaw) != 0;
    row("data file", printable(h.data_file().value_or("not said")) + (raw ? " (raw)" : ""));
  }
  row("cluster size", format_size(h.cluster_size()));
  row("version", fmt::format("{} (compat {})", h.version, h.version == 2 ? "0.10" : "1.1"));
  std::string features =
      fmt::format("refcounts of {} bits, {} compression", h.refcount_bits(), compression_name(h));
  if (h.extended_l2()) features += ", extended L2 entries";
  if ((h.compatible & qcow2::kCompatLazyRefcounts) != 0) features += ", lazy refcounts";
  row("features", features);
  if ((h.incompatible & qcow2::kIncompatDirty) != 0) row("dirty", "it was not closed cleanly, or is in use");
  if ((h.incompatible & qcow2::kIncompatCorrupt) != 0)
    row("corrupt", "it is marked so: 'minivmm disk check'");
  tell_snapshots(info);
  for (const qcow2::Bitmap& bitmap : info.bitmaps) {
    row("bitmap", fmt::format("{}, one bit for {}{}{}", printable(bitmap.name),
                              format_size(uint64_t{1} << bitmap.granularity_bits),
                              (bitmap.flags & qcow2::kBitmapAuto) != 0 ? ", recording" : "",
                              (bitmap.flags & qcow2::kBitmapInUse) != 0 ? ", not saved correctly" : ""));
  }
  for (const std::string& problem : info.problems) row("problem", printable(problem));
}

void tell_text(const LayerInfo& layer) {
  row("image", printable(layer.path));
  row("format", layer.format);
  if (layer.virtual_size)
    row("virtual size", fmt::format("{} ({} bytes)", format_size(*layer.virtual_size), *layer.virtual_size));
  if (layer.actual_size) row("takes up", format_size(*layer.actual_size));
  if (layer.qcow2) tell_qcow2(layer);
}

void show(const DiskInfoOptions& o) {
  const auto engine = IoEngine::create();
  const std::vector<LayerInfo> layers = look_at_all(*engine, o);
  if (!o.json) {
    for (const LayerInfo& layer : layers) {
      if (&layer != &layers.front()) fmt::print("\n");
      tell_text(layer);
    }
  } else if (o.chain) {
    json::array list;
    for (const LayerInfo& layer : layers) list.push_back(to_json(layer));
    print_json(list);
  } else {
    print_json(to_json(layers.front()));
  }
}

}  // namespace

void add_disk_info(CLI::App& disk, Action& action) {
  auto* verb =
      disk.add_subcommand("info", "Show what an image is: format, sizes, backing file, snapshots, bitmaps");
  verb->footer("Status: 0 done, 1 failure, 2 usage error.");
  auto options = std::make_shared<DiskInfoOptions>();
  verb->add_option("IMAGE", options->path, "The image; a machine may be using it")->required();
  verb->add_option("--format", options->format, "The image's format (default auto: by its first bytes)")
      ->type_name("FORMAT");
  verb->add_flag("--chain", options->chain, "Show the backing files below it too");
  verb->add_flag("--json", options->json,
                 "Print it as JSON, with qemu-img info's names; a list with --chain");
  verb->callback(
      [&action, options] { action = [options] { return run_disk_tool([&] { show(*options); }); }; });
}

}  // namespace minivmm
