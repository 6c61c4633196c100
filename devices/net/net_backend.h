// The other end of a virtual network card's cable: a tap device, a NAT in user space, a switch between
// machines.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include "vmm/core/error.h"

namespace minivmm {

struct NetVhost;

// In front of every frame, in both directions: struct virtio_net_hdr_v1, 12 bytes, little-endian (virtio 1.2,
// 5.1.6.1). A back end that knows no offloads gives zeroes here and is given none.
inline constexpr size_t kNetHeaderSize = 12;
inline constexpr size_t kMaxFrame =
    kNetHeaderSize + 14 + 4 + 65535;  // header, Ethernet, VLAN tag, one IP packet

// Of a link, in Mbit/s (virtio 1.2, 5.1.4); in ethtool(8) the same.
inline constexpr uint32_t kLinkSpeedUnknown = 0xffffffff;
inline constexpr uint32_t kMostLinkSpeed = 0x7fffffff;

// Work on packets that one side leaves to the other; a set of bits.
using NetOffloads = uint8_t;
namespace net_offload {
inline constexpr NetOffloads kChecksum = 1;  // partial checksums
inline constexpr NetOffloads kTso4 = 2;      // TCP segments past the MTU; need kChecksum
inline constexpr NetOffloads kTso6 = 4;
inline constexpr NetOffloads kTsoEcn = 8;
inline constexpr NetOffloads kUso = 16;  // UDP over IPv4 and IPv6
}  // namespace net_offload

struct NetTraits {
  std::string_view kind;               // "tap", "user"
  uint16_t queue_pairs = 1;            // how many can be used at once
  NetOffloads takes = 0;               // what send() may be given
  NetOffloads gives = 0;               // what receive() can give, once it has been allowed
  uint16_t mtu = 0;                    // bytes of the largest IP packet; 0: it does not care
  uint32_t speed = kLinkSpeedUnknown;  // Mbit/s
};

// One queue pair's end. All calls come from one thread at a time (the pair's worker), not always the same
// one.
class NetQueue {
 public:
  virtual ~NetQueue() = default;

  // Becomes readable, or is so again (it is watched edge-triggered), when receive() has something after it
  // had nothing, when send() has room after it had none, and when the back end wants receive() to be called
  // for work of its own. -1: never. The same all its life.
  virtual int fd() const = 0;

  // The next frame, header first, into the pieces one after the other; its length in bytes. 0: none now.
  // Errc::too_large: it did not fit and is gone. Errc::closed: the cable is pulled; nothing comes before it
  // is plugged in again. Errc::io: one frame was lost.
  virtual Result<size_t> receive(std::span<const iovec> pieces) = 0;

  // One frame, header first. True: it is on its way, or lost as frames are. False: no room now; the same
  // frame is to be offered again once fd() says so. Errors: the frame is lost (Errc::invalid: it makes no
  // sense; Errc::closed: the cable is pulled). The pieces are guest memory that may change meanwhile: what is
  // looked at is copied first.
  virtual Result<bool> send(std::span<const iovec> pieces) = 0;

  // After the last send() of a batch. receive() is asked next, if it is asked at all: what the batch has
  // brought needs no news of fd().
  virtual void flush() {}

  // Whether receive() has something: a look, at the cost of one system call at most, because the worker asks
  // again and again for some microseconds before it sleeps. False where nobody can tell so cheaply.
  virtual bool ready() { return false; }
};

// Made and destroyed on any thread, with no queue in use; other calls come under the device's mutex.
class NetBackend {
 public:
  virtual ~NetBackend() = default;
  virtual NetTraits traits() const = 0;  // the same all its life

  // Index below traits().queue_pairs. Lives as long as the back end.
  virtual NetQueue& queue(uint16_t index) = 0;

  // How many pairs the guest uses (at least 1): the back end steers to no other.
  virtual Result<void> use_queue_pairs(uint16_t /*pairs*/) { return {}; }
  // What receive() may give from now on: a part of traits().gives.
  virtual Result<void> allow(NetOffloads /*offloads*/) { return {}; }

  // Where frames do not pass this process: what moves them instead of queue(). Null: queue() does.
  virtual NetVhost* vhost() { return nullptr; }

  virtual bool link_up() const { return true; }
  // `changed` is called on any thread after link_up() changed; replaces the one before. Returns when none of
  // the earlier one's calls runs any more.
  // NOLINTNEXTLINE(performance-unnecessary-value-param): who overrides it keeps it
  virtual void watch_link(std::function<void()> /*changed*/) {}
};

}  // namespace minivmm
