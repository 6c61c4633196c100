// `minivmm disk check`: whether an image is consistent, and its repair.
#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <memory>
#include <string>

#include "devices/block/block_file.h"
#include "devices/block/image_format.h"
#include "devices/block/qcow2/check.h"
#include "devices/block/qcow2/metadata_io.h"
#include "disk.h"
#include "disk_tool.h"
#include "json.h"
#include "vmm/core/error.h"
#include "vmm/core/spec_string.h"

namespace minivmm {

namespace {

// As qemu-img's; 1 is what main() makes of an exception.
constexpr int kCorrupt = 2;
constexpr int kLeaks = 3;

struct DiskCheckOptions {
  std::string path;
  std::string format = "auto";
  std::string repair;
  bool json = false;
};

std::string format_of(IoEngine& engine, BlockFile& file, const DiskCheckOptions& o) {
  if (o.format != "auto") return o.format;
  std::array<std::byte, kSectorSize> first{};
  check_done(engine.run(qcow2::read_bytes(engine, file, 0, first)), fmt::format("read {}", o.path));
  return std::string(
      probe_image_format(std::span(first).first(std::min<uint64_t>(first.size(), file.size()))).name);
}

// Nothing is in them that could contradict itself.
int tell_without_check(const DiskCheckOptions& o, const std::string& format) {
  if (o.json) {
    print_json(json::object{{"filename", o.path}, {"format", format}, {"checkable", false}});
  } else {
    fmt::print("{}: {} images have no metadata that could be checked here\n", o.path, format);
  }
  return 0;
}

std::string plural(uint64_t count, const char* noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

void tell_text(const DiskCheckOptions& o, const qcow2::CheckResult& r) {
  for (const std::string& message : r.messages) fmt::print("{}\n", message);
  if (r.more_messages != 0) fmt::print("... and {} more\n", r.more_messages);
  if (r.corruptions_fixed + r.leaks_fixed != 0)
    fmt::print("Repaired: {}, {}.\n", plural(r.corruptions_fixed, "corruption"),
               plural(r.leaks_fixed, "leak"));
  if (r.lost != 0)
    fmt::print("Cleared entries that led nowhere: {}. They read as zeroes (version 2: as what is below).\n",
               r.lost);
  const char* than_before = r.corruptions_fixed + r.leaks_fixed != 0 ? " any more" : "";
  if (r.corruptions == 0 && r.leaks == 0) {
    fmt::print("No errors are in the image{}.\n", than_before);
  } else {
    const bool asked = !o.repair.empty();
    if (r.corruptions != 0)
      fmt::print("{}: data may be lost. {}\n", plural(r.corruptions, "corruption"),
                 !asked                ? "'--repair' mends what can be (keep a copy)."
                 : o.repair == "leaks" ? "'--repair=all' mends what can be (keep a copy)."
                                       : "They cannot be mended: save what you can with 'disk convert'.");
    if (r.leaks != 0)
      fmt::print("{}: space is wasted, no data is at risk.{}\n", plural(r.leaks, "leaked cluster"),
                 asked ? "" : " '--repair=leaks' frees them.");
  }
  if (r.dirty) fmt::print("It was not closed cleanly; its reference counts are rebuilt when it is opened.\n");
  if (r.marked_corrupt)
    fmt::print("It is marked as corrupt; '--repair' removes the mark if it is in order.\n");
  const auto share = [](uint64_t part, uint64_t whole) {
    return whole == 0 ? 0.0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole);
  };
  fmt::print("{}/{} = {:.2f}% allocated, {:.2f}% fragmented, {:.2f}% compressed clusters\n",
             r.allocated_clusters, r.total_clusters, share(r.allocated_clusters, r.total_clusters),
             share(r.fragmented_clusters, r.allocated_clusters),
             share(r.compressed_clusters, r.allocated_clusters));
  fmt::print("Image end offset: {}\n", r.image_end);
}

void tell_json(const DiskCheckOptions& o, const qcow2::CheckResult& r) {
  json::array messages;
  for (const std::string& message : r.messages) messages.emplace_back(message);
  print_json(json::object{{"filename", o.path},
                          {"format", "qcow2"},
                          {"check-errors", 0},
                          {"corruptions", r.corruptions},
                          {"leaks", r.leaks},
                          {"corruptions-fixed", r.corruptions_fixed},
                          {"leaks-fixed", r.leaks_fixed},
                          {"lost-entries", r.lost},
                          {"dirty-flag", r.dirty},
                          {"corrupt", r.marked_corrupt},
                          {"total-clusters", r.total_clusters},
                          {"allocated-clusters", r.allocated_clusters},
                          {"compressed-clusters", r.compressed_clusters},
                          {"fragmented-clusters", r.fragmented_clusters},
                          {"image-end-offset", r.image_end},
                          {"messages", std::move(messages)},
                          {"more-messages", r.more_messages}});
}

int check(const DiskCheckOptions& o) {
  const auto engine = IoEngine::create();
  const auto file = BlockFile::open(o.path, {.read_only = o.repair.empty()});
  const std::string format = format_of(*engine, *file, o);
  if (format != "qcow2") return tell_without_check(o, format);

  qcow2::CheckOptions options;
  options.repair = o.repair.empty()      ? qcow2::Repair::none
                   : o.repair == "leaks" ? qcow2::Repair::leaks
                                         : qcow2::Repair::all;
  Progress progress("checking", file->size());
  // Of the L2 tables; the bar counts bytes.
  options.progress = [&](uint64_t done, uint64_t total) {
    progress.update(static_cast<uint64_t>(static_cast<double>(done) / static_cast<double>(total) *
                                          static_cast<double>(file->size())));
  };
  std::string why;
  const auto result = engine->run(qcow2::check_image(*engine, *file, options, why));
  if (!result) throw HostError(EIO, fmt::format("cannot check the disk image {}: {}", o.path, why));
  if (o.json) {
    tell_json(o, *result);
  } else {
    tell_text(o, *result);
  }
  return result->corruptions != 0 ? kCorrupt : result->leaks != 0 ? kLeaks : 0;
}

}  // namespace

void add_disk_check(CLI::App& disk, Action& action) {
  auto* verb = disk.add_subcommand("check", "Check an image's consistency, and repair it");
  verb->footer(
      "Status: 0 in order, 1 it could not be checked, 2 corruptions (or a usage error), 3 leaked clusters "
      "only.");
  auto options = std::make_shared<DiskCheckOptions>();
  verb->add_option("IMAGE", options->path, "The image; no machine may be using it")->required();
  verb->add_flag(
          "--repair{all}", options->repair,
          "Mend it: --repair=leaks frees what nothing refers to; --repair or --repair=all also rebuilds "
          "reference counts, and clears entries that lead nowhere")
      ->check(CLI::IsMember({"leaks", "all"}).description(""));
  verb->add_option("--format", options->format, "The image's format (default auto: by its first bytes)")
      ->type_name("FORMAT");
  verb->add_flag("--json", options->json, "Print the result as JSON, with qemu-img check's names");
  verb->callback([&action, options] { action = [options] { return check(*options); }; });
}

}  // namespace minivmm
