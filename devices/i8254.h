// The i8254 programmable interval timer: three counters at 1.193182 MHz, ports 0x40 to 0x43, and port 0x61,
// which gates counter 2 and reads its output back. Counts are computed when asked for; a host timer runs only
// while counter 0 has an interrupt ahead.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include "devices/pit_channel.h"
#include "vmm/core/device.h"
#include "vmm/core/event_loop.h"
#include "vmm/core/irq.h"

namespace minivmm {

inline constexpr uint64_t kPitPorts = 4;
inline constexpr uint64_t kPitHz = 1193182;

class I8254 final : public IoDevice, public StateUnit {
 public:
  // `irq0` is pulsed at each rising edge of counter 0's output, at most 5000 times a second: edges that come
  // faster or late are merged into one. It and `time` outlive this.
  I8254(IrqLine& irq0, TimeSource& time);
  ~I8254() override;

  IoDevice& port61() { return port61_; }  // one port

  void reset();
  void pause();  // with the machine: time stands still and no interrupt comes
  void resume();

  std::string_view name() const override { return "i8254"; }
  IoStatus read(uint64_t offset, std::span<std::byte> data) override;
  IoStatus write(uint64_t offset, std::span<const std::byte> data) override;

  std::string_view state_name() const override { return "i8254"; }
  void save(StateWriter&) const override;
  Result<void> load(StateReader&) override;

 private:
  static constexpr unsigned kChannels = 3;

  class Port61 final : public IoDevice {
   public:
    explicit Port61(I8254& pit) : pit_(pit) {}
    std::string_view name() const override { return "port61"; }
    IoStatus read(uint64_t offset, std::span<std::byte> data) override;
    IoStatus write(uint64_t offset, std::span<const std::byte> data) override;

   private:
    I8254& pit_;
  };

  // All with mutex_ held.
  uint64_t ticks() const;  // since epoch_, or where the pause stopped it
  void set_ticks(uint64_t);
  void write_control(uint8_t v, uint64_t now);
  void schedule(uint64_t now);
  void deliver(uint64_t now);

  void on_timer();

  IrqLine& irq0_;
  TimeSource& time_;
  mutable std::mutex mutex_;
  std::array<PitChannel, kChannels> channels_{};
  uint8_t port61_bits_ = 0;
  Clock::time_point epoch_;
  std::optional<uint64_t> paused_at_;
  std::optional<uint64_t> next_irq_;  // the tick of the rising edge that the timer waits for
  uint64_t last_irq_ = 0;
  Port61 port61_{*this};
  std::unique_ptr<Timer> timer_;
};

}  // namespace minivmm
