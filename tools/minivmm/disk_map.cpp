// `minivmm disk map`: which parts of a disk are stored, and in which file of its chain.
#include <fmt/format.h>

#include <memory>
#include <optional>
#include <string>

#include "disk.h"
#include "disk_tool.h"
#include "json.h"
#include "vmm/core/error.h"

namespace minivmm {

namespace {

using State = BlockExtent::State;

struct MapOptions {
  std::string path;
  bool as_json = false;
  SourceOptions source;
};

struct Run {
  uint64_t start = 0;
  BlockExtent extent;
};

// Whether `next` goes on where `run` ends, in the file too.
bool continues(const Run& run, const BlockExtent& next) {
  const BlockExtent& e = run.extent;
  return e.state == next.state && e.depth == next.depth && e.has_host_offset == next.has_host_offset &&
         (!e.has_host_offset || e.host_offset + e.length == next.host_offset);
}

// Tells the disk's runs one by one: a map of a large disk is long.
template <class Tell>
void walk(IoEngine& engine, BlockBackend& disk, const Tell& tell) {
  const uint64_t end = disk.capacity();
  std::optional<Run> run;
  for (uint64_t at = 0; at < end;) {
    const auto extent = engine.run(disk.extent(engine, at, end - at));
    if (!extent) check_done(std::unexpected(extent.error()), "map the disk");
    if (run && continues(*run, *extent)) {
      run->extent.length += extent->length;
    } else {
      if (run) tell(*run);
      run = Run{at, *extent};
    }
    at += extent->length;
  }
  if (run) tell(*run);
}

bool is_stored(State state) {
  return state == State::data || state == State::compressed;
}

json::object to_json(const Run& run) {
  const BlockExtent& e = run.extent;
  json::object object{{"start", run.start},
                      {"length", e.length},
                      {"depth", e.depth},
                      {"present", e.state != State::unallocated},
                      {"zero", !is_stored(e.state)},
                      {"data", is_stored(e.state)},
                      {"compressed", e.state == State::compressed}};
  if (e.has_host_offset) object["offset"] = e.host_offset;
  return object;
}

void map(const MapOptions& options) {
  const auto engine = IoEngine::create();
  const OpenedDisk disk = open_for_tool(*engine, options.path, options.source.open(true));
  if (options.as_json) {
    json::array runs;
    walk(*engine, *disk.backend, [&](const Run& run) { runs.push_back(to_json(run)); });
    return print_json(runs);
  }
  fmt::print("{:<16}{:<16}{:<16}{}\n", "Offset", "Length", "Mapped to", "File");
  walk(*engine, *disk.backend, [&](const Run& run) {
    const BlockExtent& e = run.extent;
    if (!is_stored(e.state)) return;
    const std::string where = e.has_host_offset              ? fmt::format("{:#x}", e.host_offset)
                              : e.state == State::compressed ? "compressed"
                                                             : "-";  // a server does not say
    const DiskLayer& layer = disk.chain.at(e.depth);
    fmt::print("{:<#16x}{:<#16x}{:<16}{}\n", run.start, e.length, where,
               layer.data_file.empty() ? layer.path : layer.data_file);
  });
}

}  // namespace

void add_disk_map(CLI::App& disk, Action& action) {
  auto* verb = disk.add_subcommand("map", "List the parts of a disk that are stored, and where");
  auto options = std::make_shared<MapOptions>();
  verb->add_option("IMAGE", options->path, "The image")->required();
  verb->add_flag("--json", options->as_json, "Print all parts, as JSON");
  options->source.add_to(*verb, "--format");
  verb->callback(
      [&action, options] { action = [options] { return run_disk_tool([&] { map(*options); }); }; });
}

}  // namespace minivmm
