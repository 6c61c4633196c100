// A new image in new files.
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <utility>

#include "devices/block/qcow2/create.h"
#include "vmm/core/error.h"

namespace minivmm::qcow2 {

namespace {

// A file that goes away again unless it is kept.
class NewFile {
 public:
  explicit NewFile(const std::string& path) : file_(BlockFile::open(path, {.create = true})) {}
  ~NewFile() {
    if (!kept_) ::unlink(file_->path().c_str());
  }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  BlockFile& operator*() const { return *file_; }
  void keep() { kept_ = true; }

 private:
  std::unique_ptr<BlockFile> file_;
  bool kept_ = false;
};

}  // namespace

void create_image(IoEngine& engine, const std::string& path, const CreateOptions& options) {
  if (const char* why = why_not_create(options))
    throw ConfigError(fmt::format("cannot create the disk image {}: {}", path, why));
  NewFile image(path);
  std::optional<NewFile> data;
  if (!options.data_file.empty())  // an absolute name stays as it is
    data.emplace((std::filesystem::path(path).parent_path() / options.data_file).string());
  const auto written = engine.run(write_image(engine, *image, data ? &**data : nullptr, options));
  if (!written) {
    throw HostError(written.error().code == Errc::no_space ? ENOSPC : EIO,
                    fmt::format("cannot create the disk image {}: {}", path, written.error().what));
  }
  image.keep();
  if (data) data->keep();
}

}  // namespace minivmm::qcow2
