#include "virtio/device/vsock_mux.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/epoll.h>

#include <cerrno>
#include <utility>
#include <vector>

namespace minivmm {

using vsock::Header;
using vsock::Op;

namespace {
// Where the host's ports begin for connections that the host makes: far from those that services listen on.
constexpr uint32_t kFirstHostPort = 1U << 30;
constexpr size_t kMaxAccepted = 256;  // in one go; more than the backlog holds
}  // namespace

VsockMux::VsockMux(VsockHost& host, Watch watch, std::string name, Log& log)
    : host_(host),
      watch_(std::move(watch)),
      name_(std::move(name)),
      log_(log),
      next_host_port_(kFirstHostPort) {}

VsockMux::~VsockMux() = default;

VsockConnection* VsockMux::find(uint64_t id) {
  const auto found = connections_.find(id);
  return found == connections_.end() ? nullptr : found->second.connection.get();
}

// Null: there is no room, or no descriptor for the watch.
VsockConnection* VsockMux::add(UniqueFd fd) {
  if (connections_.size() >= kMaxConnections && !make_room()) return nullptr;
  const uint64_t id = next_id_++;
  if (!watch_(fd.get(), id)) return nullptr;
  Entry& entry = connections_[id];
  entry.connection = std::make_unique<VsockConnection>(id, std::move(fd));
  return entry.connection.get();
}

// Drops the oldest connection that only waits for an end that may never come.
bool VsockMux::make_room() {
  for (const auto& [id, entry] : connections_) {
    const VsockConnection& connection = *entry.connection;
    if (connection.state() == VsockConnection::State::draining || connection.abandoned()) {
      remove(id);
      return true;
    }
  }
  return false;
}

void VsockMux::forget_ports(const VsockConnection& connection) {
  const auto known = by_ports_.find(connection.ports());
  if (known != by_ports_.end() && known->second == connection.id()) by_ports_.erase(known);
}

void VsockMux::remove(uint64_t id) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  forget_ports(*found->second.connection);
  // Or a guest that opens and resets without ever taking an answer makes the line longer each time.
  if (found->second.has_turn) std::erase(turns_, id);
  connections_.erase(found);
}

void VsockMux::clear() {
  somebody_waits_ = false;
  // A guest that is switched off has sent and closed what it had to say, and it is to be heard.
  std::erase_if(connections_, [](auto& known) { return !known.second.connection->drain(); });
  for (auto& [id, entry] : connections_) entry.has_turn = false;
  by_ports_.clear();
  turns_.clear();
  resets_.clear();
  greetings_.clear();
}

void VsockMux::finish(std::chrono::milliseconds patience) {
  for (;;) {
    std::erase_if(connections_, [](const auto& known) { return known.second.connection->drained(); });
    std::vector<pollfd> waiting;
    for (const auto& [id, entry] : connections_) {
      if (const int fd = entry.connection->unfinished(); fd >= 0) waiting.push_back({fd, POLLOUT, 0});
    }
    if (waiting.empty()) return;
    const int ready = ::poll(waiting.data(), waiting.size(), static_cast<int>(patience.count()));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return;
    auto answer = waiting.begin();
    for (const auto& [id, entry] : connections_) {
      if (entry.connection->unfinished() < 0) continue;
      if (answer->revents != 0) entry.connection->on_events(EPOLLOUT);
      ++answer;
    }
  }
}

void VsockMux::take_turn(VsockConnection& connection) {
  Entry& entry = connections_.at(connection.id());
  if (!connection.has_packet() || std::exchange(entry.has_turn, true)) return;
  turns_.push_back(connection.id());
}

void VsockMux::reset(VsockConnection& connection) {
  resets_.push_back({vsock::kHostCid, connection.ports()});
  let_go(connection);
}

void VsockMux::let_go(VsockConnection& connection) {
  forget_ports(connection);
  if (!connection.drain()) remove(connection.id());
}

void VsockMux::from_guest(const Header& header, std::span<const iovec> data) {
  if (header.src_cid != cid_) {
    log_.guest_fault(name_, "a packet from an address that is not the guest's");
    return;
  }
  const Ports ports{.guest = header.src_port, .host = header.dst_port};
  const auto op = static_cast<Op>(header.op);
  if (header.dst_cid != vsock::kHostCid || header.type != vsock::kTypeStream) {
    // 5.10.6.4: to what is not there, and of a type that is not known.
    if (op != Op::rst) resets_.push_back({header.dst_cid, ports});
    return;
  }
  const auto known = by_ports_.find(ports);
  if (known == by_ports_.end()) {
    if (op == Op::request) {
      connect(header, ports);
    } else if (op != Op::rst) {  // never a reset for a reset
      resets_.push_back({vsock::kHostCid, ports});
    }
    return;
  }
  const uint64_t id = known->second;
  VsockConnection& connection = *connections_.at(id).connection;
  connection.credit(header);
  dispatch(header, data, connection);
  if (VsockConnection* still = find(id); still != nullptr) take_turn(*still);
}

void VsockMux::dispatch(const Header& header, std::span<const iovec> data, VsockConnection& connection) {
  const bool open = connection.state() == VsockConnection::State::open;
  switch (static_cast<Op>(header.op)) {
    case Op::rst: let_go(connection); return;
    case Op::response:
      if (open) break;
      connection.accepted();
      return;
    case Op::rw:
      if (!open || !connection.receive(data)) break;
      return;
    case Op::credit_update: return;
    case Op::credit_request: connection.credit_requested(); return;
    case Op::shutdown:
      if (!open) break;
      connection.shut_down(header.flags);
      // 5.10.6.5: a reset says that we have forgotten it as well.
      if (connection.shut_down_by_guest()) reset(connection);
      return;
    default: break;
  }
  log_.guest_fault(name_, "a packet that its connection has no use for");
  reset(connection);
}

void VsockMux::connect(const Header& header, Ports ports) {
  auto fd = host_.connect(ports.host);
  VsockConnection* const connection = fd ? add(std::move(*fd)) : nullptr;
  if (connection == nullptr) {
    resets_.push_back({vsock::kHostCid, ports});
    return;
  }
  connection->accept(ports);
  connection->credit(header);
  by_ports_[ports] = connection->id();
  take_turn(*connection);
}

void VsockMux::accept() {
  somebody_waits_ = false;
  for (size_t i = 0; i < kMaxAccepted; ++i) {
    auto fd = host_.accept();
    if (!fd) {
      somebody_waits_ = fd.error().code == Errc::no_space;
      return;
    }
    if (greetings_.size() >= kMaxGreetings) {  // the oldest has had its time
      VsockConnection* const oldest = find(greetings_.front());
      const bool silent = oldest != nullptr && oldest->state() == VsockConnection::State::greeting;
      greetings_.pop_front();
      if (silent) remove(oldest->id());
    }
    VsockConnection* const connection = add(std::move(*fd));
    if (connection == nullptr) continue;  // it sees its end
    greetings_.push_back(connection->id());
    greet(*connection);
  }
}

void VsockMux::greet(VsockConnection& connection) {
  const auto greeting = connection.read_greeting();
  if (greeting.kind == VsockConnection::Greeting::Kind::none_yet) return;
  std::erase(greetings_, connection.id());
  if (greeting.kind == VsockConnection::Greeting::Kind::nonsense) {
    remove(connection.id());
    return;
  }
  const Ports ports{.guest = greeting.port, .host = free_host_port(greeting.port)};
  connection.request(ports);
  by_ports_[ports] = connection.id();
  take_turn(connection);
}

uint32_t VsockMux::free_host_port(uint32_t guest_port) {
  for (;;) {  // ends: there are more ports than connections
    const uint32_t port = next_host_port_++;
    if (next_host_port_ == vsock::kAnyPort) next_host_port_ = kFirstHostPort;
    if (!by_ports_.contains({.guest = guest_port, .host = port})) return port;
  }
}

void VsockMux::ready(uint64_t id, uint32_t events) {
  VsockConnection* const connection = find(id);
  if (connection == nullptr) return;
  connection->on_events(events);
  if (connection->state() == VsockConnection::State::greeting) {
    greet(*connection);
  } else if (connection->drained()) {
    remove(id);
  } else {
    take_turn(*connection);
  }
}

std::optional<uint32_t> VsockMux::to_guest(Header& header, std::span<const iovec> room) {
  header = {};
  header.src_cid = vsock::kHostCid;
  header.dst_cid = cid_;
  header.type = vsock::kTypeStream;
  if (!resets_.empty()) {
    const Reset reset = resets_.front();
    resets_.pop_front();
    header.src_cid = reset.cid;
    header.src_port = reset.ports.host;
    header.dst_port = reset.ports.guest;
    header.op = static_cast<uint16_t>(Op::rst);
    return 0;
  }
  while (!turns_.empty()) {
    Entry& entry = connections_.at(turns_.front());
    turns_.pop_front();
    entry.has_turn = false;
    const auto length = entry.connection->next_packet(header, room);
    take_turn(*entry.connection);  // at the end of the line
    if (length) return length;
  }
  return std::nullopt;
}

}  // namespace minivmm
