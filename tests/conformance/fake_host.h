// What a device needs of its host, for tests: wires that count, a clock turned by hand.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "tests/temp_folder.h"
#include "vmm/core/event_loop.h"
#include "vmm/core/fd.h"
#include "vmm/core/irq.h"

namespace minivmm::test {

inline constexpr std::chrono::seconds kDeadline{20};  // for what happens at once unless it never does

// Something that happens on another thread and is counted.
class Counter {
 public:
  void add() {
    const std::scoped_lock lock(mutex_);
    ++count_;
    changed_.notify_all();
  }
  uint64_t count() const {
    const std::scoped_lock lock(mutex_);
    return count_;
  }
  // Waits until the count is not `seen`; false at the deadline.
  bool wait_past(uint64_t seen) const {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kDeadline, [&] { return count_ != seen; });
  }

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  uint64_t count_ = 0;
};

class FakeLine final : public IrqLine {
 public:
  explicit FakeLine(Counter& counter) : counter_(counter) {}
  void set(bool high) override {
    if (high) counter_.add();
  }

 private:
  Counter& counter_;
};

// MSI routes whose message data is the index of the counter to add to.
class FakeMsiSink final : public MsiSink {
 public:
  explicit FakeMsiSink(std::vector<Counter>& counters) : counters_(counters) {}
  Result<std::unique_ptr<MsiRoute>> allocate() override { return std::make_unique<Route>(counters_); }

 private:
  class Route final : public MsiRoute {
   public:
    explicit Route(std::vector<Counter>& counters) : counters_(counters) {}
    Result<void> route(const MsiMessage& message) override {
      data_ = message.data;
      return {};
    }
    void trigger() override {
      const uint32_t data = data_;
      if (data < counters_.size()) counters_[data].add();
    }
    // All that comes by eventfds has to pass through trigger(), to be counted.
    Result<void> bind(int) override { return fail(Errc::no_space, "there is no KVM"); }
    void unbind(int) override {}

   private:
    std::vector<Counter>& counters_;
    std::atomic<uint32_t> data_{0};
  };
  std::vector<Counter>& counters_;
};

// Stands for KVM's ioeventfds: remembers what is attached, and rings it.
class FakeDoorbells final : public DoorbellSink {
 public:
  Result<void> attach(Gpa region, const Doorbell& bell) override {
    bells_.push_back({region, bell});
    return {};
  }
  void detach(Gpa region, const Doorbell& bell) override {
    std::erase_if(bells_, [&](const auto& b) { return b.first == region && b.second.offset == bell.offset; });
  }
  // A guest's write; false if no doorbell takes it.
  bool ring(Gpa address, uint8_t width, uint32_t v) const {
    for (const auto& [region, bell] : bells_) {
      if (region + bell.offset != address) continue;
      if (bell.width != 0 && (bell.width != width || (bell.match && *bell.match != v))) continue;
      const uint64_t one = 1;
      return ::write(bell.fd, &one, sizeof one) == sizeof one;
    }
    return false;
  }

 private:
  std::vector<std::pair<Gpa, Doorbell>> bells_;
};

class ManualTime final : public TimeSource {
 public:
  Clock::time_point now() const override { return now_; }
  std::unique_ptr<Timer> make_timer(std::function<void()> on_expiry) override {
    return std::make_unique<ManualTimer>(std::move(on_expiry));
  }

 private:
  class ManualTimer final : public Timer {
   public:
    explicit ManualTimer(std::function<void()> on_expiry) : on_expiry_(std::move(on_expiry)) {}
    void arm(Clock::time_point) override {}
    void cancel() override {}

   private:
    std::function<void()> on_expiry_;
  };
  Clock::time_point now_{};
};

}  // namespace minivmm::test
