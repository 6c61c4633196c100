// A serial back end that listens on a Unix stream socket.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <memory>
#include <utility>

#include "devices/serial_backend.h"
#include "devices/serial_input.h"
#include "devices/serial_output.h"
#include "vmm/core/unix_socket.h"

namespace minivmm {

namespace {

constexpr int kBacklog = 4;

class SocketSerial final : public SerialBackend {
 public:
  SocketSerial(EventLoop& loop, Log& log, const std::string& path)
      : loop_(loop), output_(loop, log, SerialOutput::WhenStuck::discard, [this] {
          if (port_ != nullptr) port_->output_drained();
        }) {
    listener_ = listen_on_unix_socket(path, "serial clients", kBacklog);
    accept_watch_ = loop_.watch_readable(listener_.get(), [this] { on_connection(); });
  }
  SocketSerial(const SocketSerial&) = delete;
  SocketSerial& operator=(const SocketSerial&) = delete;
  ~SocketSerial() override { output_.flush(); }

  void connect(SerialPort* port) override {
    port_ = port;
    if (input_) input_->connect(port);
  }
  size_t write(std::span<const std::byte> data) override { return output_.write(data); }
  // Input belongs to the loop's thread: a client may be going away just now.
  void resume_input() override { resume_timer_->arm(loop_.now()); }
  bool has_peer() const override { return has_peer_.load(std::memory_order_acquire); }
  void flush() override { output_.flush(); }

 private:
  void on_connection();
  void on_input_end();
  void drop_client();
  void set_peer(bool there);

  EventLoop& loop_;
  UnixListener listener_;
  SerialPort* port_ = nullptr;
  SerialOutput output_;
  UniqueFd client_;
  std::atomic<bool> has_peer_{false};
  std::unique_ptr<SerialInput> input_;
  std::unique_ptr<Watch> accept_watch_;
  std::unique_ptr<Timer> resume_timer_ = loop_.make_timer([this] {
    if (input_) input_->resume();
  });
};

void SocketSerial::on_connection() {
  UniqueFd client(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!client) return;
  drop_client();
  UniqueFd copy(::fcntl(client.get(), F_DUPFD_CLOEXEC, 0));
  if (!copy) return;
  client_ = std::move(client);
  accept_watch_->pause();  // others wait in the backlog
  input_ = std::make_unique<SerialInput>(loop_, client_.get(), SerialInputFilter{}, false,
                                         [this] { on_input_end(); });
  input_->connect(port_);
  output_.set_fd(std::move(copy));
  set_peer(true);
}

void SocketSerial::set_peer(bool there) {
  has_peer_.store(there, std::memory_order_release);
  if (port_ != nullptr) port_->peer_changed();
}

// A client that only ended its input may still read; it is replaced when the next one comes.
void SocketSerial::on_input_end() {
  pollfd client{client_.get(), 0, 0};
  const bool gone = ::poll(&client, 1, 0) == 1 && (client.revents & (POLLHUP | POLLERR)) != 0;
  if (gone) {
    drop_client();
  } else {
    accept_watch_->resume();
  }
}

void SocketSerial::drop_client() {
  if (!client_) return;
  input_.reset();
  output_.set_fd({});
  client_.reset();
  set_peer(false);
  accept_watch_->resume();
}

}  // namespace

std::unique_ptr<SerialBackend> make_socket_serial(EventLoop& loop, Log& log, const std::string& path) {
  return std::make_unique<SocketSerial>(loop, log, path);
}

}  // namespace minivmm
