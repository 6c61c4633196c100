#include "virtio/device/net_pair.h"

#include <sys/timerfd.h>
#include <chrono>
#include <utility>
#include <vector>

namespace minivmm {

namespace {
// While it looks for work, how often the rings are looked at for each time the back end is asked: that takes
// a system call.
constexpr unsigned kLooksPerQuestion = 8;
}  // namespace

NetPair::~NetPair() {
  stop_worker();
}

Result<void> NetPair::start_rx(NetRx::Settings settings, Virtqueue&& queue, QueueContext context) {
  stop_worker();
  MV_CHECK(!rx_);
  rx_.emplace(wire_, board_, std::move(settings), std::move(queue), context);
  auto started = start_worker();
  if (!started) rx_.reset();
  return started;
}

Result<void> NetPair::start_tx(NetTx::Settings settings, Virtqueue&& queue, QueueContext context) {
  stop_worker();
  MV_CHECK(!tx_);
  tx_.emplace(wire_, std::move(settings), std::move(queue), context);
  auto started = start_worker();
  if (!started) tx_.reset();
  return started;
}

std::optional<Virtqueue> NetPair::stop_rx() {
  if (!rx_) return std::nullopt;
  stop_worker();
  Virtqueue queue = std::move(rx_->queue());
  rx_.reset();
  if (tx_ && !start_worker()) tx_->context().signals.needs_reset();
  return queue;
}

std::optional<Virtqueue> NetPair::stop_tx() {
  if (!tx_) return std::nullopt;
  stop_worker();
  Virtqueue queue = std::move(tx_->queue());
  tx_.reset();
  if (rx_ && !start_worker()) rx_->context().signals.needs_reset();
  return queue;
}

Result<void> NetPair::start_worker() {
  const EventFd& kick = rx_ ? rx_->context().kick : tx_->context().kick;
  std::vector<int> extra;
  if (rx_ && tx_) extra.push_back(tx_->context().kick.fd());
  if (wire_.fd() >= 0) extra.push_back(wire_.fd());
  // Without a timer nothing is held.
  if (!timer_) timer_ = UniqueFd(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  if (timer_) extra.push_back(timer_.get());
  auto worker = QueueWorker::start(
      thread_name_, kick, extra,
      [this, timer = extra.size()](unsigned which, const StopFlag& stop) {
        work(timer_ && which == timer, stop);
      },
      [this](const StopFlag&) { settle(); });
  if (!worker) return std::unexpected(worker.error());
  worker_ = std::move(*worker);
  return {};
}

void NetPair::stop_worker() {
  worker_.reset();
  broken_ = false;  // a queue that is broken says so again
  tx_hold_ = {};
  timer_armed_ = false;
}

void NetPair::work(bool timer, const StopFlag& stop) {
  if (broken_) return;
  bool late = timer && timer_went_off();
  poll_window_.woken();
  bool more = true;
  while (more) {
    if (rx_) rx_->queue().disable_kicks();
    if (tx_) tx_->queue().disable_kicks();
    const auto drained = drain(stop);
    tell(std::exchange(late, false), stop.requested());
    if (!drained) {
      broke();
      return;
    }
    more = !stop.requested() && (*drained || work_comes(stop) || kicks_missed());
  }
}

Result<bool> NetPair::drain(const StopFlag& stop) {
  bool more = false;
  if (tx_) {
    const auto sent = tx_->drain(stop);
    if (!sent) return sent;
    more = *sent;
  }
  if (rx_) {
    const auto received = rx_->drain(stop);
    if (!received) return received;
    more = more || *received;
  }
  return more;
}

// Before it sleeps, with kicks still switched off.
bool NetPair::work_comes(const StopFlag& stop) {
  unsigned looks = 0;
  const auto is_there = [&] {
    if (stop.requested()) return true;
    if (tx_ && !tx_->blocked() && tx_->queue().available()) return true;
    if (rx_ && rx_->starved() && rx_->queue().available()) return true;
    return rx_ && rx_->can_receive() && looks++ % kLooksPerQuestion == 0 && wire_.ready();
  };
  return poll_window_.wait(is_there) && !stop.requested();
}

// Asks for the kicks that matter: while there are buffers enough, and while the back end has no room, nothing
// the guest adds could be used. True: something came in the meantime.
bool NetPair::kicks_missed() {
  const bool sent = tx_ && !tx_->blocked() && tx_->queue().enable_kicks();
  const bool received = rx_ && rx_->starved() && rx_->queue().enable_kicks();
  return sent || received;
}

// Shows the guest what is done, and interrupts it; for what it has sent perhaps later (net_tx_hold.h). What
// has come is told last, so that a driver that is interrupted for it finds what it has sent as well.
void NetPair::tell(bool late, bool stopping) {
  bool kept = false;
  if (tx_) {
    Virtqueue& queue = tx_->queue();
    const unsigned frames = queue.unpublished();
    if (tx_hold_.holding() && (late || stopping || frames != 0)) tx_hold_.asked(interrupt_if_wanted(*tx_));
    queue.show();
    kept = rx_ && timer_ && !stopping && tx_hold_.keep(frames, tx_->drained_bytes());
    if (kept) {
      ++kept_count_;
      arm_timer();
    } else if (!tx_hold_.holding()) {
      interrupt_if_wanted(*tx_);
    }
  }
  if (rx_ && rx_->queue().publish()) rx_->context().signals.used(rx_->context().index);
}

bool NetPair::interrupt_if_wanted(NetTx& tx) {
  const bool wanted = tx.queue().wants_interrupt();
  if (wanted) tx.context().signals.used(tx.context().index);
  return wanted;
}

// Not set anew for each: what is held after it was set waits for it once more, and so twice as long at most.
void NetPair::arm_timer() {
  if (std::exchange(timer_armed_, true)) return;
  kept_when_armed_ = kept_count_;
  const itimerspec when{
      .it_interval = {},
      .it_value = {.tv_sec = 0, .tv_nsec = std::chrono::nanoseconds(NetTxHold::kLongest).count()}};
  MV_CHECK(::timerfd_settime(timer_.get(), 0, &when, nullptr) == 0);
}

// Whether what is held has been so for long.
bool NetPair::timer_went_off() {
  timer_armed_ = false;
  if (!tx_hold_.holding()) return false;
  if (kept_when_armed_ == kept_count_) return true;
  arm_timer();
  return false;
}

void NetPair::settle() {
  if (rx_) rx_->settle();
  if (tx_) tx_->settle();
  tell(true, true);
}

void NetPair::broke() {
  broken_ = true;
  settle();
  (rx_ ? rx_->context() : tx_->context()).signals.needs_reset();
}

}  // namespace minivmm
