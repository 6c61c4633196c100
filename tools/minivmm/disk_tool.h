// What the subcommands of `minivmm disk` share.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "devices/block/copy/sweep.h"
#include "devices/block/io_engine.h"
#include "devices/block/open_disk.h"
#include "progress.h"

namespace minivmm {

// Runs a subcommand's work with Ctrl-C caught: 0, or the status of the signal that interrupted it. Throws
// what the work throws otherwise.
int run_disk_tool(const std::function<void()>& work);

// Opens an image and tells its warnings on stderr. Throws HostError.
OpenedDisk open_for_tool(IoEngine&, const std::string& path, const OpenImageOptions& options);

// Throws HostError "cannot <tried>: <why>" unless `result` is good.
void check_done(const Result<void>& result, const std::string& tried);

// Threads, progress and Ctrl-C for a copy. `progress` outlives it.
SweepOptions sweep_with(Progress& progress);

// The unit in which a disk is copied: its cluster, or a page.
uint64_t copy_unit(const OpenedDisk& disk);

// --format and --backing-trust: how the image that is worked on is opened. `format` is that option's name.
struct SourceOptions {
  std::string format = "auto";
  std::string trust = "safe";

  void add_to(CLI::App& verb, const std::string& format_option);
  OpenImageOptions open(bool read_only) const;  // throws ConfigError
};

// A file that is written under a temporary name beside its own, and has that only once it is whole.
class TargetFile {
 public:
  // Throws HostError if `path` is there and may not be replaced.
  TargetFile(const std::string& path, bool replace);
  ~TargetFile();  // what was not kept is removed
  TargetFile(const TargetFile&) = delete;
  TargetFile& operator=(const TargetFile&) = delete;

  const std::string& temporary() const { return temporary_; }  // no such file yet
  void keep();                                                 // throws HostError

 private:
  std::string path_;
  std::string temporary_;
  bool kept_ = false;
};

}  // namespace minivmm
