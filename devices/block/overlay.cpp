#include "devices/block/overlay.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include "devices/block/backing_name.h"
#include "devices/block/image_format.h"
#include "devices/block/open_qcow2.h"
#include "devices/block/qcow2/create.h"
#include "devices/block/qcow2/image.h"
#include "vmm/core/error.h"

namespace minivmm {

namespace {

// /tmp is often in memory; what a guest writes may be much.
std::string temporary_folder() {
  const char* const set = std::getenv("TMPDIR");  // NOLINT(concurrency-mt-unsafe): nobody sets it
  return set != nullptr && *set != '\0' ? set : "/var/tmp";
}

UniqueFd open_unnamed(const std::string& folder) {
  UniqueFd fd(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (fd || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT)) return fd;
  // The file system has no unnamed files: one whose name goes at once.
  std::string name = folder + "/minivmm-overlay-XXXXXX";
  fd = UniqueFd(::mkostemp(name.data(), O_CLOEXEC));
  if (fd) ::unlink(name.c_str());
  return fd;
}

qcow2::CreateOptions over(const OpenedDisk& image) {
  const DiskLayer& below = image.chain.front();
  qcow2::CreateOptions create;
  create.size = image.backend->capacity();
  create.backing_format = url_scheme(below.path).empty() ? below.format : "raw";
  return create;
}

std::string named_backing(IoEngine& engine, const std::string& overlay) {
  const auto file = BlockFile::open(overlay, {.read_only = true});
  const qcow2::Header header = read_qcow2_header(engine, *file);
  if (header.backing_file.empty()) {
    throw HostError(EINVAL, fmt::format("cannot use {} as an overlay: it has no backing file", overlay));
  }
  return resolve_backing_name(header.backing_file, overlay, BackingTrust::trusted);
}

}  // namespace

OpenedDisk open_temporary_overlay(IoEngine& engine, const std::string& path,
                                  const OpenImageOptions& options) {
  OpenImageOptions below = options;
  below.read_only = true;
  OpenedDisk disk = open_image(engine, path, below);
  const std::string folder = temporary_folder();
  UniqueFd fd = open_unnamed(folder);
  if (!fd) {
    throw_errno(fmt::format("make a temporary overlay in {}", folder),
                "set TMPDIR to a folder where you can write");
  }
  const std::string name = fmt::format("temporary overlay in {}", folder);
  auto file =
      std::make_unique<BlockFile>(std::move(fd), name, BlockFileOptions{.cache = CacheMode::unsafe}, 0);
  qcow2::CreateOptions create = over(disk);
  create.backing_file = url_scheme(path).empty() ? std::filesystem::absolute(path).string() : path;
  const auto written = engine.run(qcow2::write_image(engine, *file, nullptr, create));
  if (!written) throw HostError(EIO, fmt::format("cannot write the {}: {}", name, written.error().what));
  qcow2::Image::Options top;
  top.backing = std::move(disk.backend);
  top.discard = options.discard;
  std::string why;
  auto image = engine.run(qcow2::Image::open(engine, std::move(file), std::move(top), why));
  if (!image) throw HostError(EIO, fmt::format("cannot use the {}: {}", name, why));
  disk.qcow2 = image->get();
  disk.backend = std::move(*image);
  disk.chain.insert(disk.chain.begin(),
                    {.path = name, .format = "qcow2", .capacity = disk.backend->capacity()});
  return disk;
}

bool is_overlay_there(IoEngine& engine, const std::string& overlay, const std::string& path) {
  struct stat info{};
  if (::stat(overlay.c_str(), &info) != 0 && errno == ENOENT) return false;
  const std::string below = named_backing(engine, overlay);
  if (below != path && !is_same_file(below, path)) {
    throw HostError(EEXIST,
                    fmt::format("cannot use {} as an overlay of {}: it is there already, over {}; name "
                                "another overlay, or that image",
                                overlay, path, below));
  }
  return true;
}

OpenedDisk open_overlay(IoEngine& engine, const std::string& overlay, const std::string& path,
                        const OpenImageOptions& options) {
  if (!is_overlay_there(engine, overlay, path)) {
    OpenImageOptions below = options;
    below.read_only = true;
    const OpenedDisk image = open_image(engine, path, below);
    qcow2::CreateOptions create = over(image);
    create.backing_file = backing_name_for(path, overlay);
    qcow2::create_image(engine, overlay, create);
  }
  return open_existing_overlay(engine, overlay, path, options);
}

OpenedDisk open_existing_overlay(IoEngine& engine, const std::string& overlay, const std::string& path,
                                 const OpenImageOptions& options) {
  OpenImageOptions above = options;
  above.format = "qcow2";
  if (url_scheme(path).empty()) return open_image(engine, overlay, above);
  // Names of servers are refused in images, but this one the user named too.
  OpenImageOptions below = options;
  below.read_only = true;
  OpenedDisk image = open_image(engine, path, below);
  above.below = std::shared_ptr<BlockBackend>(std::move(image.backend));
  OpenedDisk disk = open_image(engine, overlay, above);
  disk.chain.insert(disk.chain.end(), image.chain.begin(), image.chain.end());
  disk.warnings.insert(disk.warnings.end(), image.warnings.begin(), image.warnings.end());
  return disk;
}

}  // namespace minivmm
