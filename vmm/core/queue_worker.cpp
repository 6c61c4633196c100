#include "vmm/core/queue_worker.h"

#include <pthread.h>
#include <sys/epoll.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <system_error>
#include <utility>

namespace minivmm {

namespace {

constexpr uint64_t kWake = ~uint64_t{0};

bool watch(int epoll, int fd, uint32_t events, uint64_t tag) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = tag;
  return ::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

}  // namespace

Result<std::unique_ptr<QueueWorker>> QueueWorker::start(const std::string& name, const EventFd& kick,
                                                        std::span<const int> extra, Work work, Last last) {
  // May run on a vCPU thread, where nothing may be thrown (std::thread and EventFd do).
  try {
    std::unique_ptr<QueueWorker> worker(new QueueWorker());
    worker->work_ = std::move(work);
    worker->last_ = std::move(last);
    worker->epoll_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
    const int epoll = worker->epoll_.get();
    if (epoll < 0 || !watch(epoll, worker->wake_.fd(), EPOLLIN, kWake) ||
        !watch(epoll, kick.fd(), EPOLLIN | EPOLLET, 0)) {
      return fail(Errc::io, "cannot watch a queue's doorbell");
    }
    for (size_t i = 0; i < extra.size(); ++i) {
      if (!watch(epoll, extra[i], EPOLLIN | EPOLLET, i + 1))
        return fail(Errc::io, "cannot watch a queue's descriptor");
    }
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);  // inherited: the program's signals are not for this thread
    try {
      worker->thread_ = std::thread([w = worker.get()] { w->run(); });
    } catch (const std::system_error&) {
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
      throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    pthread_setname_np(worker->thread_.native_handle(), name.substr(0, 15).c_str());
    return worker;
  } catch (const std::system_error&) {
    return fail(Errc::io, "cannot start a queue's thread: the host has no more threads or descriptors");
  }
}

QueueWorker::~QueueWorker() {
  stop();
}

void QueueWorker::stop() {
  if (!thread_.joinable()) return;
  stop_.request(StopFlag::Clock::now() + kStopDeadline);
  wake_.signal();
  thread_.join();
}

void QueueWorker::run() {
  work_(0, stop_);
  std::array<epoll_event, 8> events{};
  while (!stop_.requested()) {
    const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), -1);
    for (int i = 0; i < count && !stop_.requested(); ++i) {
      const uint64_t tag = events[static_cast<size_t>(i)].data.u64;
      if (tag != kWake) work_(static_cast<unsigned>(tag), stop_);
    }
  }
  if (last_) last_(stop_);
}

}  // namespace minivmm
