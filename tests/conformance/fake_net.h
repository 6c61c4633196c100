// A network back end whose other end is the test: it gives frames and looks at those that were sent.
#pragma once

#include <atomic>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "devices/net/frame_pieces.h"
#include "devices/net/net_backend.h"
#include "tests/conformance/fake_host.h"
#include "virtio/device/net_spec.h"
#include "vmm/core/fd.h"

namespace minivmm::test {

using Bytes = std::vector<std::byte>;

// A header and a frame of so many bytes, its content counted up from `first`.
inline Bytes make_frame(size_t frame_bytes, const net::Header& header = {}, uint8_t first = 2) {
  Bytes out(kNetHeaderSize + frame_bytes);
  std::memcpy(out.data(), &header, sizeof header);
  for (size_t i = 0; i < frame_bytes; ++i) {
    out[kNetHeaderSize + i] = static_cast<std::byte>((first + i) & 0xff);
  }
  return out;
}
inline net::Header header_of(const Bytes& bytes) {
  net::Header header;
  std::memcpy(&header, bytes.data(), sizeof header);
  return header;
}
inline Bytes frame_of(const Bytes& bytes) {
  return {bytes.begin() + kNetHeaderSize, bytes.end()};
}

class FakeWire final : public NetQueue {
 public:
  int fd() const override { return event_.fd(); }
  bool ready() override {
    const std::scoped_lock lock(mutex_);
    ++asked_;
    return plugged_ && (failing_ || !coming_.empty());
  }
  Result<size_t> receive(std::span<const iovec> pieces) override {
    if (hold_) {
      const uint64_t seen = let_go_.count();
      held_.add();
      let_go_.wait_past(seen);
    }
    const std::scoped_lock lock(mutex_);
    if (!plugged_) return fail(Errc::closed, "unplugged");
    if (failing_) {
      failures_.add();
      return fail(Errc::io, "failing");
    }
    if (coming_.empty()) return 0;
    const Bytes frame = std::move(coming_.front());
    coming_.pop_front();
    size_t done = 0;
    for (const iovec& piece : pieces) {
      const size_t n = std::min(piece.iov_len, frame.size() - done);
      if (n != 0) std::memcpy(piece.iov_base, frame.data() + done, n);
      done += n;
    }
    taken_.add();
    if (done != frame.size()) return fail(Errc::too_large, "it did not fit");
    return done;
  }
  Result<bool> send(std::span<const iovec> pieces) override {
    const std::scoped_lock lock(mutex_);
    if (!plugged_) return fail(Errc::closed, "unplugged");
    if (!room_) {
      refused_.add();
      return false;
    }
    if (on_send_) on_send_();
    Bytes bytes(pieces_size(pieces));
    copy_from_pieces(pieces, 0, bytes);
    if (keep_) sent_.push_back(std::move(bytes));
    sends_.add();
    return true;
  }
  void flush() override { flushes_.add(); }

  // --- The test's end.
  void give(Bytes bytes) {
    {
      const std::scoped_lock lock(mutex_);
      coming_.push_back(std::move(bytes));
    }
    event_.signal();
  }
  // The device's calls of receive() stop before they look what has come. True once one is there.
  bool hold_receives() {
    hold_ = true;
    event_.signal();
    return wait(held_, 1);
  }
  void let_receives_go() {
    hold_ = false;
    let_go_.add();
  }
  void set_room(bool room) {
    {
      const std::scoped_lock lock(mutex_);
      room_ = room;
    }
    event_.signal();
  }
  void plug(bool in) {
    {
      const std::scoped_lock lock(mutex_);
      plugged_ = in;
    }
    event_.signal();
  }
  // Runs before each frame is looked at.
  void on_send(std::function<void()> hook) {
    const std::scoped_lock lock(mutex_);
    on_send_ = std::move(hook);
  }
  void fail_receives(bool failing) {
    {
      const std::scoped_lock lock(mutex_);
      failing_ = failing;
    }
    event_.signal();
  }
  const Counter& failures() const { return failures_; }
  void keep_sent(bool keep) {
    const std::scoped_lock lock(mutex_);
    keep_ = keep;
  }
  size_t coming() const {
    const std::scoped_lock lock(mutex_);
    return coming_.size();
  }
  std::vector<Bytes> sent() const {
    const std::scoped_lock lock(mutex_);
    return sent_;
  }
  const Counter& sends() const { return sends_; }
  const Counter& refused() const { return refused_; }
  const Counter& taken() const { return taken_; }  // frames the device has received, or lost
  const Counter& flushes() const { return flushes_; }
  bool wait_sends(uint64_t count) const { return wait(sends_, count); }
  bool wait_taken(uint64_t count) const { return wait(taken_, count); }

 private:
  static bool wait(const Counter& counter, uint64_t count) {
    for (uint64_t seen = counter.count(); seen < count; seen = counter.count()) {
      if (!counter.wait_past(seen)) return false;
    }
    return true;
  }

  EventFd event_;
  mutable std::mutex mutex_;
  std::deque<Bytes> coming_;
  std::vector<Bytes> sent_;
  bool room_ = true;
  bool plugged_ = true;
  bool keep_ = true;
  bool failing_ = false;
  std::atomic<bool> hold_ = false;
  Counter held_;
  Counter let_go_;
  Counter failures_;
  std::function<void()> on_send_;
  unsigned asked_ = 0;
  Counter sends_;
  Counter refused_;
  Counter taken_;
  Counter flushes_;
};

class FakeNet final : public NetBackend {
 public:
  explicit FakeNet(const NetTraits& traits) : traits_(traits) {
    for (uint16_t i = 0; i < traits.queue_pairs; ++i) wires_.push_back(std::make_unique<FakeWire>());
  }
  NetTraits traits() const override { return traits_; }
  NetQueue& queue(uint16_t index) override { return *wires_[index]; }
  Result<void> use_queue_pairs(uint16_t pairs) override {
    if (refuse_) return fail(Errc::io, "the host refuses");
    pairs_ = pairs;
    return {};
  }
  Result<void> allow(NetOffloads offloads) override {
    allowed_ = offloads;
    return {};
  }
  bool link_up() const override { return link_; }
  void watch_link(std::function<void()> changed) override {
    const std::scoped_lock lock(mutex_);
    changed_ = std::move(changed);
  }

  // --- The test's end.
  FakeWire& wire(size_t index = 0) { return *wires_[index]; }
  void set_link(bool up) {
    link_ = up;
    const std::scoped_lock lock(mutex_);
    if (changed_) changed_();
  }
  void refuse(bool refuse) { refuse_ = refuse; }
  uint16_t pairs() const { return pairs_; }
  NetOffloads allowed() const { return allowed_; }

 private:
  NetTraits traits_;
  std::vector<std::unique_ptr<FakeWire>> wires_;
  std::mutex mutex_;
  std::function<void()> changed_;
  std::atomic<bool> link_{true};
  std::atomic<bool> refuse_{false};
  std::atomic<uint16_t> pairs_{0};
  std::atomic<NetOffloads> allowed_{0};
};

}  // namespace minivmm::test
