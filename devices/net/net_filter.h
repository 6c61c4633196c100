// A network back end over another one, which it owns: the same to look at; what a filter changes it
// overrides.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "devices/net/net_backend.h"

namespace minivmm {

class NetQueueFilter : public NetQueue {
 public:
  explicit NetQueueFilter(NetQueue& below) : below_(below) {}
  int fd() const override { return below_.fd(); }
  bool ready() override { return below_.ready(); }
  Result<size_t> receive(std::span<const iovec> pieces) override { return below_.receive(pieces); }
  Result<bool> send(std::span<const iovec> pieces) override { return below_.send(pieces); }
  void flush() override { below_.flush(); }

 protected:
  NetQueue& below() { return below_; }

 private:
  NetQueue& below_;
};

class NetFilter : public NetBackend {
 public:
  explicit NetFilter(std::unique_ptr<NetBackend> below) : below_(std::move(below)) {}

  NetTraits traits() const override { return below_->traits(); }
  NetQueue& queue(uint16_t index) override { return *queues_[index]; }
  Result<void> use_queue_pairs(uint16_t pairs) override { return below_->use_queue_pairs(pairs); }
  Result<void> allow(NetOffloads offloads) override { return below_->allow(offloads); }
  // Whoever looks at frames is of no use there: open_net() refuses it.
  NetVhost* vhost() override { return below_->vhost(); }
  bool link_up() const override { return below_->link_up(); }
  void watch_link(std::function<void()> changed) override { below_->watch_link(std::move(changed)); }

 protected:
  // Once, in the constructor: puts `make(queue below)`, a unique_ptr, over each queue.
  template <class Make>
  void wrap_queues(Make make) {
    for (uint16_t i = 0; i < below_->traits().queue_pairs; ++i) queues_.push_back(make(below_->queue(i)));
  }

 private:
  std::unique_ptr<NetBackend> below_;
  std::vector<std::unique_ptr<NetQueue>> queues_;  // gone before what they use
};

}  // namespace minivmm
