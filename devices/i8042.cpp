#include "devices/i8042.h"

#include <algorithm>
#include <utility>

#include "vmm/core/state.h"

namespace minivmm {

namespace {

// Status register.
constexpr uint8_t kOutputFull = 0x01;
constexpr uint8_t kSystemFlag = 0x04;
constexpr uint8_t kKeylockOff = 0x10;

// Command byte.
constexpr uint8_t kKeyboardDisabled = 0x10;
constexpr uint8_t kAuxDisabled = 0x20;

constexpr uint8_t kOutputPortNotReset = 0x01;

constexpr uint8_t kReadConfig = 0x20;
constexpr uint8_t kWriteConfig = 0x60;
constexpr uint8_t kWriteOutputPort = 0xd1;
constexpr uint8_t kLoopKeyboard = 0xd2;
constexpr uint8_t kLoopAux = 0xd3;
constexpr uint8_t kWriteAux = 0xd4;

constexpr uint16_t kFieldConfig = 1;
constexpr uint16_t kFieldOutputPort = 2;
constexpr uint16_t kFieldAwaiting = 3;
constexpr uint16_t kFieldAnswering = 4;
constexpr uint16_t kFieldAnswer = 5;

}  // namespace

I8042::I8042(std::function<void()> on_reset) : on_reset_(std::move(on_reset)) {}

void I8042::reset() {
  const std::scoped_lock lock(mutex_);
  s_ = State{};
}

bool I8042::command(uint8_t v) {
  s_.awaiting = 0;
  if (v >= 0xf0) return (v & kOutputPortNotReset) == 0;  // pulse output port lines: bit 0 is the CPU's reset
  switch (v) {
    case kReadConfig: s_.answer = s_.config; break;
    case kWriteConfig:
    case kWriteOutputPort:
    case kLoopKeyboard:
    case kLoopAux:
    case kWriteAux: s_.awaiting = v; break;
    case 0xa7: s_.config |= kAuxDisabled; break;
    case 0xa8: s_.config &= static_cast<uint8_t>(~kAuxDisabled); break;
    case 0xa9: s_.answer = 0x01; break;  // auxiliary interface test: clock line stuck low, so no mouse
    case 0xaa: s_.answer = 0x55; break;  // self test passed
    case 0xab: s_.answer = 0x00; break;  // keyboard interface test passed
    case 0xad: s_.config |= kKeyboardDisabled; break;
    case 0xae: s_.config &= static_cast<uint8_t>(~kKeyboardDisabled); break;
    case 0xc0: s_.answer = 0x80; break;  // input port: not locked
    case 0xd0: s_.answer = s_.output_port; break;
    default: break;
  }
  return false;
}

bool I8042::argument(uint8_t v) {
  switch (std::exchange(s_.awaiting, uint8_t{0})) {
    case kWriteConfig: s_.config = v; break;
    case kWriteOutputPort: s_.output_port = v; return (v & kOutputPortNotReset) == 0;
    // Linux looks for a mouse this way. An answer that does not say it came from the auxiliary port tells it
    // at once that there is none; no answer would cost it half a second.
    case kLoopKeyboard:
    case kLoopAux: s_.answer = v; break;
    default: break;  // to a keyboard or mouse that is not there
  }
  return false;
}

IoStatus I8042::read(uint64_t offset, std::span<std::byte> data) {
  std::ranges::fill(data, std::byte{0xff});
  if (data.size() != 1 || (offset != kI8042Data && offset != kI8042Command)) return IoStatus::bad_access;
  const std::scoped_lock lock(mutex_);
  if (offset == kI8042Data) {
    data[0] = std::byte{s_.answer.value_or(0)};
    s_.answer.reset();
  } else {
    data[0] = std::byte{
        static_cast<uint8_t>(kKeylockOff | (s_.config & kSystemFlag) | (s_.answer ? kOutputFull : 0))};
  }
  return IoStatus::ok;
}

IoStatus I8042::write(uint64_t offset, std::span<const std::byte> data) {
  if (data.size() != 1 || (offset != kI8042Data && offset != kI8042Command)) return IoStatus::bad_access;
  const auto v = std::to_integer<uint8_t>(data[0]);
  bool reset_machine = false;
  {
    const std::scoped_lock lock(mutex_);
    reset_machine = offset == kI8042Command ? command(v) : argument(v);
  }
  if (reset_machine) on_reset_();
  return IoStatus::ok;
}

void I8042::save(StateWriter& w) const {
  const std::scoped_lock lock(mutex_);
  w.field(kFieldConfig, s_.config);
  w.field(kFieldOutputPort, s_.output_port);
  w.field(kFieldAwaiting, s_.awaiting);
  w.field(kFieldAnswering, s_.answer.has_value());
  w.field(kFieldAnswer, s_.answer.value_or(0));
}

Result<void> I8042::load(StateReader& r) {
  auto config = r.need<uint8_t>(kFieldConfig);
  auto output_port = r.need<uint8_t>(kFieldOutputPort);
  auto awaiting = r.need<uint8_t>(kFieldAwaiting);
  auto answering = r.need<bool>(kFieldAnswering);
  auto answer = r.need<uint8_t>(kFieldAnswer);
  if (!config || !output_port || !awaiting || !answering || !answer)
    return fail(Errc::corrupt, "a saved i8042 is incomplete");
  if (auto done = r.finish(); !done) return done;
  const std::scoped_lock lock(mutex_);
  s_ = {*config, *output_port, *awaiting, std::nullopt};
  if (*answering) s_.answer = *answer;
  return {};
}

}  // namespace minivmm
