// Opens an image and the files below it, each once.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "devices/block/open_disk.h"

namespace minivmm {

class ChainOpener {
 public:
  // How one layer is to be opened.
  struct Layer {
    std::string format = {};  // empty: guessed
    bool read_only = false;
    bool may_name_files = true;
  };

  ChainOpener(IoEngine& engine, const OpenImageOptions& options) : engine_(engine), options_(options) {}

  // The image at `path` (or the URL) becomes the chain's next layer. Throws HostError.
  std::unique_ptr<BlockBackend> open(const std::string& path, const Layer& wanted);
  OpenedDisk finish(std::unique_ptr<BlockBackend> top);

  // For the formats (ImageFormat::open).
  IoEngine& engine() { return engine_; }
  const OpenImageOptions& options() const { return options_; }
  DiskLayer& layer(size_t index) { return layers_[index]; }
  bool may_name_files(size_t index) const { return may_name_files_[index]; }
  void warn(std::string line) { warnings_.push_back(std::move(line)); }
  void set_top(qcow2::Image* image) { top_qcow2_ = image; }
  // Refuses what is no file or block device, or is in the chain already. `what`: "backing file".
  void admit(const std::string& path, std::string_view what);

 private:
  std::unique_ptr<BlockBackend> open_url(const std::string& url, const Layer& wanted);

  IoEngine& engine_;
  OpenImageOptions options_;
  std::vector<DiskLayer> layers_;
  std::vector<bool> may_name_files_;
  std::vector<std::pair<dev_t, ino_t>> identities_;
  std::vector<std::string> identity_paths_;
  std::vector<std::string> warnings_;
  qcow2::Image* top_qcow2_ = nullptr;
};

}  // namespace minivmm
