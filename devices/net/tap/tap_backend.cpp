#include "devices/net/tap/tap_backend.h"

#include <algorithm>
#include <utility>

#include "devices/net/link_speed.h"
#include "devices/net/tap/tap_device.h"

namespace minivmm {

namespace {

NetTraits traits_of(const TapBackend::Plan& plan) {
  const NetOffloads offloads = tap_offloads(plan.queues.front().get());
  const uint32_t mtu = plan.link ? std::min<uint32_t>(plan.link->mtu, 65535) : 0;
  return {.kind = plan.kind,
          .queue_pairs = static_cast<uint16_t>(plan.queues.size()),
          .takes = offloads,
          .gives = offloads,
          .mtu = static_cast<uint16_t>(mtu),
          .speed = plan.link ? link_speed(plan.link->name) : kLinkSpeedUnknown};
}

}  // namespace

TapBackend::TapBackend(Plan plan)
    : undo_(std::move(plan.undo)),
      traits_(traits_of(plan)),
      state_(!plan.link || plan.link->running()),
      multi_queue_(plan.multi_queue),
      enabled_(plan.queues.size(), true),
      companion_(std::move(plan.companion)) {
  for (UniqueFd& fd : plan.queues) queues_.push_back(std::make_unique<TapQueue>(std::move(fd), state_));
  for (size_t i = 0; i < plan.vhost.size(); ++i)
    vhost_.pairs.push_back({std::move(plan.vhost[i]), queues_[i]->fd()});
  steer();
  if (!plan.link) return;
  LinkMonitor::Events events{
      .changed = [this](const Link& link) { state_.set(link.running()); },
      // One that was moved to another network namespace is not watched any more, and goes on.
      .deleted = [this] { state_.set(tap_is_attached(queues_.front()->fd())); },
      .appeared = [](const Link&) { return false; },
  };
  if (plan.return_to_name) events.appeared = [this](const Link& link) { return attach_again(link); };
  monitor_ = std::make_unique<LinkMonitor>(*plan.link, std::move(events));
}

TapBackend::~TapBackend() = default;

int TapBackend::steer() {
  if (!multi_queue_) return 0;
  int result = 0;
  for (size_t i = 0; i < queues_.size(); ++i) {
    const bool wanted = i < pairs_;
    if (enabled_[i] == wanted) continue;
    if (const int error = enable_tap_queue(queues_[i]->fd(), wanted)) {
      result = error;
    } else {
      enabled_[i] = wanted;
    }
  }
  return result;
}

Result<void> TapBackend::use_queue_pairs(uint16_t pairs) {
  const std::scoped_lock lock(mutex_);
  pairs_ = pairs;
  if (steer() != 0 && state_.up()) return fail(Errc::io, "the tap device does not switch its queues");
  return {};
}

Result<void> TapBackend::allow(NetOffloads offloads) {
  const std::scoped_lock lock(mutex_);
  allowed_ = offloads;
  if (set_tap_offloads(queues_.front()->fd(), offloads) != 0 && state_.up())
    return fail(Errc::io, "the tap device does not switch its offloads");
  return {};
}

bool TapBackend::attach_again(const Link& link) {
  // Another program's short-lived device may have the name by chance; what an administrator makes for us
  // stays.
  if (link.kind != "tun" || !link.persistent || link.multi_queue != multi_queue_) return false;
  std::unique_lock lock(mutex_);
  for (const auto& queue : queues_) {
    std::string name = link.name;
    const int fd = queue->fd();
    if (tap_is_attached(fd)) continue;  // by an attempt that failed half-way
    if (attach_tap(fd, name, multi_queue_) != 0 || prepare_tap(fd) != 0) return false;
  }
  enabled_.assign(queues_.size(), true);
  steer();
  set_tap_offloads(queues_.front()->fd(), allowed_);
  lock.unlock();  // whoever watches the link may hold a lock under which allow() is called
  state_.set(link.admin_up());
  return true;
}

}  // namespace minivmm
