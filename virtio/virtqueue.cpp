#include "virtio/virtqueue.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <utility>

#include "vmm/core/state.h"

namespace minivmm {

namespace {

// Ring fields live in guest memory, where a guest's CPUs change them: each access is one atomic one.
template <class T>
std::atomic_ref<T> at(std::byte* ring, uint64_t offset) {
  return std::atomic_ref<T>(*reinterpret_cast<T*>(ring + offset));
}

// 2.7.7.1: did the index pass `event` when it went from `before` to `now`? All free-running.
bool passed(uint16_t event, uint16_t now, uint16_t before) {
  return static_cast<uint16_t>(now - event - 1) < static_cast<uint16_t>(now - before);
}

enum Field : uint16_t { kNextAvail = 1, kNextUsed = 2, kGivenBack = 3 };

}  // namespace

Result<void> VirtqueueLayout::check(const GuestMemory& memory, uint16_t max_size) const {
  if (size == 0 || !std::has_single_bit(size) || size > max_size) {
    return fail(Errc::invalid, "a queue size that is no power of two or more than offered");
  }
  struct Part {
    Gpa base;
    uint64_t bytes;
    uint64_t align;
  };
  const std::array<Part, 3> parts{{{descriptors, virtio::desc_bytes(size), virtio::kDescAlign},
                                   {driver, virtio::avail_bytes(size), virtio::kAvailAlign},
                                   {device, virtio::used_bytes(size), virtio::kUsedAlign}}};
  for (const Part& part : parts) {
    if (value(part.base) % part.align != 0) return fail(Errc::invalid, "an unaligned virtqueue");
    if (!memory.contiguous(part.base, part.bytes)) return fail(Errc::invalid, "a virtqueue outside RAM");
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    const Part& a = parts[i];
    const Part& b = parts[(i + 1) % parts.size()];
    if (a.base < b.base + b.bytes && b.base < a.base + a.bytes) {
      return fail(Errc::invalid, "a virtqueue whose parts overlap");
    }
  }
  return {};
}

void VirtqueuePosition::save(StateWriter& out) const {
  out.field(kNextAvail, next_avail);
  out.field(kNextUsed, next_used);
  out.bytes(kGivenBack, std::as_bytes(std::span(given_back)));
}

Result<VirtqueuePosition> VirtqueuePosition::parse(const StateReader& in, uint16_t queue_size) {
  VirtqueuePosition position;
  const auto next_avail = in.need<uint16_t>(kNextAvail);
  if (!next_avail) return std::unexpected(next_avail.error());
  const auto next_used = in.need<uint16_t>(kNextUsed);
  if (!next_used) return std::unexpected(next_used.error());
  const auto heads = in.bytes(kGivenBack, sizeof(uint16_t) * queue_size);
  if (!heads) return std::unexpected(heads.error());
  if (heads->size() % sizeof(uint16_t) != 0) return fail(Errc::corrupt, "half a saved descriptor index");
  position.next_avail = *next_avail;
  position.next_used = *next_used;
  position.given_back.resize(heads->size() / sizeof(uint16_t));
  std::ranges::copy(*heads, std::as_writable_bytes(std::span(position.given_back)).begin());
  for (const uint16_t head : position.given_back) {
    if (head >= queue_size) return fail(Errc::corrupt, "a saved descriptor index past the table");
  }
  return position;
}

Result<Virtqueue> Virtqueue::create(GuestMemory& memory, const VirtqueueLayout& layout,
                                    VirtqueuePosition position, Options options, Log& log) {
  if (auto checked = layout.check(memory, options.max_size); !checked) {
    return std::unexpected(checked.error());
  }
  if (position.given_back.size() > layout.size) return fail(Errc::invalid, "more requests than the queue");
  return Virtqueue(memory, layout, std::move(position), std::move(options), log,
                   *memory.contiguous(layout.descriptors, virtio::desc_bytes(layout.size)),
                   *memory.contiguous(layout.driver, virtio::avail_bytes(layout.size)),
                   *memory.contiguous(layout.device, virtio::used_bytes(layout.size)));
}

Virtqueue::Virtqueue(GuestMemory& memory, const VirtqueueLayout& layout, VirtqueuePosition&& position,
                     Options&& options, Log& log, std::byte* descriptors, std::byte* driver,
                     std::byte* device)
    : memory_(&memory),
      log_(&log),
      layout_(layout),
      options_(std::move(options)),
      driver_(driver),
      device_(device),
      // The spec's bound is the queue's size (2.7.5.3.1); Linux, when it shrinks a ring for want of memory,
      // still sends indirect chains up to the size that was offered.
      walker_(memory, descriptors, {layout.size, options_.max_size, options_.indirect}),
      given_back_(std::move(position.given_back)),
      next_avail_(position.next_avail),
      seen_avail_(position.next_avail),
      next_used_(position.next_used),
      published_(position.next_used),
      signalled_(position.next_used) {
  std::ranges::reverse(given_back_);  // taken from the back, oldest first
}

uint16_t Virtqueue::avail_idx_acquire() const {
  // Pairs with the driver's write barrier before it stores avail.idx (2.7.13.3): the ring entries and
  // descriptors up to this index are visible after it.
  return at<uint16_t>(driver_, virtio::kAvailIdx).load(std::memory_order_acquire);
}

std::unexpected<Error> Virtqueue::break_queue(const char* what) {
  if (broken_ == nullptr) log_->guest_fault(options_.name, what);
  broken_ = what;
  return fail(Errc::invalid, what);
}

bool Virtqueue::take_head(uint16_t& head) {
  if (!given_back_.empty()) {
    head = given_back_.back();
    given_back_.pop_back();
    return true;
  }
  if (next_avail_ == seen_avail_) seen_avail_ = avail_idx_acquire();
  if (next_avail_ == seen_avail_) return false;
  const auto pending = static_cast<uint16_t>(seen_avail_ - next_avail_);
  if (pending > layout_.size) {  // it jumped, or went back: the ring holds no more than its size
    broken_ = "the available ring's index is more than the queue's size ahead";
    return false;
  }
  const uint64_t slot = next_avail_ % layout_.size;
  head = at<uint16_t>(driver_, virtio::kAvailRing + 2 * slot).load(std::memory_order_relaxed);
  ++next_avail_;
  return true;
}

bool Virtqueue::available() const {
  return broken_ == nullptr &&
         (next_avail_ != seen_avail_ || avail_idx_acquire() != next_avail_ || !given_back_.empty());
}

std::unique_ptr<Chain::Buffers> Virtqueue::fresh_buffers() {
  if (pool_.empty()) return std::make_unique<Chain::Buffers>();
  auto buffers = std::move(pool_.back());
  pool_.pop_back();
  buffers->clear();
  return buffers;
}

Result<std::optional<Chain>> Virtqueue::pop() {
  if (broken_ != nullptr) return fail(Errc::invalid, broken_);
  // A guest may feed malformed chains from another CPU as fast as we return them, so a call returns at most
  // one queue's worth.
  for (unsigned malformed = 0;; ++malformed) {
    uint16_t head = 0;
    if (!take_head(head)) {
      if (broken_ == nullptr) return std::nullopt;
      const char* what = std::exchange(broken_, nullptr);
      return break_queue(what);
    }
    if (head >= layout_.size) return break_queue("an available entry past the descriptor table");
    // More requests at once than descriptors: it made buffers available that it does not own (2.7.13).
    if (in_flight_ >= layout_.size) return break_queue("more requests in flight than the queue holds");
    auto buffers = fresh_buffers();
    const auto walked = walker_.walk(head, *buffers);
    if (walked) {
      ++in_flight_;
      return Chain(head, std::move(buffers));
    }
    pool_.push_back(std::move(buffers));
    log_->guest_fault(options_.name, walked.error().what);
    if (malformed > layout_.size) return break_queue("nothing but malformed chains");
    put_used(head, 0);
  }
}

void Virtqueue::put_used(uint16_t head, uint32_t written) {
  const uint64_t slot = virtio::kUsedRing + sizeof(virtio::UsedElement) * (next_used_ % layout_.size);
  at<uint32_t>(device_, slot).store(head, std::memory_order_relaxed);
  at<uint32_t>(device_, slot + 4).store(written, std::memory_order_relaxed);
  memory_->mark_dirty(layout_.device + slot, sizeof(virtio::UsedElement));
  ++next_used_;
}

void Virtqueue::complete(Chain&& chain, uint32_t written) {
  MV_CHECK(chain.buffers_ != nullptr && in_flight_ > 0);
  // Whatever `written` says: a request that failed half way has written somewhere in there, too.
  for (const GuestMemory::Range& range : chain.buffers_->written) memory_->mark_dirty(range.base, range.size);
  put_used(chain.head_, written);
  pool_.push_back(std::move(chain.buffers_));
  --in_flight_;
}

void Virtqueue::give_back(Chain&& chain) {
  MV_CHECK(chain.buffers_ != nullptr && in_flight_ > 0);
  for (const GuestMemory::Range& range : chain.buffers_->written) memory_->mark_dirty(range.base, range.size);
  given_back_.insert(given_back_.begin(), chain.head_);  // behind those that were given back before
  pool_.push_back(std::move(chain.buffers_));
  --in_flight_;
}

bool Virtqueue::publish() {
  show();
  return wants_interrupt();
}

void Virtqueue::show() {
  if (published_ == next_used_) return;
  published_ = next_used_;
  // Release: pairs with the driver's read barrier after it loads used.idx (2.7.14), which makes the elements
  // and the buffers visible. Sequentially consistent, because the load in wants_interrupt() must not pass it:
  // pairs with the driver's full barrier between its store of used_event (or flags) and its re-check of
  // used.idx (2.7.14).
  at<uint16_t>(device_, virtio::kUsedIdx).store(published_, std::memory_order_seq_cst);
  memory_->mark_dirty(layout_.device + virtio::kUsedIdx, sizeof(uint16_t));
}

bool Virtqueue::wants_interrupt() {
  if (signalled_ == published_) return false;
  const uint16_t before = std::exchange(signalled_, published_);
  if (std::exchange(first_publish_, false))
    return true;  // we do not know what was signalled before a restore
  if (options_.event_idx) {
    const uint64_t used_event = virtio::kAvailRing + uint64_t{2} * layout_.size;
    return passed(at<uint16_t>(driver_, used_event).load(std::memory_order_seq_cst), published_, before);
  }
  const uint16_t flags = at<uint16_t>(driver_, virtio::kAvailFlags).load(std::memory_order_seq_cst);
  return (flags & virtio::kAvailNoInterrupt) == 0;
}

void Virtqueue::disable_kicks() {
  // With event-idx, avail_event is behind already, and no kick comes until enable_kicks() moves it.
  if (options_.event_idx || std::exchange(kicks_disabled_, true)) return;
  at<uint16_t>(device_, virtio::kUsedFlags).store(virtio::kUsedNoNotify, std::memory_order_relaxed);
  memory_->mark_dirty(layout_.device, sizeof(uint16_t));
}

bool Virtqueue::enable_kicks() {
  if (broken_ != nullptr) return false;
  if (options_.event_idx) {
    const uint64_t avail_event = virtio::kUsedRing + uint64_t{8} * layout_.size;
    at<uint16_t>(device_, avail_event).store(next_avail_, std::memory_order_seq_cst);
    memory_->mark_dirty(layout_.device + avail_event, sizeof(uint16_t));
  } else {
    kicks_disabled_ = false;
    at<uint16_t>(device_, virtio::kUsedFlags).store(0, std::memory_order_seq_cst);
    memory_->mark_dirty(layout_.device, sizeof(uint16_t));
  }
  // The store above and this load are sequentially consistent: pairs with the driver's full barrier between
  // its store of avail.idx and its load of avail_event or flags (2.7.13.4). One of us sees the other's store.
  seen_avail_ = at<uint16_t>(driver_, virtio::kAvailIdx).load(std::memory_order_seq_cst);
  return seen_avail_ != next_avail_ || !given_back_.empty();
}

Result<uint16_t> Virtqueue::hand_over_index() const {
  MV_CHECK(in_flight_ == 0 && published_ == next_used_);
  const auto count = static_cast<uint16_t>(given_back_.size());
  const auto first = static_cast<uint16_t>(next_avail_ - count);
  for (uint16_t i = 0; i < count; ++i) {
    const auto slot = static_cast<uint16_t>(static_cast<uint16_t>(first + i) % layout_.size);
    const uint16_t head =
        at<uint16_t>(driver_, virtio::kAvailRing + uint64_t{2} * slot).load(std::memory_order_relaxed);
    if (head != given_back_[count - 1U - i])  // taken from the back, oldest first
      return fail(Errc::unsupported, "requests that were taken out of order cannot be handed over");
  }
  return first;
}

void Virtqueue::taken_back(uint16_t next_avail) {
  given_back_.clear();
  next_avail_ = seen_avail_ = next_avail;
  // Acquire: what the other one has written into the ring before is there.
  next_used_ = at<uint16_t>(device_, virtio::kUsedIdx).load(std::memory_order_acquire);
  published_ = signalled_ = next_used_;
  first_publish_ = true;
  kicks_disabled_ = false;  // where it had them off, the next look at the ring makes up for it
}

void Virtqueue::taken_back_in_order() {
  taken_back(at<uint16_t>(device_, virtio::kUsedIdx).load(std::memory_order_acquire));
}

VirtqueuePosition Virtqueue::position() const {
  MV_CHECK(in_flight_ == 0 && published_ == next_used_);
  return {next_avail_, next_used_, {given_back_.rbegin(), given_back_.rend()}};
}

}  // namespace minivmm
