// A serial back end on a pseudo-terminal.
#include <fcntl.h>
#include <termios.h>
#include <cstdlib>

#include <array>
#include <optional>
#include <utility>

#include "devices/serial_backend.h"
#include "devices/serial_input.h"
#include "devices/serial_output.h"
#include "vmm/core/error.h"

namespace minivmm {

namespace {

class PtySerial final : public SerialBackend {
 public:
  PtySerial(EventLoop& loop, Log& log, std::string& opened)
      : output_(loop, log, SerialOutput::WhenStuck::discard, [this] {
          if (port_ != nullptr) port_->output_drained();
        }) {
    constexpr const char* kMend = "is /dev/pts mounted, with a number left under kernel.pty.max?";
    master_ = UniqueFd(::posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC));
    std::array<char, 128> name{};
    if (!master_ || ::grantpt(master_.get()) != 0 || ::unlockpt(master_.get()) != 0 ||
        ::ptsname_r(master_.get(), name.data(), name.size()) != 0) {
      throw_errno("open a pseudo-terminal", kMend);
    }
    slave_ = UniqueFd(::open(name.data(), O_RDWR | O_NOCTTY | O_CLOEXEC));
    termios raw{};
    if (!slave_ || ::tcgetattr(slave_.get(), &raw) != 0) throw_errno("open the pseudo-terminal's end", kMend);
    ::cfmakeraw(&raw);
    ::tcsetattr(slave_.get(), TCSANOW, &raw);
    opened = name.data();

    UniqueFd copy(::fcntl(master_.get(), F_DUPFD_CLOEXEC, 0));
    if (!copy) throw_errno("duplicate the pseudo-terminal's descriptor");
    output_.set_fd(std::move(copy));
    input_.emplace(loop, master_.get(), SerialInputFilter{}, false, [] {});
  }
  PtySerial(const PtySerial&) = delete;
  PtySerial& operator=(const PtySerial&) = delete;
  ~PtySerial() override =
      default;  // no flush: nobody may be there, and what the kernel has goes with the pty

  void connect(SerialPort* port) override {
    port_ = port;
    input_->connect(port);
  }
  size_t write(std::span<const std::byte> data) override { return output_.write(data); }
  void resume_input() override { input_->resume(); }
  void flush() override { output_.flush(); }

 private:
  UniqueFd master_;
  // Kept open, so that the master never hangs up and the terminal settings last between clients. A client
  // that is not there then looks like one that does not read, which SerialOutput deals with.
  UniqueFd slave_;
  SerialPort* port_ = nullptr;
  SerialOutput output_;
  std::optional<SerialInput> input_;
};

}  // namespace

std::unique_ptr<SerialBackend> make_pty_serial(EventLoop& loop, Log& log, std::string& opened) {
  return std::make_unique<PtySerial>(loop, log, opened);
}

}  // namespace minivmm
