#include "virtio/descriptor_chain.h"

#include <atomic>
#include <bit>
#include <cstring>

namespace minivmm {

using virtio::Descriptor;

namespace {

// Calls `visit(host, n)` for the pieces of [offset, offset + len) of `pieces`, which holds them all.
template <class F>
void for_each_slice(const IoVec& pieces, uint64_t offset, uint64_t len, F&& visit) {
  for (const iovec& piece : pieces) {
    if (len == 0) return;
    if (offset >= piece.iov_len) {
      offset -= piece.iov_len;
      continue;
    }
    const uint64_t n = std::min<uint64_t>(len, piece.iov_len - offset);
    visit(static_cast<std::byte*>(piece.iov_base) + offset, n);
    offset = 0;
    len -= n;
  }
}

bool holds(uint64_t size, uint64_t offset, uint64_t len) {
  return offset <= size && len <= size - offset;
}

constexpr const char* kPastEnd = "past the end of a chain's buffers";

Result<void> append_slices(const IoVec& pieces, uint64_t size, uint64_t offset, uint64_t len, IoVec& out) {
  if (!holds(size, offset, len)) return fail(Errc::out_of_range, kPastEnd);
  for_each_slice(pieces, offset, len, [&out](std::byte* host, uint64_t n) { out.push_back({host, n}); });
  return {};
}

}  // namespace

Chain& Chain::operator=(Chain&& other) noexcept {
#ifndef NDEBUG
  MV_CHECK(!buffers_);  // would lose the request that is here
#endif
  head_ = other.head_;
  buffers_ = std::move(other.buffers_);
  return *this;
}

Chain::~Chain() {
#ifndef NDEBUG
  MV_CHECK(!buffers_);  // neither completed nor given back: the guest would wait for ever
#endif
}

void Chain::Buffers::clear() {
  readable.clear();
  writable.clear();
  written.clear();
  readable_bytes = 0;
  writable_bytes = 0;
}

Result<void> Chain::read(uint64_t offset, std::span<std::byte> out) const {
  if (!holds(readable_bytes(), offset, out.size())) return fail(Errc::out_of_range, kPastEnd);
  for_each_slice(buffers_->readable, offset, out.size(),
                 [cursor = out.data()](const std::byte* host, uint64_t n) mutable {
                   std::memcpy(cursor, host, n);
                   cursor += n;
                 });
  return {};
}

Result<void> Chain::write(uint64_t offset, std::span<const std::byte> in) {
  if (!holds(writable_bytes(), offset, in.size())) return fail(Errc::out_of_range, kPastEnd);
  for_each_slice(buffers_->writable, offset, in.size(),
                 [cursor = in.data()](std::byte* host, uint64_t n) mutable {
                   std::memcpy(host, cursor, n);
                   cursor += n;
                 });
  return {};
}

Result<void> Chain::readable_slices(uint64_t offset, uint64_t len, IoVec& out) const {
  return append_slices(buffers_->readable, readable_bytes(), offset, len, out);
}

Result<void> Chain::writable_slices(uint64_t offset, uint64_t len, IoVec& out) const {
  return append_slices(buffers_->writable, writable_bytes(), offset, len, out);
}

Descriptor ChainWalker::load(uint16_t index) const {
  // Two atomic loads, not a memcpy: a compiler may load from plain memory again when it needs a field again,
  // and would then read what the guest has put there since. The driver's writes of the descriptor are made
  // visible by the acquire load of avail.idx (2.7.13.3).
  auto* words = reinterpret_cast<uint64_t*>(
      const_cast<std::byte*>(table_ + uint64_t{index} * sizeof(Descriptor)));  // atomic_ref takes no const
  const uint64_t raw[2] = {std::atomic_ref<uint64_t>(words[0]).load(std::memory_order_relaxed),
                           std::atomic_ref<uint64_t>(words[1]).load(std::memory_order_relaxed)};
  return std::bit_cast<Descriptor>(raw);
}

Result<void> ChainWalker::walk(uint16_t head, Chain::Buffers& out) {
  steps_ = 0;
  uint16_t index = head;
  for (;;) {
    if (index >= rules_.queue_size) return fail(Errc::invalid, "a descriptor index past the table");
    const Descriptor descriptor = load(index);
    if ((descriptor.flags & virtio::kDescIndirect) != 0) return walk_indirect(descriptor, out);
    if (auto added = add(descriptor, out); !added) return added;
    if ((descriptor.flags & virtio::kDescNext) == 0) return {};
    index = descriptor.next;
  }
}

// The chain's last descriptor may name a table that holds the rest of it (2.7.5.3). Its write flag means
// nothing (2.7.5.3.2).
Result<void> ChainWalker::walk_indirect(const Descriptor& pointer, Chain::Buffers& out) {
  // virtio 1.2, 2.7.5.3.1, what a driver must not do:
  if (!rules_.indirect) return fail(Errc::invalid, "an indirect descriptor without the feature");
  if ((pointer.flags & virtio::kDescNext) != 0) {
    return fail(Errc::invalid, "a descriptor both indirect and followed by another");
  }
  if (pointer.len == 0 || pointer.len % sizeof(Descriptor) != 0) {
    return fail(Errc::invalid, "an indirect table of no whole number of descriptors");
  }
  const uint64_t count = pointer.len / sizeof(Descriptor);
  if (count > rules_.max_descriptors) return fail(Errc::invalid, "an indirect table longer than the queue");
  indirect_.resize(count);
  if (!memory_->read(Gpa{pointer.addr}, std::as_writable_bytes(std::span(indirect_)))) {
    return fail(Errc::invalid, "an indirect table outside RAM");
  }
  uint16_t index = 0;
  for (;;) {
    if (index >= count) return fail(Errc::invalid, "a descriptor index past the indirect table");
    const Descriptor& descriptor = indirect_[index];
    if ((descriptor.flags & virtio::kDescIndirect) != 0) {
      return fail(Errc::invalid, "an indirect descriptor inside an indirect table");
    }
    if (auto added = add(descriptor, out); !added) return added;
    if ((descriptor.flags & virtio::kDescNext) == 0) return {};
    index = descriptor.next;
  }
}

Result<void> ChainWalker::add(const Descriptor& descriptor, Chain::Buffers& out) {
  // 2.7.5.3.1: a chain is no longer than the queue; this is also what ends a loop.
  if (++steps_ > rules_.max_descriptors) return fail(Errc::invalid, "a descriptor chain that loops");
  // 2.7.5: a chain is no longer than 2^32 bytes; this bounds what we transfer for one request.
  if (out.readable_bytes + out.writable_bytes + descriptor.len > virtio::kMaxChainBytes) {
    return fail(Errc::invalid, "a descriptor chain of more than 4 GiB");
  }
  const bool write = (descriptor.flags & virtio::kDescWrite) != 0;
  if (!write && out.writable_bytes != 0) {  // 2.7.4.2
    return fail(Errc::invalid, "a readable buffer after a writable one");
  }
  const Gpa address{descriptor.addr};
  if (!memory_->slices(address, descriptor.len, write ? Access::write : Access::read,
                       write ? out.writable : out.readable)) {
    return fail(Errc::invalid, "a buffer outside RAM");
  }
  if (write) {
    out.written.push_back({address, descriptor.len});
    out.writable_bytes += descriptor.len;
  } else {
    out.readable_bytes += descriptor.len;
  }
  return {};
}

}  // namespace minivmm
