// The input half of a serial back end: reads a descriptor as fast as the port takes what it brings.
#pragma once

#include <functional>
#include <memory>

#include "devices/serial_backend.h"
#include "vmm/core/event_loop.h"

namespace minivmm {

class SerialInput {
 public:
  // Reads `fd`, which outlives it, from the loop's thread. `on_end` is called once, at the end of input or
  // when reading fails; it may destroy this. With `always_listen`, the filter sees input even when the port
  // has no room, and what then exceeds the room is dropped: for a terminal, whose escape keys must always
  // work.
  SerialInput(EventLoop& loop, int fd, SerialInputFilter filter, bool always_listen,
              std::function<void()> on_end);

  void connect(SerialPort* port);  // loop thread, or with the loop stopped; no port: input waits
  void resume();                   // any thread

 private:
  void on_readable();

  const int fd_;
  const SerialInputFilter filter_;
  const bool always_listen_;
  const std::function<void()> on_end_;
  SerialPort* port_ = nullptr;
  std::unique_ptr<Watch> watch_;
};

}  // namespace minivmm
