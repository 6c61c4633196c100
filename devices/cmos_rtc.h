// The MC146818 real-time clock and its 128 bytes of CMOS memory (Motorola MC146818A data sheet): index port
// 0x70, data port 0x71. Its time is the host's wall clock plus what the guest has set; flags are computed
// when asked for, and a host timer runs only while an enabled interrupt is ahead.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "vmm/core/device.h"
#include "vmm/core/event_loop.h"
#include "vmm/core/irq.h"

namespace minivmm {

inline constexpr uint64_t kRtcPorts = 2;
inline constexpr uint8_t kRtcCenturyIndex = 0x32;  // the FADT's CENTURY field (ACPI 6.4, table 5.9)

class CmosRtc final : public IoDevice, public StateUnit {
 public:
  using WallClock = std::function<std::chrono::system_clock::time_point()>;

  // `irq8` and `time` outlive it. The guest reads UTC.
  CmosRtc(IrqLine& irq8, TimeSource& time, WallClock wall = &std::chrono::system_clock::now);
  ~CmosRtc() override;

  void reset();  // as the RESET pin: interrupts off, time and memory kept
  void pause();  // with the machine: no interrupt comes
  void resume();

  std::string_view name() const override { return "cmos-rtc"; }
  IoStatus read(uint64_t offset, std::span<std::byte> data) override;
  IoStatus write(uint64_t offset, std::span<const std::byte> data) override;

  std::string_view state_name() const override { return "cmos-rtc"; }
  void save(StateWriter&) const override;
  Result<void> load(StateReader&) override;

 private:
  static constexpr size_t kBytes = 128;
  using Bytes = std::array<uint8_t, kBytes>;

  struct Now {
    int64_t second;     // of the guest's clock, since 1970
    uint32_t fraction;  // nanoseconds into it
    uint64_t cycle;     // of the 32.768 kHz oscillator
  };

  // All with mutex_ held.
  Now now() const;
  bool set_mode() const;  // the guest is writing the time: the clock registers stand still
  uint8_t read_register(uint8_t index);
  void write_register(uint8_t index, uint8_t v);
  void render_time(int64_t second);  // fills in the clock registers
  void take_time();                  // and makes the guest's time what they say
  uint8_t encode(unsigned v) const;
  std::optional<unsigned> decode(uint8_t raw, unsigned min, unsigned max) const;
  std::optional<unsigned> decode_hour(uint8_t raw) const;
  std::optional<int64_t> next_alarm(int64_t after) const;
  unsigned period_shift() const;  // log2 of the periodic interrupt's length in cycles; 0: off
  void advance();                 // sets the flags of what has happened since the last call
  void update();                  // the IRQ line and the timer, after flags or enables changed
  void on_timer();

  IrqLine& irq8_;
  TimeSource& time_;
  WallClock wall_;
  mutable std::mutex mutex_;
  Bytes bytes_{};
  uint8_t index_ = 0;
  int64_t offset_s_ = 0;  // the guest's clock minus the host's, in seconds
  Now seen_{};            // the time of the last advance()
  bool irq_high_ = false;
  bool armed_ = false;
  bool paused_ = false;
  Clock::time_point epoch_;
  std::unique_ptr<Timer> timer_;
};

}  // namespace minivmm
