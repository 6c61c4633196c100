#include "devices/pit_channel.h"

#include <utility>

#include "vmm/core/device.h"
#include "vmm/core/state.h"

namespace minivmm {

namespace {

constexpr uint32_t kBinaryCounts = 0x10000;
constexpr uint32_t kBcdCounts = 10000;

constexpr uint16_t kFieldMode = 1;
constexpr uint16_t kFieldAccess = 2;
constexpr uint16_t kFieldBcd = 3;
constexpr uint16_t kFieldGate = 4;
constexpr uint16_t kFieldOutputIdle = 5;
constexpr uint16_t kFieldRunning = 6;
constexpr uint16_t kFieldNullCount = 7;
constexpr uint16_t kFieldWriteHigh = 8;
constexpr uint16_t kFieldReadHigh = 9;
constexpr uint16_t kFieldLowByte = 10;
constexpr uint16_t kFieldReload = 11;
constexpr uint16_t kFieldNextReload = 12;
constexpr uint16_t kFieldStart = 13;
constexpr uint16_t kFieldHeld = 14;
constexpr uint16_t kFieldLatched = 15;
constexpr uint16_t kFieldStatus = 16;

uint16_t to_bcd(uint32_t v) {
  return static_cast<uint16_t>(v / 1000 % 10 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10);
}
uint32_t from_bcd(uint32_t v) {
  return (v >> 12 & 0xf) * 1000 + (v >> 8 & 0xf) * 100 + (v >> 4 & 0xf) * 10 + (v & 0xf);
}

}  // namespace

void PitChannel::write_control(uint8_t control) {
  const bool gate = s_.gate;
  s_ = State{};
  s_.gate = gate;
  s_.access = static_cast<Access>(control >> 4 & 0x3);
  s_.mode = control >> 1 & 0x7;
  if (s_.mode >= 6) s_.mode -= 4;  // 8254: the top mode bit of modes 2 and 3 is ignored
  s_.bcd = (control & 0x1) != 0;
  s_.output_idle = s_.mode != 0;
}

void PitChannel::write(uint8_t v, uint64_t now) {
  switch (s_.access) {
    case Access::low: load_count(v, now); break;
    case Access::high: load_count(static_cast<uint32_t>(v) << 8, now); break;
    case Access::low_high:
      if (!std::exchange(s_.write_high, !s_.write_high)) {
        s_.low_byte = v;
        // 8254, mode 0: the first byte stops the counting and sets the output low at once.
        if (s_.mode == 0) s_.running = false;
      } else {
        load_count(static_cast<uint32_t>(v) << 8 | s_.low_byte, now);
      }
      break;
  }
}

void PitChannel::load_count(uint32_t raw, uint64_t now) {
  uint32_t n = s_.bcd ? from_bcd(raw) % kBcdCounts : raw;
  if (n == 0) n = s_.bcd ? kBcdCounts : kBinaryCounts;  // 8254: 0 is the largest count
  if (periodic() && n == 1) n = 2;                      // 8254: 1 is illegal in modes 2 and 3
  settle(now);
  if (triggered() || (periodic() && s_.running)) {
    s_.next_reload = n;
    return;
  }
  s_.reload = n;
  s_.start = now;
  s_.held = 0;
  s_.running = true;
  s_.null_count = false;
}

void PitChannel::settle(uint64_t now) {
  if (!periodic() || !s_.running || s_.next_reload == 0 || !s_.gate) return;
  if (now - s_.start < s_.reload) return;
  // The new count began at the end of the period in which it was written; that this finds out later makes no
  // difference but for several periods in between, whose phase nobody saw.
  s_.start += (now - s_.start) / s_.reload * s_.reload;
  s_.reload = std::exchange(s_.next_reload, 0);
  s_.null_count = false;
}

void PitChannel::set_gate(bool high, uint64_t now) {
  if (high == s_.gate) return;
  settle(now);
  if (periodic()) {
    // 8254, modes 2 and 3: low stops with the output high, the rising edge starts a whole period.
    if (high) {
      s_.start = now;
      if (s_.next_reload != 0) {
        s_.reload = std::exchange(s_.next_reload, 0);
        s_.null_count = false;
      }
    }
  } else if (triggered()) {
    if (high && (s_.next_reload != 0 || s_.running)) {
      if (s_.next_reload != 0) s_.reload = std::exchange(s_.next_reload, 0);
      s_.null_count = false;
      s_.running = true;
      s_.start = now;
    }
  } else if (s_.running) {
    if (high) {
      s_.start = now;
    } else {
      s_.held = elapsed(now);
    }
  }
  s_.gate = high;
}

uint64_t PitChannel::elapsed(uint64_t now) const {
  if (triggered() || periodic()) return now - s_.start;
  return s_.held + (s_.gate ? now - s_.start : 0);
}

uint32_t PitChannel::count(uint64_t now) const {
  const uint32_t wrap = s_.bcd ? kBcdCounts : kBinaryCounts;
  if (!s_.running) return s_.reload % wrap;
  if (periodic()) {
    if (!s_.gate) return s_.reload % wrap;
    const auto phase = static_cast<uint32_t>(elapsed(now) % s_.reload);
    if (s_.mode == 2) return (s_.reload - phase) % wrap;
    // Mode 3 counts by twos, once for each half of the wave (data sheet, mode 3; odd counts lose one).
    const uint32_t even = s_.reload & ~1U;
    const uint32_t high_half = s_.reload - s_.reload / 2;
    return (even - 2 * (phase < high_half ? phase : phase - high_half) % even) % wrap;
  }
  return static_cast<uint32_t>((s_.reload + wrap - elapsed(now) % wrap) % wrap);
}

uint16_t PitChannel::count_register(uint64_t now) const {
  const uint32_t n = count(now);
  return s_.bcd ? to_bcd(n) : static_cast<uint16_t>(n);
}

bool PitChannel::output(uint64_t now) const {
  if (!s_.running) return s_.output_idle;
  const uint64_t t = elapsed(now);
  switch (s_.mode) {
    case 0:
    case 1: return t >= s_.reload;
    case 2: return !s_.gate || t % s_.reload != s_.reload - 1;
    case 3: return !s_.gate || t % s_.reload < s_.reload - s_.reload / 2;
    default: return t != s_.reload;  // 4 and 5: low for one tick
  }
}

std::optional<uint64_t> PitChannel::next_rise(uint64_t now) const {
  if (!s_.running || (!s_.gate && !triggered())) return std::nullopt;
  const uint64_t t = elapsed(now);
  if (periodic()) return now + (s_.reload - t % s_.reload);
  const uint64_t rise = s_.mode == 0 || s_.mode == 1 ? s_.reload : uint64_t{s_.reload} + 1;
  if (t >= rise) return std::nullopt;
  return now + (rise - t);
}

void PitChannel::latch_count(uint64_t now) {
  settle(now);
  if (!s_.latched) s_.latched = count_register(now);  // 8254: a second latch before the read is ignored
}

void PitChannel::latch_status(uint64_t now) {
  settle(now);
  if (s_.status) return;
  const bool null_count = s_.null_count || s_.next_reload != 0;
  const unsigned access = static_cast<unsigned>(s_.access) << 4;
  const unsigned mode = static_cast<unsigned>(s_.mode) << 1;
  s_.status = static_cast<uint8_t>((output(now) ? 0x80U : 0) | (null_count ? 0x40U : 0) | access | mode |
                                   (s_.bcd ? 1U : 0));
}

uint8_t PitChannel::read(uint64_t now) {
  if (s_.status) return *std::exchange(s_.status, std::nullopt);
  settle(now);
  const uint16_t v = s_.latched.value_or(count_register(now));
  const bool high = s_.access == Access::high || (s_.access == Access::low_high && s_.read_high);
  if (s_.access == Access::low_high) s_.read_high = !s_.read_high;
  if (s_.access != Access::low_high || high) s_.latched.reset();
  return static_cast<uint8_t>(high ? v >> 8 : v);
}

void PitChannel::save(StateWriter& w) const {
  w.field(kFieldMode, s_.mode);
  w.field(kFieldAccess, s_.access);
  w.field(kFieldBcd, s_.bcd);
  w.field(kFieldGate, s_.gate);
  w.field(kFieldOutputIdle, s_.output_idle);
  w.field(kFieldRunning, s_.running);
  w.field(kFieldNullCount, s_.null_count);
  w.field(kFieldWriteHigh, s_.write_high);
  w.field(kFieldReadHigh, s_.read_high);
  w.field(kFieldLowByte, s_.low_byte);
  w.field(kFieldReload, s_.reload);
  w.field(kFieldNextReload, s_.next_reload);
  w.field(kFieldStart, s_.start);
  w.field(kFieldHeld, s_.held);
  if (s_.latched) w.field(kFieldLatched, *s_.latched);
  if (s_.status) w.field(kFieldStatus, *s_.status);
}

Result<PitChannel> PitChannel::parse(const StateReader& r, uint64_t now) {
  auto mode = r.need<uint8_t>(kFieldMode);
  auto access = r.need<uint8_t>(kFieldAccess);
  auto bcd = r.need<bool>(kFieldBcd);
  auto gate = r.need<bool>(kFieldGate);
  auto output_idle = r.need<bool>(kFieldOutputIdle);
  auto running = r.need<bool>(kFieldRunning);
  auto null_count = r.need<bool>(kFieldNullCount);
  auto write_high = r.need<bool>(kFieldWriteHigh);
  auto read_high = r.need<bool>(kFieldReadHigh);
  auto low_byte = r.need<uint8_t>(kFieldLowByte);
  auto reload = r.need<uint32_t>(kFieldReload);
  auto next_reload = r.need<uint32_t>(kFieldNextReload);
  auto start = r.need<uint64_t>(kFieldStart);
  auto held = r.need<uint64_t>(kFieldHeld);
  auto latched = r.bytes(kFieldLatched, sizeof(uint16_t));
  auto status = r.bytes(kFieldStatus, sizeof(uint8_t));
  if (!mode || !access || !bcd || !gate || !output_idle || !running || !null_count || !write_high ||
      !read_high || !low_byte || !reload || !next_reload || !start || !held || !latched || !status)
    return fail(Errc::corrupt, "a saved timer channel is incomplete");
  if (*mode > 5 || *access < 1 || *access > 3 || *reload < 1 || *reload > kBinaryCounts ||
      *next_reload > kBinaryCounts || (*mode == 2 || *mode == 3 ? *reload < 2 || *next_reload == 1 : false) ||
      *start > now || *held > now)
    return fail(Errc::corrupt, "a saved timer channel is impossible");
  PitChannel out;
  out.s_ = {*mode,        static_cast<Access>(*access),
            *bcd,         *gate,
            *output_idle, *running,
            *null_count,  *write_high,
            *read_high,   *low_byte,
            *reload,      *next_reload,
            *start,       *held,
            std::nullopt, std::nullopt};
  if (latched->size() == sizeof(uint16_t)) out.s_.latched = static_cast<uint16_t>(load_le(*latched));
  if (status->size() == sizeof(uint8_t)) out.s_.status = std::to_integer<uint8_t>((*status)[0]);
  return out;
}

}  // namespace minivmm
