// What a device's surroundings are in its tests: wires that count, a clock turned by hand, hostile accesses.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "vmm/core/device.h"
#include "vmm/core/event_loop.h"
#include "vmm/core/irq.h"
#include "vmm/core/state.h"

namespace minivmm::test {

class FakeLine final : public IrqLine {
 public:
  void set(bool high) override {
    if (high && !high_) ++rises;
    high_ = high;
  }
  bool high() const { return high_; }
  int rises = 0;

 private:
  bool high_ = false;
};

class FakeTime final : public TimeSource {
 public:
  Clock::time_point now() const override { return now_; }
  std::unique_ptr<Timer> make_timer(std::function<void()> on_expiry) override {
    return std::make_unique<FakeTimer>(*this, std::move(on_expiry));
  }
  // Turns the clock, stopping at each timer that expires on the way.
  void advance(Clock::duration d) {
    const auto end = now_ + d;
    while (FakeTimer* timer = next(end)) {
      now_ = std::max(now_, *timer->deadline);
      timer->deadline.reset();
      ++expiries;
      timer->on_expiry();
    }
    now_ = end;
  }
  // Turns the clock while the event loop is too busy to run timers.
  void advance_unnoticed(Clock::duration d) { now_ += d; }
  bool armed() const {
    return std::ranges::any_of(timers_, [](const FakeTimer* t) { return t->deadline.has_value(); });
  }
  int expiries = 0;

 private:
  class FakeTimer final : public Timer {
   public:
    FakeTimer(FakeTime& time, std::function<void()> f) : on_expiry(std::move(f)), time_(time) {
      time_.timers_.push_back(this);
    }
    FakeTimer(const FakeTimer&) = delete;
    FakeTimer& operator=(const FakeTimer&) = delete;
    ~FakeTimer() override { std::erase(time_.timers_, this); }
    void arm(Clock::time_point t) override { deadline = t; }
    void cancel() override { deadline.reset(); }

    std::optional<Clock::time_point> deadline;
    std::function<void()> on_expiry;

   private:
    FakeTime& time_;
  };

  FakeTimer* next(Clock::time_point end) const {
    FakeTimer* first = nullptr;
    for (FakeTimer* timer : timers_) {
      if (!timer->deadline || *timer->deadline > end) continue;
      if (first == nullptr || *timer->deadline < *first->deadline) first = timer;
    }
    return first;
  }

  Clock::time_point now_{std::chrono::hours(1)};
  std::vector<FakeTimer*> timers_;
};

inline uint8_t read8(IoDevice& device, uint64_t offset) {
  std::array<std::byte, 1> data{};
  EXPECT_EQ(device.read(offset, data), IoStatus::ok);
  return std::to_integer<uint8_t>(data[0]);
}
inline void write8(IoDevice& device, uint64_t offset, unsigned v) {
  const std::array data{static_cast<std::byte>(v)};
  EXPECT_EQ(device.write(offset, data), IoStatus::ok);
}
inline uint32_t read32(IoDevice& device, uint64_t offset) {
  std::array<std::byte, 4> data{};
  EXPECT_EQ(device.read(offset, data), IoStatus::ok);
  return static_cast<uint32_t>(load_le(data));
}
inline void write32(IoDevice& device, uint64_t offset, uint32_t v) {
  std::array<std::byte, 4> data{};
  store_le(data, v);
  EXPECT_EQ(device.write(offset, data), IoStatus::ok);
}

// Every width at every offset in and past the window; what a device does not take must read as all ones.
inline void poke_everywhere(IoDevice& device, uint64_t size) {
  for (const size_t width : {size_t{0}, size_t{1}, size_t{2}, size_t{3}, size_t{4}, size_t{8}, size_t{16}}) {
    for (uint64_t offset = 0; offset < size + 9; ++offset) {
      for (const int fill : {0x00, 0xff, 0x5a}) {
        std::array<std::byte, 16> data{};
        data.fill(static_cast<std::byte>(fill));
        device.write(offset, std::span(data).first(width));
        if (device.read(offset, std::span(data).first(width)) == IoStatus::bad_access) {
          EXPECT_TRUE(std::ranges::all_of(std::span(data).first(width),
                                          [](std::byte b) { return b == std::byte{0xff}; }))
              << device.name() << " offset " << offset << " width " << width;
        }
      }
    }
  }
  std::array<std::byte, 4> data{};
  device.write(~uint64_t{0}, data);
  EXPECT_EQ(device.read(~uint64_t{0}, data), IoStatus::bad_access);
}

inline std::vector<std::byte> saved(const StateUnit& unit) {
  StateWriter w;
  unit.save(w);
  return {w.data().begin(), w.data().end()};
}
inline Result<void> load(StateUnit& unit, std::span<const std::byte> data) {
  auto reader = StateReader::parse(data);
  if (!reader) return std::unexpected(reader.error());
  return unit.load(*reader);
}

// Loads every truncation and every single flipped byte of a saved state: each is refused or taken, never
// worse.
inline void load_damaged(StateUnit& unit, const std::vector<std::byte>& good) {
  const std::vector<std::byte> before = saved(unit);
  for (size_t length = 0; length < good.size(); ++length) {
    if (!load(unit, std::span(good).first(length))) {
      EXPECT_EQ(saved(unit), before) << "a refused load changed something";
    }
    ASSERT_TRUE(load(unit, before));
  }
  for (size_t i = 0; i < good.size(); ++i) {
    for (const int bit : {0x01, 0x80, 0xff}) {
      std::vector<std::byte> bad = good;
      bad[i] ^= static_cast<std::byte>(bit);
      const auto loaded = load(unit, bad);
      static_cast<void>(loaded);
      static_cast<void>(saved(unit));
      ASSERT_TRUE(load(unit, before));
    }
  }
}

}  // namespace minivmm::test
