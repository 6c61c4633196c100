// A test's own folder for files and sockets: ctest runs the tests of one executable as processes side by
// side, so a fixed name is one that another test deletes.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <string>

#include "vmm/core/error.h"

namespace minivmm::test {

class TempFolder {
 public:
  explicit TempFolder(const std::filesystem::path& parent = std::filesystem::temp_directory_path()) {
    std::string path = (parent / "minivmm-test-XXXXXX").string();
    if (::mkdtemp(path.data()) == nullptr) throw_errno("make a temporary folder");
    path_ = path;
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace minivmm::test
