#include "vmm/core/fd.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>

#include "vmm/core/error.h"

namespace minivmm {

UniqueFd& UniqueFd::operator=(UniqueFd&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

void UniqueFd::reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

EventFd::EventFd() : fd_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (!fd_) throw_errno("create an eventfd", "raise the limit of open files (ulimit -n)");
}

void EventFd::signal() const {
  const uint64_t one = 1;
  // EAGAIN means the counter is full: the reader has a wake-up pending already.
  [[maybe_unused]] const ssize_t written = ::write(fd_.get(), &one, sizeof one);
}

void EventFd::signal_shared() const {
  // Full: whoever waits for it has a wake-up pending already. There is no RWF_NOWAIT for writing to one.
  pollfd room{fd_.get(), POLLOUT, 0};
  if (::poll(&room, 1, 0) == 1 && (room.revents & POLLOUT) != 0) signal();
}

// Whoever shares it, as a vhost-user back end does, can make it a blocking one: NOWAIT does not go by that
// (Linux 5.8).
bool EventFd::consume() const {
  uint64_t count = 0;
  const iovec piece{&count, sizeof count};
  const ssize_t got = ::preadv2(fd_.get(), &piece, 1, -1, RWF_NOWAIT);
  if (got >= 0 || errno != EOPNOTSUPP) return got == static_cast<ssize_t>(sizeof count);
  return ::read(fd_.get(), &count, sizeof count) == static_cast<ssize_t>(sizeof count);
}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  if (this != &other) {
    reset();
    address_ = std::exchange(other.address_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

Mapping Mapping::map(size_t size, int protection, int flags, int fd, uint64_t offset, const char* what) {
  void* address = ::mmap(nullptr, size, protection, flags, fd, static_cast<off_t>(offset));
  if (address == MAP_FAILED) throw_errno(fmt::format("map {} bytes for {}", size, what));
  return {address, size};
}

void Mapping::reset() {
  if (address_ != nullptr) ::munmap(address_, size_);
  address_ = nullptr;
  size_ = 0;
}

}  // namespace minivmm
