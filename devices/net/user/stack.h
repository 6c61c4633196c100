// One libslirp: its sockets, its timers and its forwarded ports. Not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "devices/net/user/gate.h"
#include "devices/net/user/library.h"
#include "devices/net/user/poll_set.h"
#include "devices/net/user/user_config.h"
#include "vmm/core/fd.h"

namespace minivmm::user_net {

// Takes what libslirp has for the guest.
class FrameSink {
 public:
  virtual ~FrameSink() = default;
  virtual void take(std::span<uint8_t> frame) = 0;  // its bytes may be changed
  virtual bool wants_more() const = 0;              // false: sockets are left alone for now
};

class Stack {
 public:
  // `sink` outlives it; called from poll(), input() and tick(). Throws HostError: the library is not there, a
  // port of the host is taken.
  Stack(const UserNetConfig& config, FrameSink& sink);
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  ~Stack();

  // Becomes readable, edge-triggered, when poll() has something to do.
  int fd() const { return polls_.fd(); }
  void wake() const { wake_.signal(); }
  bool peek() const { return polls_.peek(); }

  // Before a batch of input(): libslirp's clock stands still while nothing calls it.
  void tick();
  void input(std::span<const uint8_t> frame);
  // After news of a neighbour: sends what has waited for its address.
  void retry();
  // Notices what input() has changed of the sockets. Cheap when nothing has.
  void settle();
  // Does what is due: sockets, timers. False: nothing was.
  bool poll();

  Crowd crowd() const;
  bool busy() const { return polls_.sessions() > max_sessions_ / 4; }

  // Throw HostError.
  void add_forward(const Forward&);
  void remove_forward(const Forward&);

 private:
  struct Callbacks;  // what libslirp calls

  void refill(bool permanent = false);
  void set_alarm(uint32_t timeout_ms);
  int happened(int place);

  std::shared_ptr<const Library> library_;
  const UserNetConfig& config_;
  FrameSink& sink_;
  unsigned max_sessions_;
  PollSet polls_;
  EventFd wake_;
  UniqueFd timer_;
  int64_t alarm_ns_ = 0;     // what the timer is set to; 0: nothing
  int64_t announce_ns_ = 0;  // the next router advertisement; 0: none
  void* announce_data_ = nullptr;
  int64_t ticked_ns_ = 0;
  bool changed_ = false;  // since the last refill()
  int resume_ = 0;        // place to begin with, after a round that the sink cut short
  int held_ = -1;         // the first place that was left out of this round
  ::Slirp* slirp_ = nullptr;
};

}  // namespace minivmm::user_net
