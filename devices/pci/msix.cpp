#include "devices/pci/msix.h"

#include <algorithm>
#include <array>
#include <bit>

#include "devices/pci/function.h"
#include "vmm/core/state.h"

namespace minivmm {

namespace {

constexpr uint64_t kEntrySize = 16;  // address low, address high, data, vector control
constexpr uint32_t kVectorMask = 0x1;
constexpr uint64_t kAddressLowMask = ~uint64_t{0x3};  // PCI 3.0, 6.8.2.7: bits 1:0 read as zero
constexpr uint64_t kPage = 4096;                      // a guest maps BARs by pages

// Offsets in the capability (PCI 3.0, 6.8.2).
constexpr uint16_t kMessageControl = 2;

constexpr uint16_t kFieldVector = 1;
constexpr uint16_t kFieldAddress = 1;
constexpr uint16_t kFieldData = 2;
constexpr uint16_t kFieldMasked = 3;
constexpr uint16_t kFieldPending = 4;

bool good_access(uint64_t offset, size_t width, uint64_t size) {
  // PCI 3.0, 6.8.2: aligned dwords and qwords only.
  return (width == 4 || width == 8) && offset % width == 0 && offset < size;
}

}  // namespace

uint64_t Msix::bar_size(uint16_t vectors) {
  return std::max(kPage, 2 * std::bit_ceil(vectors * kEntrySize));
}

Msix::Msix(PciFunction& function, unsigned bar, uint16_t vectors, MsiSink& sink, Log* log)
    : function_(function), sink_(sink), log_(log), count_(vectors) {
  MV_CHECK(vectors >= 1 && vectors <= kMsixMaxVectors && bar < kPciBars && function.msix_ == nullptr);
  vectors_ = std::make_unique<Vector[]>(vectors);
  const uint64_t size = bar_size(vectors);
  function_.set_bar(bar, PciBarKind::memory32, size, *this);

  std::array<std::byte, 10> body{};
  store_le(std::span(body).subspan(0, 2), vectors - 1U);
  store_le(std::span(body).subspan(2, 4), bar);             // table: offset 0
  store_le(std::span(body).subspan(6, 4), size / 2 | bar);  // PBA
  std::array<std::byte, 10> writable{};
  store_le(std::span(writable).subspan(0, 2), uint64_t{kEnable | kFunctionMask});
  capability_ = function_.config().add_capability(kPciCapMsix, body, writable);
  function_.config().on_write(static_cast<uint16_t>(capability_ + kMessageControl), 2,
                              [this] { control_written(); });
  function_.msix_ = this;
}

Msix::~Msix() {
  function_.msix_ = nullptr;
}

bool Msix::deliverable(const Vector& vector) const {
  const uint16_t control = control_.load(std::memory_order_relaxed);
  return (control & (kEnable | kFunctionMask)) == kEnable && !vector.masked;
}

void Msix::trigger(uint16_t index) {
  if (index >= count_) return;  // facts: a guest may have told the device any vector number
  Vector& vector = vectors_[index];
  const std::scoped_lock lock(vector.mutex);
  if (deliverable(vector)) {
    if (vector.routed == vector.message) vector.route->trigger();
  } else if (enabled()) {
    vector.pending = true;
  }
}

void Msix::bind(uint16_t index, int eventfd) {
  if (index >= count_) return;
  Vector& vector = vectors_[index];
  const std::scoped_lock lock(vector.mutex);
  vector.calls.push_back({eventfd, false});
  settle_calls(vector);
}

void Msix::unbind(uint16_t index, int eventfd) {
  if (index >= count_) return;
  Vector& vector = vectors_[index];
  const std::scoped_lock lock(vector.mutex);
  const auto call = std::ranges::find(vector.calls, eventfd, &Vector::Call::eventfd);
  if (call == vector.calls.end()) return;
  if (call->bound) vector.route->unbind(eventfd);
  vector.calls.erase(call);
}

void Msix::settle(Vector& vector) {
  settle_message(vector);
  settle_calls(vector);
}

// One that cannot be bound stays with whoever watches it.
void Msix::settle_calls(Vector& vector) {
  const bool direct = deliverable(vector) && vector.routed == vector.message;
  for (Vector::Call& call : vector.calls) {
    if (call.bound == direct) continue;
    if (direct) {
      call.bound = vector.route->bind(call.eventfd).has_value();
    } else {
      vector.route->unbind(call.eventfd);
      call.bound = false;
    }
  }
}

void Msix::settle_message(Vector& vector) {
  if (!deliverable(vector)) return;
  if (!vector.route) {
    auto route = sink_.allocate();
    if (!route) {
      if (log_ != nullptr) log_->guest_fault("msix", "no interrupt routes left: a vector stays silent");
      return;
    }
    vector.route = std::move(*route);
  }
  if (vector.routed != vector.message) {
    vector.routed.reset();
    if (!vector.route->route(vector.message)) {
      if (log_ != nullptr) log_->guest_fault("msix", "the guest's message cannot be routed");
      return;
    }
    vector.routed = vector.message;
  }
  if (vector.pending) {
    vector.pending = false;
    vector.route->trigger();
  }
}

void Msix::control_written() {
  const uint16_t now = function_.config().get16(static_cast<uint16_t>(capability_ + kMessageControl)) &
                       (kEnable | kFunctionMask);
  if (control_.exchange(now, std::memory_order_relaxed) == now) return;
  // Taking each lock in turn: when this returns, every trigger() under way has seen the new value.
  for (uint16_t i = 0; i < count_; ++i) {
    const std::scoped_lock lock(vectors_[i].mutex);
    if ((now & kEnable) == 0) vectors_[i].pending = false;
    settle(vectors_[i]);
  }
}

uint32_t Msix::table_dword(uint64_t offset) const {
  const Vector& vector = vectors_[offset / kEntrySize];
  const std::scoped_lock lock(vector.mutex);
  switch (offset % kEntrySize) {
    case 0: return static_cast<uint32_t>(vector.message.address);
    case 4: return static_cast<uint32_t>(vector.message.address >> 32);
    case 8: return vector.message.data;
    default: return vector.masked ? kVectorMask : 0;
  }
}

void Msix::set_table_dword(uint64_t offset, uint32_t v) {
  Vector& vector = vectors_[offset / kEntrySize];
  const std::scoped_lock lock(vector.mutex);
  const uint64_t address = vector.message.address;
  switch (offset % kEntrySize) {
    case 0: vector.message.address = (address >> 32 << 32 | v) & kAddressLowMask; break;
    case 4: vector.message.address = (address & 0xffffffff) | uint64_t{v} << 32; break;
    case 8: vector.message.data = v; break;
    default: vector.masked = (v & kVectorMask) != 0; break;
  }
  settle(vector);
}

IoStatus Msix::read(uint64_t offset, std::span<std::byte> data) {
  const uint64_t size = bar_size(count_);
  if (!good_access(offset, data.size(), size)) {
    std::ranges::fill(data, std::byte{0xff});
    return IoStatus::bad_access;
  }
  for (size_t i = 0; i < data.size(); i += 4) {
    const uint64_t at = offset + i;
    uint32_t v = 0;
    if (at < count_ * kEntrySize) {
      v = table_dword(at);
    } else if (at >= size / 2) {
      const uint64_t first = (at - size / 2) * 8;  // the vector of the dword's bit 0
      for (uint64_t bit = 0; bit < 32 && first + bit < count_; ++bit) {
        const std::scoped_lock lock(vectors_[first + bit].mutex);
        if (vectors_[first + bit].pending) v |= uint32_t{1} << bit;
      }
    }
    store_le(data.subspan(i, 4), v);
  }
  return IoStatus::ok;
}

IoStatus Msix::write(uint64_t offset, std::span<const std::byte> data) {
  if (!good_access(offset, data.size(), bar_size(count_))) return IoStatus::bad_access;
  for (size_t i = 0; i < data.size(); i += 4) {
    // The pending bits are read-only (PCI 3.0, 6.8.2.10), and so is what lies between.
    if (offset + i < count_ * kEntrySize)
      set_table_dword(offset + i, static_cast<uint32_t>(load_le(data.subspan(i, 4))));
  }
  return IoStatus::ok;
}

void Msix::save(StateWriter& w) const {
  for (uint16_t i = 0; i < count_; ++i) {
    const Vector& vector = vectors_[i];
    const std::scoped_lock lock(vector.mutex);
    w.group(kFieldVector, [&](StateWriter& group) {
      group.field(kFieldAddress, vector.message.address);
      group.field(kFieldData, vector.message.data);
      group.field(kFieldMasked, vector.masked);
      group.field(kFieldPending, vector.pending);
    });
  }
}

Result<Msix::Saved> Msix::parse(const StateReader& r) const {
  auto groups = r.groups(kFieldVector, count_);
  if (!groups) return std::unexpected(groups.error());
  if (groups->size() != count_) return fail(Errc::invalid, "a saved function has fewer MSI-X vectors");
  Saved saved;
  for (const StateReader& group : *groups) {
    auto address = group.need<uint64_t>(kFieldAddress);
    auto data = group.need<uint32_t>(kFieldData);
    auto masked = group.need<bool>(kFieldMasked);
    auto pending = group.need<bool>(kFieldPending);
    if (!address || !data || !masked || !pending)
      return fail(Errc::corrupt, "a saved MSI-X vector is incomplete");
    saved.push_back({{*address & kAddressLowMask, *data}, *masked, *pending});
  }
  return saved;
}

void Msix::commit(const Saved& saved) {
  MV_CHECK(saved.size() == count_);
  for (uint16_t i = 0; i < count_; ++i) {
    Vector& vector = vectors_[i];
    const std::scoped_lock lock(vector.mutex);
    vector.message = saved[i].message;
    vector.masked = saved[i].masked;
    vector.pending = saved[i].pending && enabled();
    settle(vector);
  }
}

void Msix::reset() {
  for (uint16_t i = 0; i < count_; ++i) {
    Vector& vector = vectors_[i];
    const std::scoped_lock lock(vector.mutex);
    vector.message = {};
    vector.masked = true;
    vector.pending = false;
    settle_calls(vector);
  }
}

}  // namespace minivmm
