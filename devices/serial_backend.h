// Where a serial port's bytes come from and go to on the host. Bounded both ways: output waits (or, where
// nobody reads, is dropped oldest first), input is read only as the guest takes it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "vmm/core/event_loop.h"
#include "vmm/core/log.h"

namespace minivmm {

// The device's end of the cable. Called on the event loop's thread.
class SerialPort {
 public:
  virtual ~SerialPort() = default;
  // How many bytes input() would take now. After a 0 the port calls SerialBackend::resume_input() once it has
  // room again.
  virtual size_t input_room() = 0;
  virtual void input(std::span<const std::byte> data) = 0;  // what exceeds input_room() is lost
  virtual void output_drained() = 0;  // there is room again after a write() that took less than given
  virtual void peer_changed() {}      // SerialBackend::has_peer() has
};

class SerialBackend {
 public:
  virtual ~SerialBackend() = default;  // on the loop's thread or with the loop stopped; tries a flush()

  // The port outlives its connection; nullptr disconnects (on the loop's thread, or with the loop stopped).
  virtual void connect(SerialPort* port) = 0;
  // Takes what there is room for and returns how much that was; any thread, never blocks.
  virtual size_t write(std::span<const std::byte> data) = 0;
  virtual void resume_input() = 0;  // any thread
  // Whether somebody is at the other end, or nobody can tell; any thread.
  virtual bool has_peer() const { return true; }
  // Writes out what is buffered; any thread. Gives up after two seconds in which the reader took nothing.
  virtual void flush() = 0;
};

// Changes input in place before the guest gets it (the console's escape keys); returns how much is left.
using SerialInputFilter = std::function<size_t(std::span<std::byte>)>;

// Back ends are made before the event loop runs, or on its thread.

// Output vanishes, input never comes.
std::unique_ptr<SerialBackend> make_null_serial();

// What a reader does that takes nothing for a second.
enum class SlowReader : uint8_t {
  holds_guest,   // its output waits, however long
  loses_output,  // the oldest output goes: for a guest whose CPU would spin meanwhile, as Linux's for hvc0
                 // does
};

// Standard input and output, or any two descriptors (-1: that direction does not exist). They are not owned
// and their flags stay as they are. A slow reader holds the guest's output back; end of input is no error. On
// a terminal, the filter sees what is typed even when the guest takes no input.
std::unique_ptr<SerialBackend> make_fd_serial(EventLoop&, Log&, int input, int output,
                                              SerialInputFilter filter = {},
                                              SlowReader slow = SlowReader::holds_guest);

// Output into a file, created or emptied; no input. Throws HostError.
std::unique_ptr<SerialBackend> make_file_serial(EventLoop&, Log&, const std::string& path);

// A new pseudo-terminal in raw mode, whose name goes to `opened` ("/dev/pts/3"). Throws HostError.
std::unique_ptr<SerialBackend> make_pty_serial(EventLoop&, Log&, std::string& opened);

// Listens on a Unix stream socket; one client at a time, the others wait. A new client first gets the newest
// output that nobody has read. A stale socket at `path` is replaced. Throws HostError.
std::unique_ptr<SerialBackend> make_socket_serial(EventLoop&, Log&, const std::string& path);

}  // namespace minivmm
