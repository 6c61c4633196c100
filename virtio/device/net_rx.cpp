#include "virtio/device/net_rx.h"

#include <algorithm>
#include <span>
#include <utility>

#include "devices/net/frame_pieces.h"
#include "virtio/device/net_offloads.h"

namespace minivmm {

namespace {

// After so many frames the guest is shown them, and interrupted, however many more there are.
constexpr unsigned kBatch = 64;
// Or after so many bytes: the guest works on large frames while the next ones come.
constexpr size_t kBatchBytes = 64 << 10;
// Without segments past the MTU: jumbo frames fit, and what does not is spilled.
constexpr size_t kPlainFrame = kNetHeaderSize + net::kEthernetHeader + net::kVlanTag + 9216;
constexpr size_t kCompactAfter = 256;  // spent entries that are carried along

constexpr NetOffloads kLargeFrames = net_offload::kTso4 | net_offload::kTso6 | net_offload::kUso;

}  // namespace

NetRx::NetRx(NetQueue& wire, const NetSettingsBoard& board, Settings settings, Virtqueue&& queue,
             QueueContext context)
    : wire_(wire),
      board_(board),
      settings_(std::move(settings)),
      queue_(std::move(queue)),
      context_(context),
      pieces_(1) {
  held_.reserve(queue_.size());
}

// Bytes of buffers that hold any frame the back end may have next.
size_t NetRx::wanted() const {
  if (!settings_.mergeable) return 1;  // one buffer, whatever it holds
  return (rules_.gives & kLargeFrames) != 0 ? kMaxFrame : kPlainFrame;
}

Result<bool> NetRx::drain(const StopFlag& stop) {
  board_.read(rules_seen_, rules_);
  size_t bytes = 0;
  unsigned failures = 0;
  failing_ = false;
  for (unsigned frames = 0; frames < kBatch && bytes < kBatchBytes; ++frames) {
    if (auto gathered = gather(); !gathered) return std::unexpected(gathered.error());
    if (stop.requested()) return false;
    if (spilled_ != 0) {
      if (held_bytes_ < spill_size_ && queue_.in_flight() < queue_.size()) return false;  // more have to come
      take_spilled();
      continue;
    }
    if (held() == 0) return false;  // frames wait at the back end, or are dropped there
    const auto received = receive();
    if (received && *received == 0) return false;
    if (!received && received.error().code == Errc::closed) return false;
    if (received) {
      take(*received);
      bytes += *received;
    } else if (received.error().code == Errc::io) {
      ++failures;
    }  // otherwise one frame was lost
  }
  // A back end that does nothing but fail is left alone until its descriptor says something.
  failing_ = failures == kBatch;
  return !failing_;
}

Result<void> NetRx::gather() {
  const size_t wanted_now = std::max(wanted(), spill_size_);
  // Bounded, for a guest that feeds us buffers of no use as fast as we return them.
  for (unsigned taken = 0; held_bytes_ < wanted_now && taken < queue_.size(); ++taken) {
    auto popped = queue_.pop();
    if (!popped) return std::unexpected(popped.error());
    if (!*popped) return {};
    hold(std::move(**popped));
  }
  return {};
}

void NetRx::hold(Chain&& chain) {
  // 5.1.6.3.1: buffers are for the device to write, and the first of a frame has to hold the header.
  if (chain.readable_bytes() != 0 || chain.writable_bytes() < kNetHeaderSize) {
    context_.log.guest_fault(settings_.name, "a receive buffer that is readable or too short");
    queue_.complete(std::move(chain), 0);
    return;
  }
  const size_t before = pieces_.size();
  const size_t bytes = chain.writable_bytes();
  const auto sliced = chain.writable_slices(0, bytes, pieces_);
  MV_CHECK(sliced);
  held_.push_back({std::move(chain), bytes, pieces_.size() - before});
  held_bytes_ += bytes;
}

// The header is received apart from the frame, and put before it once it has been checked.
void NetRx::prepare_front() {
  if (std::exchange(front_prepared_, true)) return;
  pieces_[first_piece_ - 1] = {&header_, sizeof header_};
  size_t skip = kNetHeaderSize;
  for (size_t i = first_piece_; skip != 0; ++i) {
    const size_t n = std::min(skip, pieces_[i].iov_len);
    pieces_[i] = {static_cast<std::byte*>(pieces_[i].iov_base) + n, pieces_[i].iov_len - n};
    skip -= n;
  }
}

Result<size_t> NetRx::receive() {
  prepare_front();
  const bool spill = settings_.mergeable && held_bytes_ < wanted();
  if (spill) {
    if (!spill_) spill_ = std::make_unique_for_overwrite<std::byte[]>(kMaxFrame);
    pieces_.push_back({spill_.get(), kMaxFrame});
  }
  auto room = std::span<const iovec>(pieces_).subspan(first_piece_ - 1);
  if (!settings_.mergeable) room = room.first(1 + held_[first_held_].pieces);
  const auto received = wire_.receive(room);
  // Again: this may have begun before the driver was told that its command is done, and this frame have come
  // after.
  board_.read(rules_seen_, rules_);
  if (received && *received > kNetHeaderSize && !rules_.filter.promisc) {
    const size_t n = std::min(head_.size(), *received - kNetHeaderSize);
    head_size_ = copy_from_pieces(room.subspan(1), 0, std::span(head_).first(n));
  }
  if (spill) pieces_.pop_back();
  return received;
}

// `size` bytes have come, header included.
void NetRx::take(size_t size) {
  if (size < kNetHeaderSize + net::kEthernetHeader ||
      !rules_.filter.passes(std::span(head_).first(head_size_)) ||
      !net::check_header(header_, size - kNetHeaderSize, rules_.gives)) {
    return;  // the buffers take the next one
  }
  if (size <= held_bytes_) {
    hand_over(header_, size);
    return;
  }
  spilled_ = size - held_bytes_;
  spill_size_ = size;
}

void NetRx::take_spilled() {
  const size_t spilled = std::exchange(spilled_, 0);
  const size_t size = std::exchange(spill_size_, 0);
  if (held_bytes_ < size) return;  // the whole ring does not hold it: lost
  size_t offset = size - spilled;  // in the buffers
  auto rest = std::span(spill_.get(), spilled);
  for (size_t i = first_held_; !rest.empty(); ++i) {
    Held& held = held_[i];
    if (offset >= held.bytes) {
      offset -= held.bytes;
      continue;
    }
    const size_t n = std::min(held.bytes - offset, rest.size());
    const auto written = held.chain.write(offset, rest.first(n));
    MV_CHECK(written);
    rest = rest.subspan(n);
    offset = 0;
  }
  hand_over(header_, size);
}

// 5.1.6.4: all buffers of a frame are used in one go, each but the last to its end; num_buffers is 1 without
// MRG_RXBUF, too.
void NetRx::hand_over(const net::Header& header, size_t size) {
  size_t count = 0;
  for (size_t covered = 0; covered < size; ++count) covered += held_[first_held_ + count].bytes;
  net::Header shown = header;
  shown.num_buffers = static_cast<uint16_t>(count);
  const auto put = held_[first_held_].chain.write(0, std::as_bytes(std::span(&shown, 1)));
  MV_CHECK(put);
  for (size_t i = 0; i < count; ++i) {
    Held& held = held_[first_held_ + i];
    const size_t n = std::min(size, held.bytes);
    queue_.complete(std::move(held.chain), static_cast<uint32_t>(n));
    size -= n;
  }
  drop_front(count);
}

void NetRx::drop_front(size_t count) {
  for (size_t i = 0; i < count; ++i, ++first_held_) {
    held_bytes_ -= held_[first_held_].bytes;
    first_piece_ += held_[first_held_].pieces;
  }
  front_prepared_ = false;
  if (held() != 0 && first_held_ < kCompactAfter) return;
  held_.erase(held_.begin(), held_.begin() + static_cast<std::ptrdiff_t>(first_held_));
  pieces_.erase(pieces_.begin() + 1, pieces_.begin() + static_cast<std::ptrdiff_t>(first_piece_));
  first_held_ = 0;
  first_piece_ = 1;
}

void NetRx::settle() {
  spilled_ = 0;
  spill_size_ = 0;
  for (; first_held_ < held_.size(); ++first_held_) queue_.give_back(std::move(held_[first_held_].chain));
  held_.clear();
  held_bytes_ = 0;
  pieces_.resize(1);
  first_held_ = 0;
  first_piece_ = 1;
  front_prepared_ = false;
}

}  // namespace minivmm
