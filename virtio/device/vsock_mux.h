// All connections of a socket device: takes the guest's packets, makes those for it (virtio 1.2, 5.10.6). It
// knows neither virtqueues nor threads; all calls are made under its owner's lock, and none waits.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "virtio/device/vsock_connection.h"
#include "virtio/device/vsock_host.h"
#include "virtio/device/vsock_packet.h"
#include "vmm/core/log.h"

namespace minivmm {

class VsockMux {
 public:
  static constexpr size_t kMaxConnections = 1024;  // each costs a descriptor, and kMostKept at worst
  static constexpr size_t kMaxGreetings = 64;  // of them, those that have not said yet which port they want
  static constexpr size_t kMaxResets = 1024;
  static constexpr uint64_t kFirstId = 16;  // smaller tags are the owner's

  // Has a descriptor reported, edge-triggered, by ready(id); until it is closed.
  using Watch = std::function<Result<void>(int fd, uint64_t id)>;

  // `host` and `log` outlive it. `name` is for the log.
  VsockMux(VsockHost& host, Watch watch, std::string name, Log& log);
  ~VsockMux();
  VsockMux(const VsockMux&) = delete;
  VsockMux& operator=(const VsockMux&) = delete;

  void set_guest_cid(uint64_t cid) { cid_ = cid; }
  uint64_t guest_cid() const { return cid_; }

  // One packet of the guest: its header and the header.len bytes that follow it.
  void from_guest(const vsock::Header& header, std::span<const iovec> data);
  // False: so many answers wait for the guest that no more packets are to be taken before it takes some
  // (5.10.6.1).
  bool takes_packets() const { return resets_.size() < kMaxResets; }

  bool has_packet() const { return !resets_.empty() || !turns_.empty(); }
  // The next packet for the guest, with its data in `room` (not empty). The length of the data; none: there
  // is no packet after all.
  std::optional<uint32_t> to_guest(vsock::Header& header, std::span<const iovec> room);

  void ready(uint64_t id, uint32_t events);  // of a connection
  void accept();                             // the listener has somebody, perhaps
  // Those for whom the host had no descriptor then.
  void accept_who_waits() {
    if (somebody_waits_) accept();
  }

  // The guest has forgotten every connection, and is not told. What it has sent still goes to the host.
  void clear();
  // Passes on what there is for the host, until it has taken all, or nothing of it for `patience`.
  void finish(std::chrono::milliseconds patience);
  size_t connections() const { return connections_.size(); }

 private:
  using Ports = VsockConnection::Ports;
  struct Entry {
    std::unique_ptr<VsockConnection> connection;
    bool has_turn = false;  // it is in turns_
  };
  struct Reset {
    uint64_t cid;  // the guest's idea of whom it talks to
    Ports ports;
  };

  VsockConnection* find(uint64_t id);
  VsockConnection* add(UniqueFd fd);
  bool make_room();
  void take_turn(VsockConnection&);
  void reset(VsockConnection&);   // and tells the guest
  void let_go(VsockConnection&);  // what is on its way to the host still arrives
  void forget_ports(const VsockConnection&);
  void remove(uint64_t id);
  void connect(const vsock::Header&, Ports);
  void greet(VsockConnection&);
  void dispatch(const vsock::Header&, std::span<const iovec> data, VsockConnection&);
  uint32_t free_host_port(uint32_t guest_port);

  VsockHost& host_;
  const Watch watch_;
  const std::string name_;
  Log& log_;
  uint64_t cid_ = vsock::kFirstCid;
  uint64_t next_id_ = kFirstId;
  uint32_t next_host_port_;
  bool somebody_waits_ = false;  // to be accepted, with no descriptor left for it

  std::map<uint64_t, Entry> connections_;  // by id: the oldest first
  std::map<Ports, uint64_t> by_ports_;     // those that the guest knows of
  std::deque<uint64_t> turns_;             // who has something for the guest; each once
  std::deque<Reset> resets_;
  std::deque<uint64_t> greetings_;  // oldest first; may name some that are past that
};

}  // namespace minivmm
