#include "devices/block/nbd/connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <utility>

#include "devices/block/block_backend.h"

namespace minivmm::nbd {

namespace {

constexpr const char* kAllocation = LIBNBD_CONTEXT_BASE_ALLOCATION;
constexpr uint32_t kMaxMinimumBlock = 65536;          // NBD: "block size constraints"
constexpr uint32_t kMaxPayload = uint32_t{32} << 20;  // what every server takes
constexpr std::chrono::milliseconds kFarewell{200};
constexpr int kSilentHostSeconds = 60;

// Some of it comes from the server, and it goes to a terminal.
std::string printable(std::string text) {
  text.resize(std::min<size_t>(text.size(), 300));
  std::ranges::replace_if(text, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
  return text;
}

int milliseconds_to(Clock::time_point deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
  return static_cast<int>(std::clamp<int64_t>(left.count(), 0, 3'600'000));
}

}  // namespace

std::unique_ptr<Connection> Connection::open(std::shared_ptr<const Library> library, const Endpoint& endpoint,
                                             Clock::time_point deadline, const EventFd* cancel,
                                             std::string& why) {
  std::unique_ptr<Connection> out(new Connection(std::move(library)));
  if (!out->create(why)) return nullptr;
  const Library& nbd = out->library();
  nbd.set_uri_allow_local_file(out->handle_, endpoint.uri_may_name_files);
  if (nbd.aio_connect_uri(out->handle_, endpoint.uri.c_str()) != 0) {
    why = out->last_error();
    return nullptr;
  }
  if (!out->negotiate(deadline, cancel, why)) return nullptr;
  return out;
}

std::unique_ptr<Connection> Connection::open(std::shared_ptr<const Library> library, UniqueFd socket,
                                             Clock::time_point deadline, std::string& why) {
  std::unique_ptr<Connection> out(new Connection(std::move(library)));
  if (!out->create(why)) return nullptr;
  if (out->library().aio_connect_socket(out->handle_, socket.release()) != 0) {
    why = out->last_error();
    return nullptr;
  }
  if (!out->negotiate(deadline, nullptr, why)) return nullptr;
  return out;
}

Connection::~Connection() {
  library_->close(handle_);
}

std::string Connection::last_error() const {
  const char* const text = library_->get_error();
  return text == nullptr ? "libnbd gives no reason" : printable(text);
}

bool Connection::create(std::string& why) {
  handle_ = library_->create();
  if (handle_ != nullptr && library_->add_meta_context(handle_, kAllocation) == 0) return true;
  why = last_error();
  return false;
}

bool Connection::negotiate(Clock::time_point deadline, const EventFd* cancel, std::string& why) {
  while (library_->aio_is_connecting(handle_) == 1) {
    const int left = milliseconds_to(deadline);
    if (left == 0) {
      why = "the server does not answer";
      return false;
    }
    if (cancel != nullptr && cancel->consume()) {
      why = "cancelled";
      return false;
    }
    step(cancel, left);
  }
  if (library_->aio_is_ready(handle_) != 1) {
    why = step_error_.empty() ? "the server closed the connection" : step_error_;
    return false;
  }
  keep_alive();
  return learn(why);
}

bool Connection::learn(std::string& why) {
  const auto is = [this](int (*what)(nbd_handle*)) { return what(handle_) == 1; };
  const auto block = [this](int which, uint32_t otherwise) {
    const int64_t size = library_->get_block_size(handle_, which);
    return size <= 0 ? otherwise : static_cast<uint32_t>(std::min<int64_t>(size, UINT32_MAX));
  };
  const int64_t size = library_->get_size(handle_);
  if (size < 0) {
    why = last_error();
    return false;
  }
  info_ = {.size = static_cast<uint64_t>(size),
           .minimum_block = block(LIBNBD_SIZE_MINIMUM, 1),
           .preferred_block = block(LIBNBD_SIZE_PREFERRED, 4096),
           .maximum_payload = std::min(block(LIBNBD_SIZE_MAXIMUM, kMaxPayload), kMaxPayload),
           .read_only = is(library_->is_read_only),
           .can_flush = is(library_->can_flush),
           .can_trim = is(library_->can_trim),
           .can_zero = is(library_->can_zero),
           .can_map = library_->can_meta_context(handle_, kAllocation) == 1};
  if (!std::has_single_bit(info_.minimum_block) || info_.minimum_block > kMaxMinimumBlock ||
      info_.maximum_payload < info_.minimum_block || info_.maximum_payload < kSectorSize) {
    why = "the server's block sizes make no sense";
    return false;
  }
  return true;
}

// A host that vanished says nothing: without these, a request would wait for it for ever.
void Connection::keep_alive() const {
  const int fd = library_->aio_get_fd(handle_);
  const auto set = [fd](int level, int option, int value) {
    ::setsockopt(fd, level, option, &value, sizeof value);
  };
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, kSilentHostSeconds / 2);
  set(IPPROTO_TCP, TCP_KEEPINTVL, kSilentHostSeconds / 6);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, kSilentHostSeconds * 1000);
}

bool Connection::alive() const {
  return library_->aio_is_dead(handle_) != 1 && library_->aio_is_closed(handle_) != 1;
}

void Connection::step(const EventFd* wake, int timeout_ms) {
  const unsigned direction = library_->aio_get_direction(handle_);
  std::array<pollfd, 2> fds{
      {{library_->aio_get_fd(handle_), 0, 0}, {wake == nullptr ? -1 : wake->fd(), POLLIN, 0}}};
  if ((direction & LIBNBD_AIO_DIRECTION_READ) != 0) fds[0].events |= POLLIN;
  if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0) fds[0].events |= POLLOUT;
  if (::poll(fds.data(), fds.size(), timeout_ms) <= 0 || fds[0].revents == 0) return;
  // An error or a hang-up is found by whichever call comes next.
  const bool readable = (fds[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0;
  int moved = 0;
  if ((direction & LIBNBD_AIO_DIRECTION_READ) != 0 && readable) {
    moved = library_->aio_notify_read(handle_);
  } else if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0) {
    moved = library_->aio_notify_write(handle_);
  }
  if (moved != 0) step_error_ = last_error();
}

void Connection::disconnect() {
  if (!alive() || library_->aio_in_flight(handle_) != 0 || library_->aio_disconnect(handle_, 0) != 0) return;
  const auto deadline = Clock::now() + kFarewell;
  while (alive()) {
    const int left = milliseconds_to(deadline);
    if (left == 0) return;
    step(nullptr, left);
  }
}

}  // namespace minivmm::nbd
