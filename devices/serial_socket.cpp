// A serial back end that listens on a Unix stream socket.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "devices/serial_backend.h"
#include "devices/serial_input.h"
#include "devices/serial_output.h"
#include "vmm/core/error.h"

namespace minivmm {

namespace {

constexpr int kBacklog = 4;

class SocketSerial final : public SerialBackend {
 public:
  SocketSerial(EventLoop& loop, Log& log, const std::string& path)
      : loop_(loop), path_(path), output_(loop, log, SerialOutput::WhenStuck::discard, [this] {
          if (port_ != nullptr) port_->output_drained();
        }) {
    listen_on(path);
    accept_watch_ = loop_.watch_readable(listener_.get(), [this] { on_connection(); });
  }
  SocketSerial(const SocketSerial&) = delete;
  SocketSerial& operator=(const SocketSerial&) = delete;
  ~SocketSerial() override {
    output_.flush();
    ::unlink(path_.c_str());
  }

  void connect(SerialPort* port) override {
    port_ = port;
    if (input_) input_->connect(port);
  }
  size_t write(std::span<const std::byte> data) override { return output_.write(data); }
  // Input belongs to the loop's thread: a client may be going away just now.
  void resume_input() override { resume_timer_->arm(loop_.now()); }
  void flush() override { output_.flush(); }

 private:
  void listen_on(const std::string& path);
  void on_connection();
  void on_input_end();
  void drop_client();

  EventLoop& loop_;
  const std::string path_;
  UniqueFd listener_;
  SerialPort* port_ = nullptr;
  SerialOutput output_;
  UniqueFd client_;
  std::unique_ptr<SerialInput> input_;
  std::unique_ptr<Watch> accept_watch_;
  std::unique_ptr<Timer> resume_timer_ = loop_.make_timer([this] {
    if (input_) input_->resume();
  });
};

void SocketSerial::listen_on(const std::string& path) {
  const std::string tried = "listen for serial clients on " + path;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    errno = ENAMETOOLONG;
    throw_errno(tried, "a socket's path has 1 to 107 bytes");
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  listener_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!listener_) throw_errno(tried);
  if (::bind(listener_.get(), generic, sizeof address) != 0) {
    if (errno != EADDRINUSE) throw_errno(tried, "name a path in a directory that can be written");
    // A socket that refuses is one whose owner has died; anything else there is not ours to remove.
    const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    struct stat info{};
    const bool stale = ::lstat(path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode) && probe &&
                       ::connect(probe.get(), generic, sizeof address) != 0 && errno == ECONNREFUSED;
    if (!stale || ::unlink(path.c_str()) != 0 || ::bind(listener_.get(), generic, sizeof address) != 0) {
      errno = EADDRINUSE;
      throw_errno(tried, "another program uses that path: name another");
    }
  }
  if (::listen(listener_.get(), kBacklog) != 0) throw_errno(tried);
}

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
  accept_watch_->resume();
}

}  // namespace

std::unique_ptr<SerialBackend> make_socket_serial(EventLoop& loop, Log& log, const std::string& path) {
  return std::make_unique<SocketSerial>(loop, log, path);
}

}  // namespace minivmm
