// The event queue of a socket device (virtio 1.2, 5.10.6.6) whose data is moved elsewhere: it has one thing
// to say in its life, after a restore, and otherwise only keeps the guest's buffers.
#pragma once

#include <deque>
#include <string_view>

#include "virtio/virtqueue.h"
#include "vmm/core/log.h"

namespace minivmm {

class VsockEvents {
 public:
  // The guest is to be told that its connections are gone; none: it is not any more. With no queue running.
  void set_moved(bool moved) { moved_ = moved; }

  // QueueRunner's hooks. All buffers are taken, or those that wait would look like work, again and again.
  // `name` is for the log.
  Result<void> drain(Virtqueue& queue, std::string_view name, Log& log);
  void settle(Virtqueue& queue);

 private:
  bool moved_ = false;
  std::deque<Chain> waiting_;  // for something to happen
};

}  // namespace minivmm
