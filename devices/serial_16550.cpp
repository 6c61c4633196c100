#include "devices/serial_16550.h"

#include <algorithm>
#include <utility>

#include "vmm/core/state.h"

namespace minivmm {

namespace {

// Registers, by port (PC16550D, table II).
constexpr uint64_t kData = 0;
constexpr uint64_t kIer = 1;
constexpr uint64_t kIirFcr = 2;
constexpr uint64_t kLcr = 3;
constexpr uint64_t kMcr = 4;
constexpr uint64_t kLsr = 5;
constexpr uint64_t kMsr = 6;
constexpr uint64_t kScratch = 7;

constexpr uint8_t kIerData = 0x01;
constexpr uint8_t kIerThr = 0x02;
constexpr uint8_t kIerLine = 0x04;
constexpr uint8_t kIerModem = 0x08;
constexpr uint8_t kIerMask = 0x0f;

constexpr uint8_t kIirNone = 0x01;
constexpr uint8_t kIirModem = 0x00;
constexpr uint8_t kIirThr = 0x02;
constexpr uint8_t kIirData = 0x04;
constexpr uint8_t kIirLine = 0x06;
constexpr uint8_t kIirFifos = 0xc0;

constexpr uint8_t kFcrEnable = 0x01;
constexpr uint8_t kFcrClearReceiver = 0x02;
constexpr uint8_t kFcrClearTransmitter = 0x04;
constexpr uint8_t kFcrKept = 0xc9;  // enable, DMA mode, trigger level

constexpr uint8_t kMcrDtr = 0x01;
constexpr uint8_t kMcrRts = 0x02;
constexpr uint8_t kMcrOut1 = 0x04;
constexpr uint8_t kMcrOut2 = 0x08;
constexpr uint8_t kMcrMask = 0x1f;

constexpr uint8_t kLsrData = 0x01;
constexpr uint8_t kLsrOverrun = 0x02;
constexpr uint8_t kLsrThrEmpty = 0x20;
constexpr uint8_t kLsrIdle = 0x40;

constexpr uint8_t kMsrCts = 0x10;
constexpr uint8_t kMsrDsr = 0x20;
constexpr uint8_t kMsrRing = 0x40;
constexpr uint8_t kMsrCarrier = 0x80;
constexpr uint8_t kMsrLines = 0xf0;

constexpr auto kLeastPause = std::chrono::microseconds(100);  // between two batches of input
constexpr auto kMostPause = std::chrono::milliseconds(5);

constexpr uint16_t kFieldIer = 1;
constexpr uint16_t kFieldFcr = 2;
constexpr uint16_t kFieldLcr = 3;
constexpr uint16_t kFieldMcr = 4;
constexpr uint16_t kFieldScratch = 5;
constexpr uint16_t kFieldMsrDelta = 6;
constexpr uint16_t kFieldDivisor = 7;
constexpr uint16_t kFieldOverrun = 8;
constexpr uint16_t kFieldThrEvent = 9;
constexpr uint16_t kFieldMcrWritten = 10;
constexpr uint16_t kFieldInput = 11;
constexpr uint16_t kFieldLooped = 12;
constexpr uint16_t kFieldWaiting = 13;

}  // namespace

Serial16550::Serial16550(std::string name, IrqLine& irq, SerialBackend& backend, TimeSource* time)
    : name_(std::move(name)), irq_(irq), backend_(backend), time_(time) {
  if (time_ != nullptr) pause_timer_ = time_->make_timer([this] { pause_over(); });
  backend_.connect(this);
}

Serial16550::~Serial16550() {
  backend_.connect(nullptr);
}

void Serial16550::reset() {
  const std::scoped_lock lock(mutex_);
  regs_ = Registers{};
  looped_.clear();
  drain();  // what the guest has sent it has sent
  update_irq();
}

// Input reaches the receiver only with RTS on: before a driver has opened the port, and while it throttles,
// it waits before the UART (PC16550D, 8.7: RTS is how a receiver asks for data). A program that never touches
// the modem control register just polls, and gets it.
bool Serial16550::receiving() const {
  return !loopback() && (!regs_.mcr_written || (regs_.mcr & kMcrRts) != 0);
}

uint8_t Serial16550::lsr() const {
  uint8_t v = 0;
  if (data_ready()) v |= kLsrData;
  if (regs_.overrun) v |= kLsrOverrun;
  if (waiting_.empty()) v |= kLsrThrEmpty | kLsrIdle;
  return v;
}

uint8_t Serial16550::msr_lines() const {
  if (!loopback()) return kMsrCts | kMsrDsr | kMsrCarrier;
  // PC16550D, 8.7: in loopback the four outputs are wired to the four inputs.
  uint8_t v = 0;
  if ((regs_.mcr & kMcrDtr) != 0) v |= kMsrDsr;
  if ((regs_.mcr & kMcrRts) != 0) v |= kMsrCts;
  if ((regs_.mcr & kMcrOut1) != 0) v |= kMsrRing;
  if ((regs_.mcr & kMcrOut2) != 0) v |= kMsrCarrier;
  return v;
}

// PC16550D, table IV: in order of priority.
uint8_t Serial16550::iir() const {
  if ((regs_.ier & kIerLine) != 0 && regs_.overrun) return kIirLine;
  if ((regs_.ier & kIerData) != 0 && data_ready()) return kIirData;
  if ((regs_.ier & kIerThr) != 0 && regs_.thr_event) return kIirThr;
  if ((regs_.ier & kIerModem) != 0 && regs_.msr_delta != 0) return kIirModem;
  return kIirNone;
}

void Serial16550::update_irq() {
  const bool high = iir() != kIirNone;
  if (high != irq_high_) {
    irq_high_ = high;
    irq_.set(high);
  }
}

IoStatus Serial16550::read(uint64_t offset, std::span<std::byte> data) {
  if (data.size() != 1 || offset >= kSerialPorts) {
    std::ranges::fill(data, std::byte{0xff});
    return IoStatus::bad_access;
  }
  const std::scoped_lock lock(mutex_);
  data[0] = std::byte{read_register(offset)};
  update_irq();
  return IoStatus::ok;
}

uint8_t Serial16550::read_register(uint64_t offset) {
  switch (offset) {
    case kData: return dlab() ? static_cast<uint8_t>(regs_.divisor) : read_data();
    case kIer: return dlab() ? static_cast<uint8_t>(regs_.divisor >> 8) : regs_.ier;
    case kIirFcr: {
      const uint8_t cause = iir();
      if (cause == kIirThr) regs_.thr_event = false;
      return cause | ((regs_.fcr & kFcrEnable) != 0 ? kIirFifos : 0);
    }
    case kLcr: return regs_.lcr;
    case kMcr: return regs_.mcr;
    case kLsr: {
      const uint8_t v = lsr();
      regs_.overrun = false;
      return v;
    }
    case kMsr: return static_cast<uint8_t>(msr_lines() | std::exchange(regs_.msr_delta, uint8_t{0}));
    default: return regs_.scratch;
  }
}

uint8_t Serial16550::read_data() {
  if (!looped_.empty()) {
    const uint8_t v = looped_.at(0);
    looped_.pop();
    return v;
  }
  if (!receiving() || arrived_ == 0) return 0;
  const uint8_t v = input_.at(0);
  leave(1);
  return v;
}

// The next of the host's input comes into the FIFO, unless some is there or a pause is due.
void Serial16550::arrive() {
  if (arrived_ != 0 || pausing_) return;
  arrived_ = time_ != nullptr ? std::min(input_.size(), kFifoSize) : input_.size();
  if (time_ != nullptr) batch_start_ = time_->now();
}

// `count` bytes leave the FIFO.
void Serial16550::leave(size_t count) {
  input_.pop(count);
  arrived_ -= count;
  input_taken();
  if (arrived_ != 0) return;
  if (time_ == nullptr) return arrive();
  // Half as long as the guest took for the last batch: two thirds of its time at most go into its handler,
  // however slow it is.
  const auto now = time_->now();
  pausing_ = true;
  pause_timer_->arm(now + std::clamp<Clock::duration>((now - batch_start_) / 2, kLeastPause, kMostPause));
}

void Serial16550::pause_over() {
  const std::scoped_lock lock(mutex_);
  pausing_ = false;
  arrive();
  update_irq();
}

// The back end is woken when half the room is free again, not for each byte.
void Serial16550::input_taken() {
  if (starved_ && input_.size() <= kInputSize / 2) {
    starved_ = false;
    backend_.resume_input();
  }
}

IoStatus Serial16550::write(uint64_t offset, std::span<const std::byte> data) {
  if (data.size() != 1 || offset >= kSerialPorts) return IoStatus::bad_access;
  const std::scoped_lock lock(mutex_);
  write_register(offset, std::to_integer<uint8_t>(data[0]));
  update_irq();
  return IoStatus::ok;
}

void Serial16550::write_register(uint64_t offset, uint8_t v) {
  switch (offset) {
    case kData:
      if (dlab()) {
        regs_.divisor = static_cast<uint16_t>((regs_.divisor & 0xff00) | v);
      } else {
        transmit(v);
      }
      break;
    case kIer:
      if (dlab()) {
        regs_.divisor = static_cast<uint16_t>((regs_.divisor & 0x00ff) | v << 8);
      } else {
        write_ier(v);
      }
      break;
    case kIirFcr: write_fcr(v); break;
    case kLcr: regs_.lcr = v; break;
    case kMcr: write_mcr(v); break;
    case kScratch: regs_.scratch = v; break;
    default: break;  // LSR and MSR are read-only
  }
}

void Serial16550::write_ier(uint8_t v) {
  // Enabling the interrupt with the transmitter empty raises it, each time: Linux's test for a missing one
  // (serial8250_do_startup) and its start_tx rely on that.
  if ((v & kIerThr) != 0 && (regs_.ier & kIerThr) == 0 && waiting_.empty()) regs_.thr_event = true;
  regs_.ier = v & kIerMask;
}

void Serial16550::write_fcr(uint8_t v) {
  // PC16550D, 8.4: changing the enable bit clears both FIFOs.
  const bool toggled = ((v ^ regs_.fcr) & kFcrEnable) != 0;
  if (toggled || (v & kFcrClearReceiver) != 0) {
    looped_.clear();
    // Of host input, what would be in the FIFO; the rest has not arrived yet.
    if (receiving() && arrived_ != 0) leave(std::min(arrived_, fifo_depth()));
  }
  if (toggled || (v & kFcrClearTransmitter) != 0) {
    if (!waiting_.empty()) regs_.thr_event = true;
    waiting_.clear();
  }
  regs_.fcr = (v & kFcrEnable) != 0 ? v & kFcrKept : 0;
}

void Serial16550::write_mcr(uint8_t v) {
  const uint8_t before = msr_lines();
  regs_.mcr = v & kMcrMask;
  regs_.mcr_written = true;
  const uint8_t now = msr_lines();
  // Delta bits sit four below their lines; the ring indicator's tells only of its falling edge.
  uint8_t changed = (before ^ now) & kMsrLines;
  if ((now & kMsrRing) != 0) changed &= static_cast<uint8_t>(~kMsrRing);
  regs_.msr_delta |= static_cast<uint8_t>(changed >> 4);
}

void Serial16550::transmit(uint8_t v) {
  regs_.thr_event = false;
  if (loopback()) {
    if (looped_.size() >= fifo_depth()) {
      regs_.overrun = true;
    } else {
      looped_.push(v);
    }
    regs_.thr_event = true;
    return;
  }
  // Full, because the reader is slow: a guest that writes without asking THRE loses the byte, as on the wire.
  waiting_.push(v);
  drain();
}

// Hands on what it can; the rest waits for output_drained(), and THRE stays clear so long.
void Serial16550::drain() {
  while (!waiting_.empty()) {
    const std::byte v{waiting_.at(0)};
    if (backend_.write({&v, 1}) == 0) return;
    waiting_.pop();
  }
  regs_.thr_event = true;
}

void Serial16550::output_drained() {
  const std::scoped_lock lock(mutex_);
  if (waiting_.empty()) return;
  drain();
  update_irq();
}

size_t Serial16550::input_room() {
  const std::scoped_lock lock(mutex_);
  starved_ = input_.room() == 0;
  return input_.room();
}

void Serial16550::input(std::span<const std::byte> data) {
  const std::scoped_lock lock(mutex_);
  for (const std::byte v : data) {
    if (!input_.push(std::to_integer<uint8_t>(v))) break;
  }
  if (time_ == nullptr) arrived_ = 0;  // all of it is there at once
  arrive();
  update_irq();
}

void Serial16550::save(StateWriter& w) const {
  const std::scoped_lock lock(mutex_);
  w.field(kFieldIer, regs_.ier);
  w.field(kFieldFcr, regs_.fcr);
  w.field(kFieldLcr, regs_.lcr);
  w.field(kFieldMcr, regs_.mcr);
  w.field(kFieldScratch, regs_.scratch);
  w.field(kFieldMsrDelta, regs_.msr_delta);
  w.field(kFieldDivisor, regs_.divisor);
  w.field(kFieldOverrun, regs_.overrun);
  w.field(kFieldThrEvent, regs_.thr_event);
  w.field(kFieldMcrWritten, regs_.mcr_written);
  const auto queue = [&w](uint16_t id, const auto& fifo) {
    std::array<std::byte, kInputSize> raw;
    for (size_t i = 0; i < fifo.size(); ++i) raw[i] = std::byte{fifo.at(i)};
    w.bytes(id, std::span(raw).first(fifo.size()));
  };
  queue(kFieldInput, input_);
  queue(kFieldLooped, looped_);
  queue(kFieldWaiting, waiting_);
}

Result<void> Serial16550::load(StateReader& r) {
  auto ier = r.need<uint8_t>(kFieldIer);
  auto fcr = r.need<uint8_t>(kFieldFcr);
  auto lcr = r.need<uint8_t>(kFieldLcr);
  auto mcr = r.need<uint8_t>(kFieldMcr);
  auto scratch = r.need<uint8_t>(kFieldScratch);
  auto msr_delta = r.need<uint8_t>(kFieldMsrDelta);
  auto divisor = r.need<uint16_t>(kFieldDivisor);
  auto overrun = r.need<bool>(kFieldOverrun);
  auto thr_event = r.need<bool>(kFieldThrEvent);
  auto mcr_written = r.need<bool>(kFieldMcrWritten);
  if (!ier || !fcr || !lcr || !mcr || !scratch || !msr_delta || !divisor || !overrun || !thr_event ||
      !mcr_written)
    return fail(Errc::corrupt, "a saved serial port is incomplete");
  auto input = r.bytes(kFieldInput, kInputSize);
  auto looped = r.bytes(kFieldLooped, kFifoSize);
  auto waiting = r.bytes(kFieldWaiting, kFifoSize);
  if (!input || !looped || !waiting) return fail(Errc::corrupt, "a saved serial port's queues are too long");
  if (auto done = r.finish(); !done) return done;

  const std::scoped_lock lock(mutex_);
  regs_ = {.ier = static_cast<uint8_t>(*ier & kIerMask),
           .fcr = static_cast<uint8_t>(*fcr & kFcrKept),
           .lcr = *lcr,
           .mcr = static_cast<uint8_t>(*mcr & kMcrMask),
           .scratch = *scratch,
           .msr_delta = static_cast<uint8_t>(*msr_delta & 0x0f),
           .divisor = *divisor,
           .overrun = *overrun,
           .thr_event = *thr_event,
           .mcr_written = *mcr_written};
  const auto queue = [](auto& fifo, std::span<const std::byte> raw) {
    fifo.clear();
    for (const std::byte v : raw) fifo.push(std::to_integer<uint8_t>(v));
  };
  queue(input_, *input);
  arrived_ = 0;
  pausing_ = false;
  arrive();
  queue(looped_, *looped);
  queue(waiting_, *waiting);
  if (!waiting_.empty()) drain();  // into this machine's back end
  input_taken();
  // The wire's level is the interrupt controller's to restore; ours must only agree with it from now on.
  irq_high_ = false;
  update_irq();
  return {};
}

}  // namespace minivmm
