#include "virtio/call_relay.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <system_error>
#include <utility>

#include "vmm/core/quiet_thread.h"

namespace minivmm {

CallRelay::~CallRelay() {
  if (!thread_.joinable()) return;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(stop_.get(), &one, sizeof one);
  thread_.join();
}

Result<void> CallRelay::start() {
  if (thread_.joinable()) return {};
  epoll_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  stop_ = UniqueFd(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = stop_.get();
  if (epoll_ && stop_ && ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, stop_.get(), &event) == 0) {
    try {
      thread_ = start_quiet_thread("calls", [this] { run(); });
      return {};
    } catch (const std::system_error&) {
      // as below
    }
  }
  return fail(Errc::io, "cannot relay interrupts: the host has no more threads or descriptors");
}

Result<void> CallRelay::add(const EventFd& call, std::function<void()> pass_on) {
  const std::scoped_lock lock(mutex_);
  if (auto started = start(); !started) return started;
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = call.fd();
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, call.fd(), &event) != 0)
    return fail(Errc::io, "cannot watch for a queue's interrupts");
  entries_.push_back({&call, std::move(pass_on)});
  return {};
}

void CallRelay::remove(const EventFd& call) {
  const std::scoped_lock lock(mutex_);
  const auto entry = std::ranges::find(entries_, &call, &Entry::call);
  if (entry == entries_.end()) return;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, call.fd(), nullptr);
  if (call.consume()) entry->pass_on();  // the guest may be waiting for it
  entries_.erase(entry);
}

void CallRelay::run() {
  std::array<epoll_event, 8> events{};
  for (;;) {
    const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), -1);
    const std::scoped_lock lock(mutex_);
    for (int i = 0; i < count; ++i) {
      const int fd = events[static_cast<size_t>(i)].data.fd;
      if (fd == stop_.get()) return;
      const auto entry = std::ranges::find_if(entries_, [fd](const Entry& e) { return e.call->fd() == fd; });
      // One that has been removed meanwhile is nobody's.
      if (entry != entries_.end() && entry->call->consume()) entry->pass_on();
    }
  }
}

}  // namespace minivmm
