#include "devices/net/net_rate.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <chrono>

#include "devices/net/frame_pieces.h"
#include "devices/net/net_filter.h"
#include "vmm/core/fd.h"

namespace minivmm {

namespace {

using std::chrono::nanoseconds;

// A wake-up for each frame would cost more than the frame; the burst is some milliseconds' worth anyway.
constexpr nanoseconds kShortestSleep = std::chrono::milliseconds(1);
constexpr nanoseconds kLongestSleep = std::chrono::seconds(3600);

struct Limits {
  explicit Limits(const RateLimiter::Bucket& bytes) : received({}, bytes), sent({}, bytes) {}
  RateLimiter received;
  RateLimiter sent;
};

// Readable when its descriptor below is, or when there are tokens again: an epoll instance over both. Each
// event of one below is an event of it, so it can be watched edge-triggered.
class RateQueue final : public NetQueueFilter {
 public:
  RateQueue(NetQueue& below, Limits& limits)
      : NetQueueFilter(below),
        limits_(limits),
        timer_(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)),
        both_(::epoll_create1(EPOLL_CLOEXEC)) {
    if (!timer_ || !both_ || !watch(timer_.get()) || (below.fd() >= 0 && !watch(below.fd()))) {
      throw_errno("limit a network's rate");
    }
  }

  int fd() const override { return both_.get(); }
  bool ready() override { return limits_.received.wait(1).count() == 0 && below().ready(); }

  Result<size_t> receive(std::span<const iovec> pieces) override {
    const auto wait = limits_.received.wait(1);
    if (wait.count() != 0) {
      sleep(wait);
      return 0;
    }
    auto received = below().receive(pieces);
    if (received && *received > kNetHeaderSize) limits_.received.charge(*received - kNetHeaderSize);
    return received;
  }

  // Charged when it is let through, and not again while it is offered in vain to what is below.
  Result<bool> send(std::span<const iovec> pieces) override {
    if (!paid_) {
      const auto wait = limits_.sent.take(pieces_size(pieces) - kNetHeaderSize);
      if (wait.count() != 0) {
        sleep(wait);
        return false;
      }
    }
    auto sent = below().send(pieces);
    paid_ = sent && !*sent;
    return sent;
  }

 private:
  bool watch(int fd) const {
    epoll_event event{};
    event.events = EPOLLIN;
    return ::epoll_ctl(both_.get(), EPOLL_CTL_ADD, fd, &event) == 0;
  }
  // For whichever direction waits for less: the other one then asks again.
  void sleep(nanoseconds wait) {
    const auto now = std::chrono::steady_clock::now();
    const auto until = now + std::clamp(wait, kShortestSleep, kLongestSleep);
    if (wake_ > now && wake_ <= until) return;
    wake_ = until;
    const auto left = until - now;
    itimerspec time{};
    time.it_value.tv_sec = std::chrono::duration_cast<std::chrono::seconds>(left).count();
    time.it_value.tv_nsec = (left % std::chrono::seconds(1)).count();
    ::timerfd_settime(timer_.get(), 0, &time, nullptr);
  }

  Limits& limits_;
  UniqueFd timer_;
  UniqueFd both_;
  bool paid_ = false;
  std::chrono::steady_clock::time_point wake_{};  // when the timer expires
};

class RateNet final : public NetFilter {
 public:
  RateNet(std::unique_ptr<NetBackend> below, const RateLimiter::Bucket& bytes)
      : NetFilter(std::move(below)), limits_(bytes) {
    wrap_queues([this](NetQueue& queue) { return std::make_unique<RateQueue>(queue, limits_); });
  }

 private:
  Limits limits_;
};

}  // namespace

std::unique_ptr<NetBackend> limit_net_rate(std::unique_ptr<NetBackend> below,
                                           const RateLimiter::Bucket& bytes) {
  return std::make_unique<RateNet>(std::move(below), bytes);
}

}  // namespace minivmm
