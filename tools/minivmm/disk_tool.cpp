#include "disk_tool.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <exception>
#include <filesystem>

#include "devices/block/image_format.h"
#include "devices/block/qcow2/image.h"
#include "interrupt.h"
#include "vmm/core/error.h"

namespace minivmm {

namespace fs = std::filesystem;

int run_disk_tool(const std::function<void()>& work) {
  const Interrupt interrupt;
  try {
    work();
    return 0;
  } catch (const HostError&) {
    if (Interrupt::exit_status() == 0) throw;
    fmt::print(stderr, "minivmm: interrupted\n");
    return Interrupt::exit_status();
  }
}

OpenedDisk open_for_tool(IoEngine& engine, const std::string& path, const OpenImageOptions& options) {
  OpenedDisk disk = open_image(engine, path, options);
  for (const std::string& warning : disk.warnings) fmt::print(stderr, "minivmm: {}\n", warning);
  return disk;
}

void check_done(const Result<void>& result, const std::string& tried) {
  if (result) return;
  const int number = result.error().code == Errc::no_space ? ENOSPC : EIO;
  throw HostError(number, fmt::format("cannot {}: {}", tried, result.error().what));
}

SweepOptions sweep_with(Progress& progress) {
  SweepOptions options;
  options.cancelled = &Interrupt::flag();
  options.progress = [&progress](uint64_t done) { progress.update(done); };
  return options;
}

uint64_t copy_unit(const OpenedDisk& disk) {
  constexpr uint64_t kPage = 4096;
  return disk.qcow2 == nullptr ? kPage : std::max(kPage, disk.qcow2->header().cluster_size());
}

void SourceOptions::add_to(CLI::App& verb, const std::string& format_option) {
  verb.add_option(format_option, format, "The image's format (default auto: by its first bytes)")
      ->type_name("FORMAT");
  verb.add_option("--backing-trust", trust,
                  "Which backing files are opened: safe (default), trusted (also where their formats have to "
                  "be guessed) or none")
      ->check(CLI::IsMember({"safe", "trusted", "none"}))
      ->type_name("HOW");
}

OpenImageOptions SourceOptions::open(bool read_only) const {
  OpenImageOptions options;
  if (format != "auto") {
    if (find_image_format(format) == nullptr) {
      throw ConfigError(fmt::format("there is no image format '{}' here", format));
    }
    options.format = format;
  }
  options.read_only = read_only;
  options.backing = trust == "trusted" ? BackingTrust::trusted
                    : trust == "none"  ? BackingTrust::none
                                       : BackingTrust::safe;
  return options;
}

TargetFile::TargetFile(const std::string& path, bool replace) {
  std::error_code ignored;
  const fs::path real = fs::weakly_canonical(path, ignored);  // a symbolic link stays one
  path_ = real.empty() ? path : real.string();
  struct stat info{};
  if (::stat(path_.c_str(), &info) == 0) {
    if (!replace) {
      throw HostError(EEXIST, fmt::format("cannot write {}: it is there already; --force replaces it", path));
    }
    if (!S_ISREG(info.st_mode)) {
      throw HostError(EINVAL, fmt::format("cannot write {}: it is no regular file", path));
    }
  }
  const fs::path name(path_);
  temporary_ =
      (name.parent_path() / fmt::format(".{}.{}.part", name.filename().string(), ::getpid())).string();
  ::unlink(temporary_.c_str());  // of an earlier process with our number, that was killed
}

TargetFile::~TargetFile() {
  if (!kept_) ::unlink(temporary_.c_str());
}

void TargetFile::keep() {
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) throw_errno(fmt::format("rename to {}", path_));
  kept_ = true;
}

}  // namespace minivmm
