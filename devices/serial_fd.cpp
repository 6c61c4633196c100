// Serial back ends on plain descriptors: none at all, standard input and output, a file.
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <optional>
#include <utility>

#include "devices/serial_backend.h"
#include "devices/serial_input.h"
#include "devices/serial_output.h"
#include "vmm/core/error.h"

namespace minivmm {

namespace {

class NullSerial final : public SerialBackend {
 public:
  void connect(SerialPort*) override {}
  size_t write(std::span<const std::byte> data) override { return data.size(); }
  void resume_input() override {}
  void flush() override {}
};

class FdSerial final : public SerialBackend {
 public:
  FdSerial(EventLoop& loop, Log& log, int input, UniqueFd output, SerialInputFilter filter, SlowReader slow)
      : output_(loop, log,
                slow == SlowReader::holds_guest ? SerialOutput::WhenStuck::wait
                                                : SerialOutput::WhenStuck::discard,
                [this] {
                  if (port_ != nullptr) port_->output_drained();
                }) {
    if (output) {
      output_.set_fd(std::move(output));
      writes_ = true;
    }
    if (input >= 0) input_.emplace(loop, input, std::move(filter), ::isatty(input) == 1, [] {});
  }
  FdSerial(const FdSerial&) = delete;
  FdSerial& operator=(const FdSerial&) = delete;
  ~FdSerial() override { output_.flush(); }

  void connect(SerialPort* port) override {
    port_ = port;
    if (input_) input_->connect(port);
  }
  size_t write(std::span<const std::byte> data) override {
    return writes_ ? output_.write(data) : data.size();
  }
  void resume_input() override {
    if (input_) input_->resume();
  }
  void flush() override { output_.flush(); }

 private:
  SerialPort* port_ = nullptr;
  bool writes_ = false;
  SerialOutput output_;
  std::optional<SerialInput> input_;
};

}  // namespace

std::unique_ptr<SerialBackend> make_null_serial() {
  return std::make_unique<NullSerial>();
}

std::unique_ptr<SerialBackend> make_fd_serial(EventLoop& loop, Log& log, int input, int output,
                                              SerialInputFilter filter, SlowReader slow) {
  return std::make_unique<FdSerial>(loop, log, input, output >= 0 ? open_for_output(output) : UniqueFd{},
                                    std::move(filter), slow);
}

std::unique_ptr<SerialBackend> make_file_serial(EventLoop& loop, Log& log, const std::string& path) {
  // O_NONBLOCK: a named pipe nobody reads is an error now, not a wait.
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0666));
  if (!fd) throw_errno("open serial output file " + path, "name a file that can be created or written");
  return std::make_unique<FdSerial>(loop, log, -1, std::move(fd), SerialInputFilter{},
                                    SlowReader::holds_guest);
}

}  // namespace minivmm
