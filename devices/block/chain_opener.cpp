#include "devices/block/chain_opener.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>

#include "devices/block/block_file.h"
#include "devices/block/guessed_raw.h"
#include "devices/block/image_format.h"
#include "vmm/core/error.h"

namespace minivmm {

namespace {

// The first sector, or as much as the file has. Aligned, for a file that bypasses the page cache.
class FirstSector {
 public:
  explicit FirstSector(const BlockFile& file) {
    do {
      length_ = ::pread(file.fd(), bytes_.data(), bytes_.size(), 0);
    } while (length_ < 0 && errno == EINTR);
    if (length_ < 0) throw_errno(fmt::format("read the disk image {}", file.path()));
  }
  std::span<const std::byte> bytes() const {
    return std::span(bytes_).first(std::min<size_t>(static_cast<size_t>(length_), kSectorSize));
  }

 private:
  alignas(4096) std::array<std::byte, 4096> bytes_{};
  ssize_t length_ = 0;
};

// Whether it is of a format that is never written: then it need not be writable, nor ours alone. A guess,
// like the one that is made of the file once it is locked.
bool is_only_read(const std::string& path, const std::string& format) {
  const ImageFormat* const said = find_image_format(format);
  if (!format.empty()) return said != nullptr && said->only_read;
  return probe_image_format(FirstSector(*BlockFile::open(path, {.read_only = true, .lock = false})).bytes())
      .only_read;
}

std::string known_schemes() {
  std::vector<std::string_view> prefixes;
  for (const DiskScheme& scheme : disk_schemes()) prefixes.push_back(scheme.prefix);
  return prefixes.empty() ? "name a file or a block device"
                          : fmt::format("known are files, block devices, {}", fmt::join(prefixes, ", "));
}

}  // namespace

void ChainOpener::admit(const std::string& path, std::string_view what) {
  struct stat info{};
  if (::stat(path.c_str(), &info) != 0) {
    if (layers_.empty()) return;  // opening it says why
    throw_errno(fmt::format("open the {} {} of the disk image {}", what, path, layers_.back().path),
                "put it there, or name another (minivmm disk rebase --unsafe --backing FILE)");
  }
  if (!layers_.empty() && !S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode)) {
    const char* const kind = S_ISDIR(info.st_mode)    ? "a directory"
                             : S_ISFIFO(info.st_mode) ? "a FIFO"
                             : S_ISSOCK(info.st_mode) ? "a socket"
                                                      : "a character device";
    throw HostError(EINVAL,
                    fmt::format("cannot use the disk image {}: its {} {} is {}; it has to be a file or a "
                                "block device",
                                layers_.back().path, what, path, kind));
  }
  const std::pair identity{info.st_dev, info.st_ino};
  if (const auto seen = std::ranges::find(identities_, identity); seen != identities_.end()) {
    const auto index = static_cast<size_t>(seen - identities_.begin());
    throw HostError(ELOOP, fmt::format("cannot use the disk image {}: its {} {} is {}, which is in the same "
                                       "chain already: a loop",
                                       layers_.back().path, what, path, identity_paths_[index]));
  }
  identities_.push_back(identity);
  identity_paths_.push_back(path);
}

std::unique_ptr<BlockBackend> ChainOpener::open(const std::string& path, const Layer& wanted) {
  if (layers_.size() >= kMaxChainDepth) {
    throw HostError(ELOOP, fmt::format("cannot use the disk image {}: its chain has more than {} files; "
                                       "shorten it with minivmm disk commit or rebase",
                                       layers_.front().path, kMaxChainDepth));
  }
  if (!url_scheme(path).empty()) return open_url(path, wanted);
  admit(path, "backing file");
  const bool read_only = wanted.read_only || is_only_read(path, wanted.format);
  auto file =
      BlockFile::open(path, {.read_only = read_only, .cache = options_.cache, .blocking = options_.blocking});
  const bool guessed = wanted.format.empty();
  const ImageFormat* const format =
      guessed ? &probe_image_format(FirstSector(*file).bytes()) : find_image_format(wanted.format);
  if (format == nullptr) {
    throw HostError(EINVAL, fmt::format("cannot use the disk image {}: there is no image format '{}' here",
                                        path, wanted.format));
  }
  if (format->open == nullptr) {
    throw HostError(EINVAL, fmt::format("cannot use the disk image {}: it is {}, which this version does not "
                                        "read; convert it (qemu-img convert -O qcow2), or add format=raw "
                                        "where its bytes are the disk's",
                                        path, format->what));
  }
  const size_t index = layers_.size();
  layers_.push_back({.path = path, .format = std::string(format->name), .format_guessed = guessed});
  may_name_files_.push_back(wanted.may_name_files);
  auto backend = format->open(*this, std::move(file), index);
  layers_[index].capacity = backend->capacity();
  if (guessed && format->probe == nullptr && !backend->read_only()) {
    return std::make_unique<GuessedRaw>(std::move(backend));
  }
  return backend;
}

std::unique_ptr<BlockBackend> ChainOpener::open_url(const std::string& url, const Layer& wanted) {
  for (const DiskScheme& scheme : disk_schemes()) {
    if (!url.starts_with(scheme.prefix)) continue;
    if (!wanted.format.empty() && wanted.format != "raw") {
      throw ConfigError(fmt::format("{}: what a server exports is taken as it is (format=raw), not as {}",
                                    url, wanted.format));
    }
    const size_t index = layers_.size();
    layers_.push_back({.path = url, .format = std::string(url_scheme(url))});
    may_name_files_.push_back(wanted.may_name_files);
    auto backend = scheme.open(*this, url, index);
    layers_[index].capacity = backend->capacity();
    return backend;
  }
  throw ConfigError(
      fmt::format("{}: there are no {}:// disks here; {}", url, url_scheme(url), known_schemes()));
}

OpenedDisk ChainOpener::finish(std::unique_ptr<BlockBackend> top) {
  OpenedDisk disk;
  disk.backend = std::move(top);
  disk.qcow2 = top_qcow2_;
  disk.chain = std::move(layers_);
  disk.warnings = std::move(warnings_);
  return disk;
}

}  // namespace minivmm
