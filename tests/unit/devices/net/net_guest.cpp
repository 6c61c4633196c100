#include "tests/unit/devices/net/net_guest.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <stdexcept>

namespace minivmm::test {

using namespace user_net;

namespace {
constexpr uint16_t kMss = 1460;
}

Endpoint at(const char* address, uint16_t port) {
  in_addr v4{};
  if (::inet_pton(AF_INET, address, &v4) == 1) return {IpAddress::v4(ntohl(v4.s_addr)), port};
  IpAddress v6;
  if (::inet_pton(AF_INET6, address, v6.bytes.data()) != 1) throw std::invalid_argument(address);
  return {v6, port};
}

NetGuest::NetGuest(NetQueue& queue, const char* address)
    : queue_(queue), address_(at(address, 0).address), buffer_(kMaxFrame) {}

void NetGuest::send(Bytes frame) {
  send(std::array<uint8_t, kNetHeaderSize>{}, std::move(frame));
}

void NetGuest::send(const std::array<uint8_t, kNetHeaderSize>& header, Bytes frame) {
  // In three pieces, as drivers do.
  auto copy = header;
  const size_t first = std::min<size_t>(frame.size(), kEthernetHeader);
  const iovec pieces[] = {
      {copy.data(), copy.size()}, {frame.data(), first}, {frame.data() + first, frame.size() - first}};
  const auto sent = queue_.send(pieces);
  ASSERT_TRUE(sent.has_value()) << sent.error().what;
  queue_.flush();
}

Bytes NetGuest::packet(const IpAddress& from, const IpAddress& to, uint8_t protocol, Bytes payload) const {
  const bool v4 = to.is_v4();
  Bytes frame(kEthernetHeader + (v4 ? kIpv4Header : kIpv6Header));
  const uint8_t router[] = {0x52, 0x55, 10, 0, 2, 2};
  std::copy(std::begin(router), std::end(router), frame.begin());
  std::copy(kMac.begin(), kMac.end(), frame.begin() + 6);
  store16(frame.data() + 12, v4 ? kEtherIpv4 : kEtherIpv6);
  uint8_t* const ip = frame.data() + kEthernetHeader;
  if (v4) {
    ip[0] = 0x45;
    store16(ip + 2, static_cast<uint16_t>(kIpv4Header + payload.size()));
    ip[8] = 64;
    ip[9] = protocol;
    store32(ip + 12, from.as_v4());
    store32(ip + 16, to.as_v4());
    fill_in_ipv4_sum(frame);
  } else {
    ip[0] = 0x60;
    store16(ip + 4, static_cast<uint16_t>(payload.size()));
    ip[6] = protocol;
    ip[7] = 255;
    std::copy(from.bytes.begin(), from.bytes.end(), ip + 8);
    std::copy(to.bytes.begin(), to.bytes.end(), ip + 24);
  }
  const size_t transport = frame.size();
  frame.insert(frame.end(), payload.begin(), payload.end());
  if (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP) {
    Packet whole;
    whole.frame = frame;
    whole.v6 = !v4;
    whole.protocol = protocol;
    whole.transport = transport;
    fill_in_transport_sum(whole);
  } else if (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6) {
    Packet whole;
    whole.frame = frame;
    whole.v6 = !v4;
    whole.protocol = protocol;
    whole.transport = transport;
    const uint64_t start = v4 ? 0 : pseudo_sum(whole);
    store16(frame.data() + transport + 2, 0);
    const uint16_t sum = fold_sum(add_to_sum(start, std::span(frame).subspan(transport)));
    std::memcpy(frame.data() + transport + 2, &sum, sizeof sum);
  }
  return frame;
}

Bytes NetGuest::udp_packet(const Endpoint& from, const Endpoint& to, const std::string& data) const {
  Bytes udp(kUdpHeader);
  store16(udp.data(), from.port);
  store16(udp.data() + 2, to.port);
  store16(udp.data() + 4, static_cast<uint16_t>(kUdpHeader + data.size()));
  udp.insert(udp.end(), data.begin(), data.end());
  return packet(from.address, to.address, IPPROTO_UDP, std::move(udp));
}

Bytes NetGuest::tcp_packet(const Endpoint& from, const Endpoint& to, uint32_t sequence, uint32_t acknowledged,
                           uint8_t flags, const std::string& data, uint16_t mss) const {
  Bytes tcp(kTcpHeader);
  store16(tcp.data(), from.port);
  store16(tcp.data() + 2, to.port);
  store32(tcp.data() + 4, sequence);
  store32(tcp.data() + 8, acknowledged);
  tcp[12] = mss != 0 ? 0x60 : 0x50;
  tcp[13] = flags;
  store16(tcp.data() + 14, 65535);
  if (mss != 0) {
    const uint8_t option[] = {2, 4, static_cast<uint8_t>(mss >> 8), static_cast<uint8_t>(mss)};
    tcp.insert(tcp.end(), std::begin(option), std::end(option));
  }
  tcp.insert(tcp.end(), data.begin(), data.end());
  return packet(from.address, to.address, IPPROTO_TCP, std::move(tcp));
}

void NetGuest::udp(uint16_t port, const Endpoint& to, const std::string& data) {
  send(udp_packet({address_, port}, to, data));
}

void NetGuest::segment(TcpConnection& c, uint8_t flags, const std::string& data, uint16_t mss) {
  const uint32_t sequence = c.next;
  c.next += static_cast<uint32_t>(data.size()) + ((flags & (kTcpSyn | kTcpFin)) != 0 ? 1 : 0);
  send(tcp_packet({address_, c.port}, c.remote, sequence, (flags & kTcpAck) != 0 ? c.expected : 0, flags,
                  data, mss));
}

uint16_t NetGuest::connect(const Endpoint& to) {
  while (connections_.contains(first_port)) ++first_port;
  const uint16_t port = first_port++;
  if (first_port > 60000) first_port = 20000;
  TcpConnection& c = connections_[port];
  c.remote = to;
  c.port = port;
  c.next = uint32_t{port} * 77777;
  segment(c, kTcpSyn, "", kMss);
  return port;
}

TcpConnection* NetGuest::accepted(uint16_t listening) {
  const auto key = last_accepted_.find(listening);
  return key == last_accepted_.end() ? nullptr : &incoming_.at(key->second);
}

void NetGuest::write(TcpConnection& c, const std::string& data) {
  segment(c, kTcpAck, data);
}

void NetGuest::close(TcpConnection& c) {
  segment(c, kTcpAck | kTcpFin, "");
}

void NetGuest::reset_all() {
  for (auto& [port, connection] : connections_) segment(connection, kTcpRst | kTcpAck, "");
  settle();
  connections_.clear();
  frames.clear();
  headers.clear();
}

bool NetGuest::handle_tcp(const Packet& p) {
  TcpConnection* c = nullptr;
  const uint16_t port = p.destination.port;
  if (const auto found = connections_.find(port);
      found != connections_.end() && found->second.remote == p.source) {
    c = &found->second;
  } else if (listening_.contains(port)) {
    const std::pair key(port, p.source);
    if (p.opens()) {
      TcpConnection& fresh = incoming_[key];
      fresh = TcpConnection{};
      fresh.remote = p.source;
      fresh.port = port;
      fresh.next = 1000;
      fresh.expected = p.sequence + 1;
      last_accepted_[port] = key;
      segment(fresh, kTcpSyn | kTcpAck, "", kMss);
      return true;
    }
    const auto known = incoming_.find(key);
    if (known != incoming_.end()) c = &known->second;
  }
  if (c == nullptr) return false;
  if ((p.tcp_flags & kTcpRst) != 0) {
    c->reset = true;
    return true;
  }
  if ((p.tcp_flags & kTcpAck) != 0) c->acknowledged = p.acknowledged;
  if ((p.tcp_flags & kTcpSyn) != 0) {
    c->expected = p.sequence + 1;
    if (p.payload >= p.transport + kTcpHeader + 4 && p.header()[kTcpHeader] == 2) {
      c->mss = load16(p.header() + kTcpHeader + 2);
    }
    c->established = true;
    segment(*c, kTcpAck, "");
    return true;
  }
  c->established = true;
  if (p.sequence != c->expected) return true;
  const auto data = p.frame.subspan(p.payload);
  c->received.append(data.begin(), data.end());
  c->expected += static_cast<uint32_t>(data.size());
  const bool fin = (p.tcp_flags & kTcpFin) != 0;
  if (fin) {
    ++c->expected;
    c->ended = true;
  }
  if (fin || !data.empty()) segment(*c, kTcpAck, "");
  return true;
}

bool NetGuest::answer_arp(const Packet& p) {
  const uint8_t* const arp = p.frame.data() + kEthernetHeader;
  if (load16(arp + 6) != 1 || load32(arp + 24) != address_.as_v4()) return false;
  Bytes reply(p.frame.begin(), p.frame.begin() + kEthernetHeader + 28);
  std::copy(kMac.begin(), kMac.end(), reply.begin() + 6);
  uint8_t* const out = reply.data() + kEthernetHeader;
  store16(out + 6, 2);
  std::copy(kMac.begin(), kMac.end(), out + 8);
  store32(out + 14, address_.as_v4());
  std::copy(arp + 8, arp + 18, out + 18);
  send(std::move(reply));
  return true;
}

void NetGuest::handle(std::span<uint8_t> frame, std::span<const uint8_t, kNetHeaderSize> header) {
  largest = std::max(largest, frame.size());
  const auto p = parse_packet(frame);
  if (p && p->ether_type == kEtherArp && answer_arp(*p)) return;
  if (p && p->is_tcp() && handle_tcp(*p)) return;
  if (p && p->is_udp() && !p->fragment) {
    const auto data = p->frame.subspan(p->payload);
    datagrams.push_back({p->source, p->destination.port, std::string(data.begin(), data.end())});
  }
  frames.emplace_back(frame.begin(), frame.end());
  std::copy(header.begin(), header.end(), headers.emplace_back().begin());
}

bool NetGuest::take() {
  const iovec pieces[] = {{buffer_.data(), 100}, {buffer_.data() + 100, buffer_.size() - 100}};
  const auto size = queue_.receive(pieces);
  EXPECT_TRUE(size.has_value());
  if (!size || *size == 0) return false;
  Bytes all(buffer_.begin(), buffer_.begin() + static_cast<ptrdiff_t>(*size));
  const std::span<uint8_t> bytes(all);
  handle(bytes.subspan(kNetHeaderSize), bytes.first<kNetHeaderSize>());
  return true;
}

void NetGuest::settle() {
  while (take()) {
  }
}

bool NetGuest::run_until(const std::function<bool()>& done, std::chrono::seconds patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  for (;;) {
    settle();
    if (done()) return true;
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) return false;
    pollfd poll{.fd = queue_.fd(), .events = POLLIN, .revents = 0};
    // What the test itself waits for may be on the host's side, which wakes nobody here.
    ::poll(&poll, 1, static_cast<int>(std::min<int64_t>(left.count(), 20)));
  }
}

}  // namespace minivmm::test
