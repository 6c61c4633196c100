#include "devices/console_escape.h"

#include <utility>

namespace minivmm {

namespace {
constexpr std::byte kCtrlA{0x01};
}

ConsoleEscape::ConsoleEscape(std::function<void()> quit, std::function<void()> help)
    : quit_(std::move(quit)), help_(std::move(help)) {}

size_t ConsoleEscape::filter(std::span<std::byte> data) {
  size_t kept = 0;
  for (const std::byte key : data) {
    if (!std::exchange(escaped_, false)) {
      if (key == kCtrlA) {
        escaped_ = true;
      } else {
        data[kept++] = key;
      }
      continue;
    }
    switch (std::to_integer<char>(key)) {
      case 'x': quit_(); break;
      case 'h': help_(); break;
      case 'a':
      case '\x01': data[kept++] = kCtrlA; break;
      default: break;
    }
  }
  return kept;
}

}  // namespace minivmm
