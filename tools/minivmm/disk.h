// `minivmm disk`: images as files, no machine. One file a subcommand.
#pragma once

#include "verbs.h"

namespace minivmm {

void add_disk_create(CLI::App& disk, Action& action);
void add_disk_info(CLI::App& disk, Action& action);
void add_disk_check(CLI::App& disk, Action& action);
void add_disk_resize(CLI::App& disk, Action& action);
void add_disk_convert(CLI::App& disk, Action& action);
void add_disk_commit(CLI::App& disk, Action& action);
void add_disk_rebase(CLI::App& disk, Action& action);
void add_disk_map(CLI::App& disk, Action& action);

}  // namespace minivmm
