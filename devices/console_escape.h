// The console's escape keys, as QEMU's and minicom's users know them: Ctrl-A, then x quits, h helps, a or
// Ctrl-A again gives the guest one Ctrl-A; any other key after Ctrl-A is swallowed with it.
#pragma once

#include <cstddef>
#include <functional>
#include <span>

namespace minivmm {

class ConsoleEscape {
 public:
  ConsoleEscape(std::function<void()> quit, std::function<void()> help);

  // Removes escape sequences from `data` in place, calling back for each; returns how many bytes are left. A
  // sequence may be split over calls. A SerialInputFilter.
  size_t filter(std::span<std::byte> data);

 private:
  std::function<void()> quit_;
  std::function<void()> help_;
  bool escaped_ = false;
};

}  // namespace minivmm
