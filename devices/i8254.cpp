#include "devices/i8254.h"

#include <algorithm>
#include <utility>

#include "vmm/core/state.h"

namespace minivmm {

namespace {

constexpr uint64_t kControl = 3;
constexpr uint8_t kReadBack = 0xc0;
constexpr uint8_t kReadBackNoCount = 0x20;
constexpr uint8_t kReadBackNoStatus = 0x10;

constexpr unsigned kSpeaker = 2;  // the channel behind port 0x61

constexpr uint8_t kPort61Gate = 0x01;
constexpr uint8_t kPort61Writable = 0x0f;
constexpr uint8_t kPort61Refresh = 0x10;
constexpr uint8_t kPort61Output = 0x20;
constexpr uint64_t kRefreshTicks = 18;  // counter 1's period on a PC: 15 us

// 200 us. A guest may ask for a thousand times more interrupts than the host should deliver.
constexpr uint64_t kMinIrqTicks = kPitHz / 5000;
constexpr uint64_t kMaxIrqTicks = 0x10001 + kMinIrqTicks;  // and never further ahead than this

constexpr int64_t kNsPerSecond = 1000000000;

uint64_t to_ticks(Clock::duration d) {
  const auto ns = std::max<int64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(d).count(), 0);
  const auto seconds = static_cast<uint64_t>(ns / kNsPerSecond);
  const auto rest = static_cast<uint64_t>(ns % kNsPerSecond);
  return seconds * kPitHz + rest * kPitHz / kNsPerSecond;
}

// Rounded up: to_ticks() of it is at least `ticks`.
Clock::duration from_ticks(uint64_t ticks) {
  const uint64_t rest = (ticks % kPitHz * kNsPerSecond + kPitHz - 1) / kPitHz;
  return std::chrono::seconds(ticks / kPitHz) + std::chrono::nanoseconds(rest);
}

constexpr uint16_t kFieldTicks = 1;
constexpr uint16_t kFieldPort61 = 2;
constexpr uint16_t kFieldChannel = 3;
constexpr uint16_t kFieldNextIrq = 4;  // 0: none

}  // namespace

I8254::I8254(IrqLine& irq0, TimeSource& time)
    : irq0_(irq0), time_(time), epoch_(time.now()), timer_(time.make_timer([this] { on_timer(); })) {
  channels_[kSpeaker].set_gate(false, 0);
}

I8254::~I8254() = default;

uint64_t I8254::ticks() const {
  return paused_at_ ? *paused_at_ : to_ticks(time_.now() - epoch_);
}

void I8254::set_ticks(uint64_t ticks) {
  if (paused_at_) paused_at_ = ticks;
  epoch_ = time_.now() - from_ticks(ticks);
}

void I8254::reset() {
  const std::scoped_lock lock(mutex_);
  channels_ = {};
  port61_bits_ = 0;
  channels_[kSpeaker].set_gate(false, 0);
  schedule(ticks());
}

void I8254::pause() {
  const std::scoped_lock lock(mutex_);
  if (paused_at_) return;
  paused_at_ = ticks();
  timer_->cancel();
}

void I8254::resume() {
  const std::scoped_lock lock(mutex_);
  if (!paused_at_) return;
  set_ticks(*paused_at_);
  paused_at_.reset();
  if (next_irq_) timer_->arm(epoch_ + from_ticks(*next_irq_));
}

// Arms the timer for channel 0's next rising edge, but not sooner than kMinIrqTicks after the last.
void I8254::schedule(uint64_t now) {
  const auto rise = channels_[0].next_rise(now);
  if (!rise) {
    if (std::exchange(next_irq_, std::nullopt)) timer_->cancel();
    return;
  }
  const uint64_t due = std::max(*rise, last_irq_ + kMinIrqTicks);
  if (next_irq_ == due) return;
  next_irq_ = due;
  if (!paused_at_) timer_->arm(epoch_ + from_ticks(due));
}

void I8254::on_timer() {
  const std::scoped_lock lock(mutex_);
  deliver(ticks());
}

// The edge that is due, if one is: a callback that was under way when the guest reprogrammed the channel
// finds none, and a guest that does so before a late callback does not lose it.
void I8254::deliver(uint64_t now) {
  if (paused_at_ || !next_irq_ || now < *next_irq_) return;
  next_irq_.reset();
  last_irq_ = now;
  irq0_.pulse();
  schedule(now);
}

void I8254::write_control(uint8_t v, uint64_t now) {
  if ((v & kReadBack) == kReadBack) {
    for (unsigned i = 0; i < kChannels; ++i) {
      if ((v >> (i + 1) & 1) == 0) continue;
      if ((v & kReadBackNoCount) == 0) channels_[i].latch_count(now);
      if ((v & kReadBackNoStatus) == 0) channels_[i].latch_status(now);
    }
    return;
  }
  PitChannel& channel = channels_[v >> 6];
  if ((v & 0x30) == 0) {
    channel.latch_count(now);
  } else {
    channel.write_control(v);
    if (v >> 6 == 0) schedule(now);
  }
}

IoStatus I8254::read(uint64_t offset, std::span<std::byte> data) {
  std::ranges::fill(data, std::byte{0xff});
  if (data.size() != 1 || offset >= kPitPorts) return IoStatus::bad_access;
  if (offset == kControl) return IoStatus::ok;  // write-only: the bus floats
  const std::scoped_lock lock(mutex_);
  data[0] = std::byte{channels_[offset].read(ticks())};
  return IoStatus::ok;
}

IoStatus I8254::write(uint64_t offset, std::span<const std::byte> data) {
  if (data.size() != 1 || offset >= kPitPorts) return IoStatus::bad_access;
  const auto v = std::to_integer<uint8_t>(data[0]);
  const std::scoped_lock lock(mutex_);
  const uint64_t now = ticks();
  deliver(now);
  if (offset == kControl) {
    write_control(v, now);
  } else {
    channels_[offset].write(v, now);
    if (offset == 0) schedule(now);
  }
  return IoStatus::ok;
}

IoStatus I8254::Port61::read(uint64_t offset, std::span<std::byte> data) {
  std::ranges::fill(data, std::byte{0xff});
  if (data.size() != 1 || offset != 0) return IoStatus::bad_access;
  const std::scoped_lock lock(pit_.mutex_);
  const uint64_t now = pit_.ticks();
  uint8_t v = pit_.port61_bits_;
  if (now / kRefreshTicks % 2 != 0) v |= kPort61Refresh;
  if (pit_.channels_[kSpeaker].output(now)) v |= kPort61Output;
  data[0] = std::byte{v};
  return IoStatus::ok;
}

IoStatus I8254::Port61::write(uint64_t offset, std::span<const std::byte> data) {
  if (data.size() != 1 || offset != 0) return IoStatus::bad_access;
  const std::scoped_lock lock(pit_.mutex_);
  pit_.port61_bits_ = std::to_integer<uint8_t>(data[0]) & kPort61Writable;
  pit_.channels_[kSpeaker].set_gate((pit_.port61_bits_ & kPort61Gate) != 0, pit_.ticks());
  return IoStatus::ok;
}

void I8254::save(StateWriter& w) const {
  const std::scoped_lock lock(mutex_);
  w.field(kFieldTicks, ticks());
  w.field(kFieldPort61, port61_bits_);
  w.field(kFieldNextIrq, next_irq_.value_or(0));
  for (const PitChannel& channel : channels_)
    w.group(kFieldChannel, [&](StateWriter& group) { channel.save(group); });
}

Result<void> I8254::load(StateReader& r) {
  auto saved_ticks = r.need<uint64_t>(kFieldTicks);
  auto port61_bits = r.need<uint8_t>(kFieldPort61);
  auto next_irq = r.need<uint64_t>(kFieldNextIrq);
  auto groups = r.groups(kFieldChannel, kChannels);
  if (!saved_ticks || !port61_bits || !next_irq || !groups || groups->size() != kChannels)
    return fail(Errc::corrupt, "a saved timer is incomplete");
  // The ticks count from the timer's making: 2^40 of them are ten days, 2^50 thirty years.
  if (*saved_ticks >> 50 != 0 || *next_irq > *saved_ticks + kMaxIrqTicks)
    return fail(Errc::corrupt, "a saved timer's clock is impossible");
  std::array<PitChannel, kChannels> channels;
  for (unsigned i = 0; i < kChannels; ++i) {
    auto channel = PitChannel::parse((*groups)[i], *saved_ticks);
    if (!channel) return std::unexpected(channel.error());
    channels[i] = *channel;
  }
  if (auto done = r.finish(); !done) return done;
  const std::scoped_lock lock(mutex_);
  channels_ = channels;
  port61_bits_ = *port61_bits & kPort61Writable;
  set_ticks(*saved_ticks);
  last_irq_ = *saved_ticks;
  timer_->cancel();
  next_irq_.reset();
  if (*next_irq != 0) {
    next_irq_ = *next_irq;
    if (!paused_at_) timer_->arm(epoch_ + from_ticks(*next_irq));
  }
  return {};
}

}  // namespace minivmm
