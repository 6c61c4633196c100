#include "devices/cmos_rtc.h"

#include <algorithm>
#include <utility>

#include "vmm/core/state.h"

namespace minivmm {

namespace {

using namespace std::chrono_literals;

// Registers (MC146818A, figure 10).
constexpr uint8_t kSeconds = 0x00;
constexpr uint8_t kSecondsAlarm = 0x01;
constexpr uint8_t kMinutes = 0x02;
constexpr uint8_t kMinutesAlarm = 0x03;
constexpr uint8_t kHours = 0x04;
constexpr uint8_t kHoursAlarm = 0x05;
constexpr uint8_t kWeekday = 0x06;
constexpr uint8_t kDay = 0x07;
constexpr uint8_t kMonth = 0x08;
constexpr uint8_t kYear = 0x09;
constexpr uint8_t kA = 0x0a;
constexpr uint8_t kB = 0x0b;
constexpr uint8_t kC = 0x0c;
constexpr uint8_t kD = 0x0d;
constexpr uint8_t kCentury = kRtcCenturyIndex;

constexpr uint8_t kAUpdating = 0x80;
constexpr uint8_t kADividers = 0x70;
constexpr uint8_t kADividersReset = 0x60;
constexpr uint8_t kBSet = 0x80;
constexpr uint8_t kBUpdate = 0x10;
constexpr uint8_t kBSquareWave = 0x08;
constexpr uint8_t kBBinary = 0x04;
constexpr uint8_t kB24 = 0x02;
constexpr uint8_t kCRequest = 0x80;
constexpr uint8_t kPeriodic = 0x40;  // the same bits enable in B and tell in C
constexpr uint8_t kAlarm = 0x20;
constexpr uint8_t kUpdate = 0x10;
constexpr uint8_t kInterrupts = kPeriodic | kAlarm | kUpdate;
constexpr uint8_t kDValid = 0x80;

constexpr uint8_t kAlarmAny = 0xc0;  // "don't care": both top bits set
constexpr uint8_t kPm = 0x80;

constexpr uint32_t kNsPerSecond = 1000000000;
// The guest may rely on 244 us between reading UIP clear and the next change.
constexpr uint32_t kUpdatingNs = 300000;
constexpr uint64_t kOscillatorHz = 32768;
constexpr int64_t kSecondsPerDay = 86400;
constexpr int64_t kMaxOffset = int64_t{1} << 38;  // more than the years 0 to 9999 can be apart

constexpr uint16_t kFieldBytes = 1;
constexpr uint16_t kFieldIndex = 2;
constexpr uint16_t kFieldOffset = 3;
constexpr uint16_t kFieldSeen = 4;

bool is_time(uint8_t index) {
  switch (index) {
    case kSeconds:
    case kMinutes:
    case kHours:
    case kWeekday:
    case kDay:
    case kMonth:
    case kYear:
    case kCentury: return true;
    default: return false;
  }
}

int64_t second_of_day(int64_t second) {
  return (second % kSecondsPerDay + kSecondsPerDay) % kSecondsPerDay;
}

}  // namespace

CmosRtc::CmosRtc(IrqLine& irq8, TimeSource& time, WallClock wall)
    : irq8_(irq8),
      time_(time),
      wall_(std::move(wall)),
      epoch_(time.now()),
      timer_(time.make_timer([this] { on_timer(); })) {
  bytes_[kA] = 0x26;  // 32.768 kHz, 1024 Hz: what a PC's firmware leaves
  bytes_[kB] = kB24;
  bytes_[kD] = kDValid;
  seen_ = now();
}

CmosRtc::~CmosRtc() = default;

void CmosRtc::reset() {
  const std::scoped_lock lock(mutex_);
  // MC146818A, RESET: the time, the memory and SET stay.
  bytes_[kB] &= static_cast<uint8_t>(~(kInterrupts | kBSquareWave));
  bytes_[kC] = 0;
  index_ = 0;
  update();
}

void CmosRtc::pause() {
  const std::scoped_lock lock(mutex_);
  paused_ = true;
  armed_ = false;
  timer_->cancel();
}

void CmosRtc::resume() {
  const std::scoped_lock lock(mutex_);
  paused_ = false;
  advance();
  update();
}

CmosRtc::Now CmosRtc::now() const {
  using std::chrono::floor;
  using std::chrono::nanoseconds;
  using std::chrono::seconds;
  const auto wall = wall_().time_since_epoch();
  const auto whole = floor<seconds>(wall);
  const auto steady = std::chrono::duration_cast<nanoseconds>(time_.now() - epoch_).count();
  const auto ns = static_cast<uint64_t>(std::max<int64_t>(steady, 0));
  return {whole.count() + offset_s_,
          static_cast<uint32_t>(std::chrono::duration_cast<nanoseconds>(wall - whole).count()),
          ns / kNsPerSecond * kOscillatorHz + ns % kNsPerSecond * kOscillatorHz / kNsPerSecond};
}

bool CmosRtc::set_mode() const {
  return (bytes_[kB] & kBSet) != 0;
}

uint8_t CmosRtc::encode(unsigned v) const {
  return static_cast<uint8_t>((bytes_[kB] & kBBinary) != 0 ? v : v / 10 << 4 | v % 10);
}

std::optional<unsigned> CmosRtc::decode(uint8_t raw, unsigned min, unsigned max) const {
  unsigned v = raw;
  if ((bytes_[kB] & kBBinary) == 0) {
    if ((raw & 0xf) > 9 || raw >> 4 > 9) return std::nullopt;
    v = static_cast<unsigned>(raw >> 4) * 10 + (raw & 0xf);
  }
  if (v < min || v > max) return std::nullopt;
  return v;
}

std::optional<unsigned> CmosRtc::decode_hour(uint8_t raw) const {
  if ((bytes_[kB] & kB24) != 0) return decode(raw, 0, 23);
  const auto hour = decode(raw & static_cast<uint8_t>(~kPm), 1, 12);
  if (!hour) return std::nullopt;
  return *hour % 12 + ((raw & kPm) != 0 ? 12 : 0);
}

void CmosRtc::render_time(int64_t second) {
  namespace chrono = std::chrono;
  const chrono::sys_seconds when{chrono::seconds(second)};
  const auto days = chrono::floor<chrono::days>(when);
  const chrono::year_month_day date(days);
  const auto of_day = static_cast<unsigned>(second_of_day(second));
  const unsigned hour = of_day / 3600;
  bytes_[kSeconds] = encode(of_day % 60);
  bytes_[kMinutes] = encode(of_day / 60 % 60);
  if ((bytes_[kB] & kB24) != 0) {
    bytes_[kHours] = encode(hour);
  } else {
    bytes_[kHours] = encode((hour + 11) % 12 + 1) | (hour >= 12 ? kPm : 0);
  }
  bytes_[kWeekday] = encode(chrono::weekday(days).c_encoding() + 1);  // Sunday is 1
  bytes_[kDay] = encode(static_cast<unsigned>(date.day()));
  bytes_[kMonth] = encode(static_cast<unsigned>(date.month()));
  const auto year = static_cast<unsigned>(std::clamp(static_cast<int>(date.year()), 0, 9999));
  bytes_[kYear] = encode(year % 100);
  bytes_[kCentury] = encode(year / 100);
}

// A date that does not exist changes nothing.
void CmosRtc::take_time() {
  namespace chrono = std::chrono;
  const auto second = decode(bytes_[kSeconds], 0, 59);
  const auto minute = decode(bytes_[kMinutes], 0, 59);
  const auto hour = decode_hour(bytes_[kHours]);
  const auto day = decode(bytes_[kDay], 1, 31);
  const auto month = decode(bytes_[kMonth], 1, 12);
  const auto year = decode(bytes_[kYear], 0, 99);
  const auto century = decode(bytes_[kCentury], 0, 99);
  if (!second || !minute || !hour || !day || !month || !year || !century) return;
  const chrono::year_month_day date{chrono::year(static_cast<int>(*century * 100 + *year)),
                                    chrono::month(*month), chrono::day(*day)};
  if (!date.ok()) return;
  const int64_t wanted = chrono::sys_seconds(chrono::sys_days(date)).time_since_epoch().count() +
                         static_cast<int64_t>(*hour) * 3600 + static_cast<int64_t>(*minute) * 60 +
                         static_cast<int64_t>(*second);
  offset_s_ += wanted - now().second;
  seen_ = now();  // the seconds skipped did not happen: no alarm in them
}

// The first second after `after` that the alarm registers match.
std::optional<int64_t> CmosRtc::next_alarm(int64_t after) const {
  const auto any = [this](uint8_t index) { return (bytes_[index] & kAlarmAny) == kAlarmAny; };
  const auto second = decode(bytes_[kSecondsAlarm], 0, 59);
  const auto minute = decode(bytes_[kMinutesAlarm], 0, 59);
  const auto hour = decode_hour(bytes_[kHoursAlarm]);
  // In at most 24 + 60 + 60 steps.
  for (int64_t t = after + 1; t <= after + kSecondsPerDay;) {
    const auto of_day = static_cast<unsigned>(second_of_day(t));
    if (!any(kHoursAlarm) && hour != of_day / 3600) {
      t += 3600 - of_day % 3600;
    } else if (!any(kMinutesAlarm) && minute != of_day / 60 % 60) {
      t += 60 - of_day % 60;
    } else if (!any(kSecondsAlarm) && second != of_day % 60) {
      if (!second) return std::nullopt;
      ++t;
    } else {
      return t;
    }
  }
  return std::nullopt;
}

// MC146818A, table 5, with the 32.768 kHz time base.
unsigned CmosRtc::period_shift() const {
  const unsigned rate = bytes_[kA] & 0x0f;
  if (rate == 0) return 0;
  return rate <= 2 ? rate + 6 : rate - 1;
}

void CmosRtc::advance() {
  const Now current = now();
  if (!set_mode() && current.second != seen_.second) {
    bytes_[kC] |= kUpdate;
    const auto alarm = next_alarm(seen_.second);
    if (alarm && *alarm <= current.second) bytes_[kC] |= kAlarm;
  }
  const unsigned shift = period_shift();
  if (shift != 0 && current.cycle >> shift != seen_.cycle >> shift) bytes_[kC] |= kPeriodic;
  seen_ = current;
}

void CmosRtc::update() {
  const uint8_t enabled = bytes_[kB] & kInterrupts;
  const bool high = (bytes_[kC] & enabled) != 0;
  if (high) bytes_[kC] |= kCRequest;
  if (high != irq_high_) {
    irq_high_ = high;
    irq8_.set(high);
  }
  if (std::exchange(armed_, false)) timer_->cancel();
  // With the line high the guest has to read C before anything more can happen to it.
  if (high || enabled == 0 || paused_) return;

  const Now& current = seen_;
  std::optional<Clock::duration> wait;
  const auto consider = [&](Clock::duration d) { wait = wait ? std::min(*wait, d) : d; };
  const auto until = [&](int64_t second) {
    // The wall clock may be set meanwhile: look again at least each hour.
    const int64_t seconds = std::clamp<int64_t>(second - current.second, 1, 3600);
    return std::chrono::seconds(seconds) - std::chrono::nanoseconds(current.fraction);
  };
  if (!set_mode()) {
    if ((enabled & kUpdate) != 0) consider(until(current.second + 1));
    if ((enabled & kAlarm) != 0) {
      if (const auto alarm = next_alarm(current.second)) consider(until(*alarm));
    }
  }
  if (const unsigned shift = period_shift(); (enabled & kPeriodic) != 0 && shift != 0) {
    const uint64_t target = ((current.cycle >> shift) + 1) << shift;
    const uint64_t rest = target % kOscillatorHz * kNsPerSecond;
    const auto at = std::chrono::seconds(target / kOscillatorHz) +
                    std::chrono::nanoseconds((rest + kOscillatorHz - 1) / kOscillatorHz);
    consider(epoch_ + at - time_.now());
  }
  if (!wait) return;
  timer_->arm(time_.now() + *wait);
  armed_ = true;
}

void CmosRtc::on_timer() {
  const std::scoped_lock lock(mutex_);
  if (paused_) return;
  armed_ = false;
  advance();
  update();
}

IoStatus CmosRtc::read(uint64_t offset, std::span<std::byte> data) {
  std::ranges::fill(data, std::byte{0xff});
  if (data.size() != 1 || offset >= kRtcPorts) return IoStatus::bad_access;
  if (offset == 0) return IoStatus::ok;  // the index is write-only
  const std::scoped_lock lock(mutex_);
  data[0] = std::byte{read_register(index_)};
  return IoStatus::ok;
}

uint8_t CmosRtc::read_register(uint8_t index) {
  if (is_time(index)) {
    if (!set_mode()) render_time(now().second);
    return bytes_[index];
  }
  switch (index) {
    case kA: {
      const bool stopped = set_mode() || (bytes_[kA] & kADividers) >= kADividersReset;
      const bool updating = !stopped && now().fraction >= kNsPerSecond - kUpdatingNs;
      return bytes_[kA] | (updating ? kAUpdating : 0);
    }
    case kC: {
      advance();
      const uint8_t v = bytes_[kC];
      bytes_[kC] = 0;
      update();
      return v;
    }
    default: return bytes_[index];
  }
}

IoStatus CmosRtc::write(uint64_t offset, std::span<const std::byte> data) {
  if (data.size() != 1 || offset >= kRtcPorts) return IoStatus::bad_access;
  const auto v = std::to_integer<uint8_t>(data[0]);
  const std::scoped_lock lock(mutex_);
  if (offset == 0) {
    index_ = v & 0x7f;  // the top bit masks NMI on a PC: there is none
  } else {
    write_register(index_, v);
  }
  return IoStatus::ok;
}

void CmosRtc::write_register(uint8_t index, uint8_t v) {
  if (is_time(index)) {
    if (set_mode()) {
      bytes_[index] = v;
      return;
    }
    advance();
    render_time(seen_.second);
    bytes_[index] = v;
    take_time();
    update();
    return;
  }
  switch (index) {
    case kA:
      advance();
      bytes_[kA] = v & static_cast<uint8_t>(~kAUpdating);
      update();
      break;
    case kB: {
      advance();
      const bool was_setting = set_mode();
      const bool sets = (v & kBSet) != 0;
      if (!was_setting && sets) render_time(seen_.second);  // in the format that holds until now
      // MC146818A, register B: SET clears UIE.
      bytes_[kB] = sets ? v & static_cast<uint8_t>(~kBUpdate) : v;
      if (was_setting && !sets) {
        take_time();
        seen_ = now();
      }
      update();
      break;
    }
    case kC:
    case kD: break;  // read-only
    case kSecondsAlarm:
    case kMinutesAlarm:
    case kHoursAlarm:
      advance();
      bytes_[index] = v;
      update();
      break;
    default: bytes_[index] = v; break;
  }
}

void CmosRtc::save(StateWriter& w) const {
  const std::scoped_lock lock(mutex_);
  w.bytes(kFieldBytes, std::as_bytes(std::span(bytes_)));
  w.field(kFieldIndex, index_);
  w.field(kFieldOffset, offset_s_);
  w.field(kFieldSeen, seen_.second);
}

Result<void> CmosRtc::load(StateReader& r) {
  auto bytes = r.bytes(kFieldBytes, kBytes);
  auto index = r.need<uint8_t>(kFieldIndex);
  auto offset = r.need<int64_t>(kFieldOffset);
  auto seen = r.need<int64_t>(kFieldSeen);
  if (!bytes || bytes->size() != kBytes || !index || !offset || !seen)
    return fail(Errc::corrupt, "a saved clock is incomplete");
  if (*offset < -kMaxOffset || *offset > kMaxOffset || *seen < -kMaxOffset || *seen > kMaxOffset)
    return fail(Errc::corrupt, "a saved clock's time is impossible");
  if (auto done = r.finish(); !done) return done;
  const std::scoped_lock lock(mutex_);
  for (size_t i = 0; i < kBytes; ++i) bytes_[i] = std::to_integer<uint8_t>((*bytes)[i]);
  bytes_[kA] &= static_cast<uint8_t>(~kAUpdating);
  bytes_[kC] &= kInterrupts;
  bytes_[kD] = kDValid;
  index_ = *index & 0x7f;
  offset_s_ = *offset;
  seen_ = now();
  seen_.second = *seen;  // so that an alarm which passed meanwhile is noticed
  irq_high_ = false;
  advance();
  update();
  return {};
}

}  // namespace minivmm
