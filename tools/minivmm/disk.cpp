#include "disk.h"

#include <CLI/CLI.hpp>

namespace minivmm {

void add_disk(CLI::App& app, Action& action) {
  auto* disk = app.add_subcommand("disk", "Create, inspect, check, convert and change disk images");
  disk->require_subcommand(1);
  add_disk_create(*disk, action);
  add_disk_info(*disk, action);
  add_disk_check(*disk, action);
  add_disk_resize(*disk, action);
  add_disk_convert(*disk, action);
  add_disk_commit(*disk, action);
  add_disk_rebase(*disk, action);
  add_disk_map(*disk, action);
}

}  // namespace minivmm
