// A 16550A UART (National PC16550D data sheet): 8 ports. Transmission takes no time; a full back end shows as
// a transmitter that is not empty yet. Reception interrupts at the first byte, so no receive timeout is
// needed. OUT2 does not gate the interrupt. The host heeds RTS once the guest has written the modem control
// register: input waits on the host while RTS is off, so nothing typed or piped before the guest opens its
// port is lost.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "devices/serial_backend.h"
#include "vmm/core/device.h"
#include "vmm/core/event_loop.h"
#include "vmm/core/irq.h"

namespace minivmm {

inline constexpr uint64_t kSerialPorts = 8;

class Serial16550 final : public IoDevice, public StateUnit, private SerialPort {
 public:
  // `name` is the state name ("serial0"). `irq`, `backend` and `time` outlive it. Without `time` there are no
  // pauses: input is there as fast as the guest takes it.
  Serial16550(std::string name, IrqLine& irq, SerialBackend& backend, TimeSource* time = nullptr);
  ~Serial16550() override;

  void reset();  // machine reset; host input not yet taken by the guest stays

  std::string_view name() const override { return name_; }
  IoStatus read(uint64_t offset, std::span<std::byte> data) override;
  IoStatus write(uint64_t offset, std::span<const std::byte> data) override;

  std::string_view state_name() const override { return name_; }
  void save(StateWriter&) const override;
  Result<void> load(StateReader&) override;

 private:
  static constexpr size_t kFifoSize = 16;
  static constexpr size_t kInputSize = 1024;  // host input waiting before the receiver

  // A bounded queue of bytes; push() on a full one is refused.
  template <size_t N>
  class Fifo {
   public:
    bool empty() const { return size_ == 0; }
    size_t size() const { return size_; }
    size_t room() const { return N - size_; }
    uint8_t at(size_t i) const { return bytes_[(head_ + i) % N]; }
    bool push(uint8_t v) {
      if (size_ == N) return false;
      bytes_[(head_ + size_++) % N] = v;
      return true;
    }
    void pop(size_t count = 1) {
      head_ = (head_ + count) % N;
      size_ -= count;
    }
    void clear() { size_ = 0; }

   private:
    std::array<uint8_t, N> bytes_{};
    size_t head_ = 0;
    size_t size_ = 0;
  };

  struct Registers {
    uint8_t ier = 0;
    uint8_t fcr = 0;
    uint8_t lcr = 0;
    uint8_t mcr = 0;
    uint8_t scratch = 0;
    uint8_t msr_delta = 0;
    uint16_t divisor = 12;  // 9600 baud: nothing depends on it
    bool overrun = false;
    bool thr_event = false;    // the transmitter became empty and nobody has been told
    bool mcr_written = false;  // from then on the host heeds RTS
  };

  size_t input_room() override;
  void input(std::span<const std::byte> data) override;
  void output_drained() override;

  // All with mutex_ held.
  bool dlab() const { return (regs_.lcr & 0x80) != 0; }
  bool loopback() const { return (regs_.mcr & 0x10) != 0; }
  size_t fifo_depth() const { return (regs_.fcr & 0x01) != 0 ? kFifoSize : 1; }
  bool receiving() const;
  bool data_ready() const { return !looped_.empty() || (receiving() && arrived_ != 0); }
  void arrive();
  void leave(size_t count);
  void pause_over();
  uint8_t lsr() const;
  uint8_t msr_lines() const;
  uint8_t iir() const;
  uint8_t read_register(uint64_t offset);
  uint8_t read_data();
  void write_register(uint64_t offset, uint8_t v);
  void transmit(uint8_t v);
  void drain();
  void write_ier(uint8_t v);
  void write_fcr(uint8_t v);
  void write_mcr(uint8_t v);
  void input_taken();
  void update_irq();

  const std::string name_;
  IrqLine& irq_;
  SerialBackend& backend_;
  mutable std::mutex mutex_;  // taken before the back end's own
  Registers regs_;
  Fifo<kInputSize> input_;
  Fifo<kFifoSize> looped_;   // the receiver FIFO's content in loopback mode
  Fifo<kFifoSize> waiting_;  // the transmitter FIFO: what the back end had no room for
  size_t arrived_ = 0;       // of input_'s front: in the receiver FIFO
  bool pausing_ = false;
  Clock::time_point batch_start_;
  TimeSource* const time_;
  std::unique_ptr<Timer> pause_timer_;  // null without time_
  bool irq_high_ = false;
  bool starved_ = false;  // the back end was told there is no room for input
};

}  // namespace minivmm
