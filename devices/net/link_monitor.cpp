#include "devices/net/link_monitor.h"

#include <linux/rtnetlink.h>
#include <poll.h>

#include <array>
#include <utility>

#include "vmm/core/error.h"
#include "vmm/core/quiet_thread.h"

namespace minivmm {

LinkMonitor::LinkMonitor(const Link& link, Events events)
    : index_(link.index), name_(link.name), events_(std::move(events)), socket_(RTMGRP_LINK) {
  thread_ = start_quiet_thread("link", [this] { run(); });
}

LinkMonitor::~LinkMonitor() {
  stop_.signal();
  thread_.join();
}

void LinkMonitor::run() {
  ask();  // what happened before the socket was there
  std::array<pollfd, 2> fds{pollfd{socket_.fd(), POLLIN, 0}, pollfd{stop_.fd(), POLLIN, 0}};
  for (;;) {
    ::poll(fds.data(), fds.size(), -1);
    if (fds[1].revents != 0) return;
    if (fds[0].revents == 0) continue;
    if (!socket_.notifications([this](const NetlinkMessage& message) { take(message); })) ask();
  }
}

void LinkMonitor::ask() {
  try {
    Links links;
    const auto link = index_ != 0 ? links.find(index_) : links.find(name_);
    if (link) {
      if (index_ != 0) {
        events_.changed(*link);
      } else if (events_.appeared(*link)) {
        index_ = link->index;
      }
    } else if (index_ != 0) {
      index_ = 0;
      events_.deleted();
    }
  } catch (const HostError&) {
    // Out of descriptors: the next notification is as good.
  }
}

void LinkMonitor::take(const NetlinkMessage& message) {
  const auto link = parse_link(message);
  if (!link) return;
  if (index_ == 0) {
    if (message.type == RTM_NEWLINK && link->name == name_ && events_.appeared(*link)) index_ = link->index;
    return;
  }
  if (link->index != index_) return;
  if (message.type == RTM_DELLINK) {
    index_ = 0;
    events_.deleted();
  } else {
    name_ = link->name;
    events_.changed(*link);
  }
}

}  // namespace minivmm
