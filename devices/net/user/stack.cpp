#include "devices/net/user/stack.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <limits>
#include <mutex>
#include <string>

#include "vmm/core/error.h"

namespace minivmm::user_net {

namespace {

constexpr int64_t kMillisecond = 1'000'000;
constexpr unsigned kMaxSessions = 1000;  // docs/networking.md
constexpr unsigned kOvercrowded = 100;   // past max_sessions_
constexpr int kBacklog = 128;            // libslirp listens with 1
// Of libslirp's Ethernet, not of the guest's: segments.h.
constexpr size_t kStackMtu = 65520;

int64_t now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

in_addr to_in_addr(const IpAddress& address) {
  return {.s_addr = htonl(address.as_v4())};
}

in6_addr to_in6_addr(const IpAddress& address) {
  in6_addr result{};
  std::copy(address.bytes.begin(), address.bytes.end(), std::begin(result.s6_addr));
  return result;
}

struct SocketAddress {
  SocketAddress(const IpAddress& address, uint16_t port) {
    if (address.is_v4()) {
      v4 = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = to_in_addr(address), .sin_zero = {}};
      size = sizeof v4;
    } else {
      v6 = {.sin6_family = AF_INET6,
            .sin6_port = htons(port),
            .sin6_flowinfo = 0,
            .sin6_addr = to_in6_addr(address),
            .sin6_scope_id = 0};
      size = sizeof v6;
    }
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(this); }
  union {
    sockaddr_in v4;
    sockaddr_in6 v6;
  };
  socklen_t size;
};

int forward_flags(const Forward& forward) {
  return (forward.udp ? SLIRP_HOSTFWD_UDP : 0) | (forward.address.is_v4() ? 0 : SLIRP_HOSTFWD_V6ONLY);
}

bool forwards_udp(const UserNetConfig& config) {
  return std::ranges::any_of(config.forwards, &Forward::udp);
}
bool redirects(const UserNetConfig& config) {
  return std::ranges::any_of(config.guest_forwards,
                             [](const GuestForward& f) { return f.unix_path.empty(); });
}

// Each session is a descriptor, and the rest of the process needs some, too.
unsigned session_limit(const UserNetConfig& config) {
  if (config.max_sessions != 0) return config.max_sessions;
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kMaxSessions;
  return static_cast<unsigned>(std::min<rlim_t>(kMaxSessions, limit.rlim_cur / 2));
}

}  // namespace

struct Stack::Callbacks {
  static Stack& self(void* opaque) { return *static_cast<Stack*>(opaque); }

  static ssize_t send_packet(const void* frame, size_t size, void* opaque) {
    // It comes from a buffer that libslirp does not look at again (slirp_send_packet_all's callers).
    auto* const bytes = static_cast<uint8_t*>(const_cast<void*>(frame));
    self(opaque).sink_.take({bytes, size});
    return static_cast<ssize_t>(size);
  }
  static void guest_error(const char* /*message*/, void* /*opaque*/) {}
  static int64_t clock_get_ns(void* /*opaque*/) { return now_ns(); }
  // There is one timer, for router advertisements.
  static void* timer_new(SlirpTimerId /*id*/, void* data, void* opaque) {
    Stack& stack = self(opaque);
    stack.announce_data_ = data;
    return &stack.announce_ns_;
  }
  static void timer_free(void* /*timer*/, void* opaque) { self(opaque).announce_ns_ = 0; }
  static void timer_mod(void* /*timer*/, int64_t expire_ms, void* opaque) {
    Stack& stack = self(opaque);
    stack.announce_ns_ = expire_ms * kMillisecond;
    stack.changed_ = true;
  }
  static void register_poll_fd(int fd, void* opaque) { self(opaque).polls_.opened(fd); }
  static void unregister_poll_fd(int fd, void* opaque) { self(opaque).polls_.closed(fd); }
  static void notify(void* /*opaque*/) {}
  static void init_completed(::Slirp* /*slirp*/, void* /*opaque*/) {}

  static int add_poll(int fd, int events, void* opaque) { return self(opaque).polls_.add(fd, events); }
  static int get_revents(int place, void* opaque) { return self(opaque).happened(place); }

  static constexpr SlirpCb kTable = {.send_packet = send_packet,
                                     .guest_error = guest_error,
                                     .clock_get_ns = clock_get_ns,
                                     .timer_new = nullptr,
                                     .timer_free = timer_free,
                                     .timer_mod = timer_mod,
                                     .register_poll_fd = register_poll_fd,
                                     .unregister_poll_fd = unregister_poll_fd,
                                     .notify = notify,
                                     .init_completed = init_completed,
                                     .timer_new_opaque = timer_new};
};

Stack::Stack(const UserNetConfig& config, FrameSink& sink)
    : library_(load_library()),
      config_(config),
      sink_(sink),
      max_sessions_(session_limit(config)),
      timer_(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)) {
  if (!timer_) throw_errno("make a network card's timer");
  polls_.watch(timer_.get());
  polls_.watch(wake_.fd());

  SlirpConfig slirp{};
  slirp.version = 4;
  // What libslirp can refuse by itself it does; the gate refuses all of it. It cannot where a way has to stay
  // open that it does not know of: answers to forwarded datagrams, which look to it like any other.
  slirp.restricted = config.restricted && !forwards_udp(config) && !redirects(config) ? 1 : 0;
  slirp.disable_host_loopback = !config.host_loopback && !forwards_udp(config);
  slirp.in_enabled = true;
  slirp.vnetwork = to_in_addr(IpAddress::v4(config.network));
  slirp.vnetmask = {.s_addr = htonl(config.mask())};
  slirp.vhost = to_in_addr(config.gateway());
  slirp.vdhcp_start = to_in_addr(config.guest());
  slirp.vnameserver = to_in_addr(config.dns());
  slirp.in6_enabled = config.ipv6;
  slirp.vprefix_addr6 = to_in6_addr(prefix6());
  slirp.vprefix_len = kPrefix6;
  slirp.vhost6 = to_in6_addr(gateway6());
  slirp.vnameserver6 = to_in6_addr(dns6());
  slirp.vhostname = config.hostname.empty() ? nullptr : config.hostname.c_str();
  const char* search[] = {config.domain.c_str(), nullptr};
  if (!config.domain.empty()) {
    slirp.vdomainname = config.domain.c_str();
    slirp.vdnssearch = search;
  }
  slirp.disable_dns = config.restricted;
  slirp.if_mtu = kStackMtu;
  slirp.if_mru = kStackMtu;
  {
    // It initializes what all its instances share at the first one.
    static std::mutex mutex;
    const std::scoped_lock lock(mutex);
    slirp_ = library_->create(&slirp, &Callbacks::kTable, this);
  }
  if (slirp_ == nullptr) {
    throw HostError(
        EINVAL,
        "cannot start user networking: this libslirp refuses its configuration; install 4.7 or later");
  }
  try {
    tick();
    for (const GuestForward& forward : config.guest_forwards) {
      // With a TCP service it is there so that libslirp answers ARP for the address: the packets never
      // arrive.
      in_addr address = to_in_addr(forward.guest.address);
      if (library_->add_unix(slirp_, forward.unix_path.c_str(), &address, forward.guest.port) != 0) {
        throw HostError(EINVAL,
                        fmt::format("cannot forward the guest's port {}: libslirp refuses its address",
                                    forward.guest.port));
      }
    }
    for (const Forward& forward : config.forwards) add_forward(forward);
    refill();
  } catch (...) {
    library_->cleanup(slirp_);
    throw;
  }
}

Stack::~Stack() {
  library_->cleanup(slirp_);
}

void Stack::add_forward(const Forward& forward) {
  const SocketAddress host(forward.address, forward.host_port);
  // An IPv6 guest chooses its address itself: libslirp knows it once the guest has asked for neighbours.
  const SocketAddress guest(forward.address.is_v4() ? config_.guest() : IpAddress{}, forward.guest_port);
  refill();
  if (library_->add_hostxfwd(slirp_, host.get(), host.size, guest.get(), guest.size,
                             forward_flags(forward)) != 0) {
    const char* mend = "";
    if (errno == EADDRINUSE)
      mend = "another program, or another machine, has that port: choose another one, or end that";
    if (errno == EACCES)
      mend = "ports below 1024 are root's (sysctl net.ipv4.ip_unprivileged_port_start): choose a higher one";
    if (errno == EADDRNOTAVAIL) mend = "the host does not have that address";
    throw_errno(fmt::format("forward port {} of the host ({})", forward.host_port, forward.text()), mend);
  }
  refill(true);
  for (const int fd : polls_.fresh()) {
    if (!forward.udp) ::listen(fd, kBacklog);
  }
}

void Stack::remove_forward(const Forward& forward) {
  const SocketAddress host(forward.address, forward.host_port);
  if (library_->remove_hostxfwd(slirp_, host.get(), host.size, forward_flags(forward)) != 0) {
    throw HostError(ENOENT,
                    fmt::format("cannot end the forwarding of port {}: there is none", forward.host_port));
  }
  refill();
}

void Stack::tick() {
  constexpr int64_t kCoarse = 50 * kMillisecond;  // its timers count in half seconds
  const int64_t now = now_ns();
  if (now - ticked_ns_ >= kCoarse) retry();
}

void Stack::retry() {
  ticked_ns_ = now_ns();
  library_->pollfds_poll(slirp_, 1, nullptr, this);  // an error: it looks at no socket
  changed_ = true;
}

void Stack::input(std::span<const uint8_t> frame) {
  library_->input(slirp_, frame.data(), static_cast<int>(frame.size()));
  changed_ = true;
}

void Stack::settle() {
  if (changed_) refill();
}

void Stack::refill(bool permanent) {
  uint32_t timeout = std::numeric_limits<uint32_t>::max();
  polls_.begin_fill(permanent, crowd() == Crowd::room);
  library_->pollfds_fill(slirp_, &timeout, Callbacks::add_poll, this);
  polls_.end_fill();
  changed_ = false;
  set_alarm(timeout);
}

void Stack::set_alarm(uint32_t timeout_ms) {
  // libslirp would be called every second or half second; it needs that for TCP connections only, not for
  // ports it listens on. Other sessions just have to end some day, after 10 s to 4 minutes.
  constexpr int64_t kExpiry = 10'000;
  const int64_t now = now_ns();
  int64_t due = announce_ns_;
  const auto at_most = [&](int64_t ms) {
    if (due == 0 || now + ms * kMillisecond < due) due = now + ms * kMillisecond;
  };
  if (polls_.streams() != 0) {
    at_most(timeout_ms);
  } else if (polls_.sessions() != 0) {
    at_most(kExpiry);
  }
  // A later one is set when the earlier one has gone off.
  if (due == 0 || (alarm_ns_ != 0 && alarm_ns_ <= due)) return;
  const itimerspec time{.it_interval = {},
                        .it_value = {.tv_sec = due / 1'000'000'000, .tv_nsec = due % 1'000'000'000}};
  if (::timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &time, nullptr) == 0) alarm_ns_ = due;
}

bool Stack::poll() {
  settle();
  const PollSet::Ready ready = polls_.look();
  if (!ready.sockets && !ready.others) return false;
  const int64_t now = now_ns();
  bool due = ready.sockets;
  if (alarm_ns_ != 0 && alarm_ns_ <= now) {
    alarm_ns_ = 0;
    due = true;
    changed_ = true;
    if (announce_ns_ != 0 && announce_ns_ <= now)
      library_->handle_timer(slirp_, SLIRP_TIMER_RA, announce_data_);
  }
  if (!due) return false;
  held_ = -1;
  ticked_ns_ = now;
  library_->pollfds_poll(slirp_, 0, Callbacks::get_revents, this);
  resume_ = std::max(held_, 0);
  polls_.forget_happened();
  changed_ = true;
  return true;
}

int Stack::happened(int place) {
  const int events = polls_.happened(place);
  if (events == 0 || place < resume_) return 0;
  if (held_ < 0 && sink_.wants_more()) return events;
  if (held_ < 0) held_ = place;
  return 0;
}

Crowd Stack::crowd() const {
  if (polls_.sessions() < max_sessions_) return Crowd::room;
  return polls_.sessions() < max_sessions_ + kOvercrowded ? Crowd::full : Crowd::overcrowded;
}

}  // namespace minivmm::user_net
