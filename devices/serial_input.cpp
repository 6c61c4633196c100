#include "devices/serial_input.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace minivmm {

namespace {
constexpr size_t kTyped = 64;  // read at a time from a terminal whose guest takes no input
}

SerialInput::SerialInput(EventLoop& loop, int fd, SerialInputFilter filter, bool always_listen,
                         std::function<void()> on_end)
    : fd_(fd),
      filter_(std::move(filter)),
      always_listen_(always_listen && filter_),
      on_end_(std::move(on_end)),
      watch_(loop.watch_readable(fd, [this] { on_readable(); })) {}

void SerialInput::connect(SerialPort* port) {
  port_ = port;
  if (port_ != nullptr) watch_->resume();
}

void SerialInput::resume() {
  watch_->resume();
}

void SerialInput::on_readable() {
  if (port_ == nullptr) {
    watch_->pause();
    return;
  }
  size_t room = port_->input_room();
  if (room == 0 && !always_listen_) {
    // The port may have made room, and called resume(), between its answer and this pause: so ask it again.
    watch_->pause();
    room = port_->input_room();
    if (room == 0) return;
    watch_->resume();
  }
  // The descriptor may be a blocking one, and a terminal's other readers may have been quicker.
  pollfd readable{fd_, POLLIN, 0};
  if (::poll(&readable, 1, 0) == 0) return;
  std::array<std::byte, 1024> buffer;
  const size_t want = std::min(room != 0 ? room : kTyped, buffer.size());
  const ssize_t n = ::read(fd_, buffer.data(), want);
  if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == EWOULDBLOCK)) return;
  if (n <= 0) {
    watch_->pause();
    const auto on_end = on_end_;  // which may destroy this
    on_end();
    return;
  }
  std::span<std::byte> data = std::span(buffer).first(static_cast<size_t>(n));
  if (filter_) data = data.first(filter_(data));
  data = data.first(std::min(data.size(), room));
  if (!data.empty()) port_->input(data);
}

}  // namespace minivmm
