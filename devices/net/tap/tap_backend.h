// A tap or macvtap device as a network back end: its queues, its link, and what is undone when it is closed.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "devices/net/link_monitor.h"
#include "devices/net/link_state.h"
#include "devices/net/links.h"
#include "devices/net/net_backend.h"
#include "devices/net/net_vhost.h"
#include "devices/net/tap/tap_queue.h"
#include "vmm/core/error.h"
#include "vmm/core/fd.h"

namespace minivmm {

// What it took to open the device, in the order it was done; undone in the reverse one.
class Undo {
 public:
  Undo() = default;
  Undo(Undo&& other) noexcept : steps_(std::exchange(other.steps_, {})) {}
  Undo& operator=(Undo&&) = delete;
  ~Undo() {
    for (; !steps_.empty(); steps_.pop_back()) {
      try {
        steps_.back()();
      } catch (const HostError&) {
        // Out of descriptors: nobody is left to hear of it.
      }
    }
  }
  void add(std::function<void()> step) { steps_.push_back(std::move(step)); }

 private:
  std::vector<std::function<void()>> steps_;
};

class TapBackend final : public NetBackend {
 public:
  struct Plan {
    std::string_view kind;
    Undo undo = {};                     // runs after the descriptors are closed
    std::vector<UniqueFd> vhost = {};   // /dev/vhost-net for each queue, or none
    std::vector<UniqueFd> queues = {};  // prepared (tap_device.h), attached, all enabled
    std::optional<Link> link = {};      // the interface; nullopt: not in our network namespace
    bool multi_queue = false;           // how the descriptors were attached
    // The interface is the user's, by name: when it is deleted and comes back it is attached to again.
    bool return_to_name = false;
    std::shared_ptr<void> companion = {};  // lives as long as the back end, and goes first
  };

  explicit TapBackend(Plan plan);
  ~TapBackend() override;

  NetTraits traits() const override { return traits_; }
  NetQueue& queue(uint16_t index) override { return *queues_[index]; }
  Result<void> use_queue_pairs(uint16_t pairs) override;
  Result<void> allow(NetOffloads offloads) override;
  NetVhost* vhost() override { return vhost_.pairs.empty() ? nullptr : &vhost_; }
  bool link_up() const override { return state_.up(); }
  void watch_link(std::function<void()> changed) override { state_.watch(std::move(changed)); }

 private:
  bool attach_again(const Link& link);
  int steer();  // with mutex_ held

  // Destroyed from the last to the first: nobody watches any more, then the descriptors are closed, then what
  // was made is removed.
  Undo undo_;
  NetTraits traits_;
  LinkState state_;
  std::vector<std::unique_ptr<TapQueue>> queues_;
  NetVhost vhost_;
  bool multi_queue_;
  std::mutex mutex_;  // of the device's control calls and the monitor
  std::vector<bool> enabled_;
  uint16_t pairs_ = 1;
  NetOffloads allowed_ = 0;
  std::unique_ptr<LinkMonitor> monitor_;
  std::shared_ptr<void> companion_;
};

}  // namespace minivmm
