// A guest as small as can be: an IPv4 host that speaks frames to a network queue, without a machine around
// it.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "devices/net/net_backend.h"
#include "devices/net/user/packet.h"

namespace minivmm::test {

using Bytes = std::vector<uint8_t>;

user_net::Endpoint at(const char* address, uint16_t port);  // IPv4 or IPv6

// One end of a TCP connection. Nothing is ever lost on this cable, so nothing is sent twice.
struct TcpConnection {
  user_net::Endpoint remote;
  uint16_t port = 0;
  uint32_t next = 0;          // sequence number of what is sent next
  uint32_t acknowledged = 0;  // what the other end has said it got
  uint32_t expected = 0;      // of what comes next
  uint16_t mss = 0;           // the other end's; 0: it said nothing
  bool established = false;
  bool ended = false;  // the other end has sent FIN
  bool reset = false;
  std::string received;
};

struct Datagram {
  user_net::Endpoint from;
  uint16_t port;
  std::string data;
};

class NetGuest {
 public:
  static constexpr std::array<uint8_t, 6> kMac{0x52, 0x54, 0, 0x12, 0x34, 0x56};

  explicit NetGuest(NetQueue& queue, const char* address = "10.0.2.15");

  // Frames without header.
  void send(Bytes frame);
  void send(const std::array<uint8_t, kNetHeaderSize>& header, Bytes frame);
  // A packet's frame with both checksums right; `payload` begins with the transport's header.
  Bytes packet(const user_net::IpAddress& from, const user_net::IpAddress& to, uint8_t protocol,
               Bytes payload) const;
  Bytes udp_packet(const user_net::Endpoint& from, const user_net::Endpoint& to,
                   const std::string& data) const;
  Bytes tcp_packet(const user_net::Endpoint& from, const user_net::Endpoint& to, uint32_t sequence,
                   uint32_t acknowledged, uint8_t flags, const std::string& data, uint16_t mss = 0) const;

  void udp(uint16_t port, const user_net::Endpoint& to, const std::string& data);
  // The connection is known under its own port. It stays until reset_all().
  uint16_t connect(const user_net::Endpoint& to);
  void listen(uint16_t port) { listening_.insert(port); }
  TcpConnection& connection(uint16_t port) { return connections_.at(port); }
  TcpConnection* accepted(uint16_t listening);  // the last one; null: none yet
  void write(TcpConnection&, const std::string& data);
  void close(TcpConnection&);  // sends FIN
  void reset_all();            // sends RST for each that connect() has made, and forgets them and what came

  // Takes frames, and waits for more, until `done` says so. False: it did not within the time.
  bool run_until(const std::function<bool()>& done, std::chrono::seconds patience = std::chrono::seconds(10));
  // Takes all that has come by now.
  void settle();

  // All that came, oldest first, but questions for our address and TCP for a connection of ours.
  std::vector<Bytes> frames;
  std::vector<std::array<uint8_t, kNetHeaderSize>> headers;  // of those
  std::vector<Datagram> datagrams;
  size_t largest = 0;  // frame of all

  const user_net::IpAddress& address() const { return address_; }
  uint16_t first_port = 20000;

 private:
  bool take();  // one frame; false: there is none
  void handle(std::span<uint8_t> frame, std::span<const uint8_t, kNetHeaderSize> header);
  bool handle_tcp(const user_net::Packet&);
  bool answer_arp(const user_net::Packet&);
  void segment(TcpConnection&, uint8_t flags, const std::string& data, uint16_t mss = 0);

  NetQueue& queue_;
  user_net::IpAddress address_;
  std::map<uint16_t, TcpConnection> connections_;
  std::map<std::pair<uint16_t, user_net::Endpoint>, TcpConnection> incoming_;
  std::map<uint16_t, std::pair<uint16_t, user_net::Endpoint>> last_accepted_;
  std::set<uint16_t> listening_;
  Bytes buffer_;
};

}  // namespace minivmm::test
