// Tells of what happens to one of the host's network interfaces, from a thread of its own.
#pragma once

#include <functional>
#include <string>
#include <thread>

#include "devices/net/links.h"
#include "vmm/core/fd.h"

namespace minivmm {

class LinkMonitor {
 public:
  struct Events {
    std::function<void(const Link&)> changed;  // also once at the start
    std::function<void()> deleted;             // or moved to another network namespace
    // After that: an interface of the same name is there. True: it is the one to follow from now on.
    std::function<bool(const Link&)> appeared;
  };

  // Throws HostError. The calls of `events` come one at a time, and must not throw.
  LinkMonitor(const Link& link, Events events);
  LinkMonitor(const LinkMonitor&) = delete;
  LinkMonitor& operator=(const LinkMonitor&) = delete;
  ~LinkMonitor();  // no call comes after it

 private:
  void run();
  void ask();
  void take(const NetlinkMessage& message);

  int index_;  // 0: the interface is gone
  std::string name_;
  Events events_;
  NetlinkSocket socket_;
  EventFd stop_;
  std::thread thread_;
};

}  // namespace minivmm
