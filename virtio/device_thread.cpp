#include "virtio/device_thread.h"

#include <array>
#include <system_error>
#include <utility>

#include "vmm/core/quiet_thread.h"

namespace minivmm {

namespace {
constexpr uint64_t kWake = ~uint64_t{0};
}

DeviceThread::DeviceThread(const std::string& name, Hooks hooks)
    : name_(name.substr(0, 15)), hooks_(std::move(hooks)), epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
  if (!epoll_ || !watch(wake_.fd(), EPOLLIN, kWake)) throw_errno("watch a device's descriptors");
}

Result<void> DeviceThread::start() {
  if (thread_.joinable()) return {};
  try {
    thread_ = start_quiet_thread(name_.c_str(), [this] { run(); });
    return {};
  } catch (const std::system_error&) {
    return fail(Errc::io, "cannot start a device's thread: the host has no more threads");
  }
}

void DeviceThread::stop() {
  if (!thread_.joinable()) return;
  stop_.store(true, std::memory_order_release);
  wake_.signal();
  thread_.join();
}

Result<void> DeviceThread::watch(int fd, uint32_t events, uint64_t tag) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = tag;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return fail(Errc::io, "cannot watch a device's descriptor");
  }
  return {};
}

void DeviceThread::forget(int fd) {
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

DeviceThread::Lock::Lock(DeviceThread& thread) : thread_(thread) {
  thread_.waiting_.fetch_add(1, std::memory_order_relaxed);
  thread_.mutex_.lock();
}

DeviceThread::Lock::~Lock() {
  thread_.mutex_.unlock();
  // Release and notify: pairs with the wait in run(). The mutex is what orders the device's state.
  if (thread_.waiting_.fetch_sub(1, std::memory_order_release) == 1) thread_.waiting_.notify_all();
}

void DeviceThread::run() {
  std::array<epoll_event, 64> events{};
  bool more = true;  // what came before the thread was there
  while (!stop_.load(std::memory_order_acquire)) {
    const int count =
        ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), more ? 0 : -1);
    for (uint32_t others = waiting_.load(); others != 0; others = waiting_.load()) waiting_.wait(others);
    const std::scoped_lock lock(mutex_);
    for (int i = 0; i < count; ++i) {
      const epoll_event& event = events[static_cast<size_t>(i)];
      if (event.data.u64 == kWake) {
        wake_.consume();
      } else {
        hooks_.ready(event.data.u64, event.events);
      }
    }
    more = hooks_.work();
  }
}

}  // namespace minivmm
