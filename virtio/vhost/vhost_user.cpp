#include "virtio/vhost/vhost_user.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "vmm/core/error.h"
#include "vmm/core/quiet_thread.h"

namespace minivmm {

namespace {
constexpr std::chrono::milliseconds kLongestRetry{30'000};
}  // namespace

VhostUser::VhostUser(UniqueFd socket, Options options, Log& log)
    : options_(std::move(options)), log_(log), rings_(options_.queues) {
  auto session = Session::begin(std::move(socket), options_.queue_pairs, options_.greeting);
  if (!session) {
    const bool lacks = session.error().code == Errc::unsupported;
    throw HostError(lacks ? ENOTSUP : EPROTO, fmt::format("cannot use the vhost-user back end of {}: {}",
                                                          options_.name, session.error().what));
  }
  features_ = (*session)->features() & ~options_.without;
  session_ = std::move(*session);
  session_->set_patience(options_.patience);
  thread_ = start_quiet_thread("vhost-user", [this] { watch(); });
}

VhostUser::~VhostUser() {
  stop_.signal();
  thread_.join();
}

void VhostUser::ack_features(uint64_t features) {
  const std::scoped_lock lock(mutex_);
  acked_ = features;
  introduced_ = false;
}

Result<void> VhostUser::introduce(const GuestMemory& memory) {
  if (introduced_) return {};
  if (auto set = session_->set_features(acked_); !set) return set;
  if (auto set = session_->set_memory(memory); !set) return set;
  introduced_ = true;
  return {};
}

Result<void> VhostUser::start_ring(const RemoteRing& ring) {
  if (auto introduced = introduce(ring.context.memory); !introduced) return introduced;
  return session_->start_ring(ring, ring.context.index < used_queues_);
}

Result<void> VhostUser::start_queue(uint16_t index, Virtqueue&& queue, QueueContext context) {
  const std::scoped_lock lock(mutex_);
  if (!session_ && !options_.reconnect) return fail(Errc::closed, "its vhost-user back end has gone");
  auto ring = RemoteRing::create(std::move(queue), context);
  if (!ring) return std::unexpected(ring.error());
  rings_[index] = std::move(*ring);
  if (!session_) return {};  // it is started with the others when the back end is there again
  auto started = start_ring(*rings_[index]);
  if (started) return started;
  if (started.error().code == Errc::unsupported || !options_.reconnect) rings_[index].reset();
  if (started.error().code != Errc::unsupported) lose(started.error());
  return rings_[index] ? Result<void>() : started;
}

std::optional<Virtqueue> VhostUser::stop_queue(uint16_t index) {
  const std::scoped_lock lock(mutex_);
  if (index >= rings_.size() || rings_[index] == nullptr) return std::nullopt;
  const std::unique_ptr<RemoteRing> ring = std::exchange(rings_[index], nullptr);
  bool known = false;
  if (session_) {
    const auto base = session_->stop_ring(index);
    known = base.has_value();
    if (base) {
      ring->queue.taken_back(*base);
    } else {
      lose(base.error());
    }
  }
  if (!known) ring->queue.taken_back_in_order();
  return std::move(ring->queue);
}

Result<void> VhostUser::use_queues(uint16_t count) {
  const std::scoped_lock lock(mutex_);
  used_queues_ = count;
  for (uint16_t i = 0; i < rings_.size() && session_; ++i) {
    if (rings_[i] == nullptr) continue;
    if (auto enabled = session_->enable_ring(i, i < count); !enabled) lose(enabled.error());
  }
  if (!session_ && !options_.reconnect) return fail(Errc::closed, "its vhost-user back end has gone");
  return {};
}

Result<void> VhostUser::read_config(uint32_t offset, std::span<std::byte> out) {
  const std::scoped_lock lock(mutex_);
  if (!session_) return fail(Errc::closed, "its vhost-user back end has gone");
  auto read = session_->read_config(offset, out);
  if (!read && read.error().code != Errc::unsupported) lose(read.error());
  return read;
}

// Whoever waits in it, or watches it, sees the end; the watching thread does the rest.
void VhostUser::lose(const Error& why) {
  if (!session_) return;
  log_.write(LogLevel::warn, fmt::format("{}: {}", options_.name, why.what));
  session_->shut_down();
}

void VhostUser::watch() {
  for (;;) {
    int fd = -1;
    {
      const std::scoped_lock lock(mutex_);
      fd = session_->fd();  // only this thread closes it
    }
    if (!wait_for_end(fd)) return;
    {
      const std::scoped_lock lock(mutex_);
      log_.write(LogLevel::warn, fmt::format("{}: the vhost-user back end has gone{}", options_.name,
                                             options_.reconnect ? "; waiting for it to come back" : ""));
      session_.reset();
      introduced_ = false;
      if (!options_.reconnect) {
        const auto running = std::ranges::find_if(rings_, [](const auto& ring) { return ring != nullptr; });
        if (running != rings_.end()) (*running)->context.signals.needs_reset();
      }
    }
    if (options_.changed) options_.changed(false);
    if (!options_.reconnect || !connect_again()) return;
    log_.write(LogLevel::warn, fmt::format("{}: the vhost-user back end is there again", options_.name));
    if (options_.changed) options_.changed(true);
  }
}

// False: we are to stop. Nothing is read here: what comes unasked stays unread, and spoils the next answer.
bool VhostUser::wait_for_end(int fd) {
  std::array<pollfd, 2> fds{{{fd, POLLRDHUP, 0}, {stop_.fd(), POLLIN, 0}}};
  for (;;) {
    ::poll(fds.data(), fds.size(), -1);
    if (fds[1].revents != 0) return false;
    if (fds[0].revents != 0) return true;
  }
}

// False: we are to stop. It waits first: a back end may come only to go at once.
bool VhostUser::connect_again() {
  for (auto wait = options_.retry_after;;) {
    pollfd stop{stop_.fd(), POLLIN, 0};
    if (::poll(&stop, 1, static_cast<int>(wait.count())) > 0) return false;
    auto socket = options_.reconnect();
    if (!socket) continue;  // which costs nothing
    if (bring_up(std::move(*socket))) return true;
    // One that hangs while its rings are started holds up the guest for as long as our patience lasts.
    wait = std::max(wait, std::min(2 * wait, kLongestRetry));
  }
}

// All that can be said without the rings is said without the lock, which the guest's resets wait for.
Result<void> VhostUser::bring_up(UniqueFd socket) {
  auto begun = Session::begin(std::move(socket), options_.queue_pairs, options_.patience);
  if (!begun) return std::unexpected(begun.error());
  std::unique_ptr<Session> session = std::move(*begun);
  // What the guest was promised has to be kept.
  if ((features_ & ~session->features()) != 0)
    return fail(Errc::unsupported, "the vhost-user back end has come back with fewer features");
  const GuestMemory* memory = nullptr;  // the machine's, which outlives its devices
  uint64_t acked = 0;
  {
    const std::scoped_lock lock(mutex_);
    acked = acked_;
    const auto running = std::ranges::find_if(rings_, [](const auto& ring) { return ring != nullptr; });
    if (running != rings_.end()) memory = &(*running)->context.memory;
  }
  if (memory != nullptr) {
    if (auto set = session->set_features(acked); !set) return set;
    if (auto set = session->set_memory(*memory); !set) return set;
  }
  const std::scoped_lock lock(mutex_);
  session_ = std::move(session);
  introduced_ = memory != nullptr && acked_ == acked;
  auto started = start_all();
  if (!started) {
    session_.reset();
    introduced_ = false;
  }
  return started;
}

Result<void> VhostUser::start_all() {
  for (const auto& ring : rings_) {
    if (ring == nullptr) continue;
    ring->queue.taken_back_in_order();
    const auto from = ring->queue.hand_over_index();
    MV_CHECK(from);  // nothing is given back
    ring->next_avail = *from;
    if (auto started = start_ring(*ring); !started) return started;
    ring->calls.used.signal_shared();  // what the one before has used, and not told
  }
  return {};
}

}  // namespace minivmm
