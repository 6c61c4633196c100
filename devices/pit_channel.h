// One counter of an i8254 (Intel 8254 data sheet, "Mode Definitions") as a function of time: all times are in
// ticks of its 1.193182 MHz input, and nothing happens between accesses. Not thread-safe.
#pragma once

#include <cstdint>
#include <optional>

#include "vmm/core/error.h"

namespace minivmm {

class StateReader;
class StateWriter;

class PitChannel {
 public:
  void write_control(uint8_t control);  // a control word for this channel that is no latch command
  void write(uint8_t v, uint64_t now);
  uint8_t read(uint64_t now);
  void latch_count(uint64_t now);
  void latch_status(uint64_t now);
  void set_gate(bool high, uint64_t now);
  bool gate() const { return s_.gate; }
  bool output(uint64_t now) const;

  // The first tick after `now` at which the output rises, if it will without being touched again.
  std::optional<uint64_t> next_rise(uint64_t now) const;

  void save(StateWriter&) const;
  static Result<PitChannel> parse(const StateReader&, uint64_t now);  // `now`: the tick it was saved at

 private:
  enum class Access : uint8_t { low = 1, high = 2, low_high = 3 };

  struct State {
    uint8_t mode = 3;
    Access access = Access::low_high;
    bool bcd = false;
    bool gate = true;
    bool output_idle = true;  // the output while no count runs
    bool running = false;     // `start` and `reload` hold
    bool null_count = true;   // the count register has not reached the counter yet
    bool write_high = false;  // the next byte written is the high one
    bool read_high = false;   // the next byte read is the high one
    uint8_t low_byte = 0;     // written, waiting for the high one
    uint32_t reload = 0x10000;
    uint32_t next_reload =
        0;               // modes 2, 3: takes over at the end of the period; 1, 5: at the trigger; 0: none
    uint64_t start = 0;  // tick at which the count was loaded
    uint64_t held = 0;   // modes 0, 4: ticks counted when the gate went low
    std::optional<uint16_t> latched;
    std::optional<uint8_t> status;
  };

  bool periodic() const { return s_.mode == 2 || s_.mode == 3; }
  bool triggered() const { return s_.mode == 1 || s_.mode == 5; }
  uint64_t elapsed(uint64_t now) const;
  uint32_t count(uint64_t now) const;
  uint16_t count_register(uint64_t now) const;  // as a guest reads it: BCD where chosen
  void load_count(uint32_t raw, uint64_t now);
  void settle(uint64_t now);  // lets next_reload take over

  State s_;
};

}  // namespace minivmm
