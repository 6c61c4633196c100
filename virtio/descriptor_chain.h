// One request of the guest: the buffers of a descriptor chain, copied out of guest memory once and checked,
// so that nothing the guest writes afterwards changes what we do (virtio 1.2, 2.7.4, 2.7.5).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "virtio/spec.h"
#include "vmm/core/error.h"
#include "vmm/core/guest_memory.h"

namespace minivmm {

// Move-only. Got from Virtqueue::pop(), and handed back exactly once, to complete() or give_back(): debug
// builds check it on destruction. All offsets and sizes are in bytes.
class Chain {
 public:
  Chain(Chain&&) noexcept = default;
  Chain& operator=(Chain&&) noexcept;
  ~Chain();

  uint16_t head() const { return head_; }
  uint64_t readable_bytes() const { return buffers_->readable_bytes; }  // what the guest says
  uint64_t writable_bytes() const { return buffers_->writable_bytes; }  // room for the answer

  // Copies from the readable part, or into the writable part, whatever buffers it is split into (2.7.4: the
  // framing means nothing). Errc::out_of_range past its end, having changed nothing.
  Result<void> read(uint64_t offset, std::span<std::byte> out) const;
  Result<void> write(uint64_t offset, std::span<const std::byte> in);

  // Appends the host pieces of [offset, offset + len) of the readable or writable part, for preadv and its
  // like. They are valid until the chain is handed back, which marks the writable part dirty.
  Result<void> readable_slices(uint64_t offset, uint64_t len, IoVec& out) const;
  Result<void> writable_slices(uint64_t offset, uint64_t len, IoVec& out) const;

  // The writable part in guest addresses, buffer by buffer: for a device to which the places matter.
  std::span<const GuestMemory::Range> writable_ranges() const { return buffers_->written; }

 private:
  friend class Virtqueue;
  friend class ChainWalker;

  // Recycled by the queue, so that a request allocates nothing once the queue is warm.
  struct Buffers {
    IoVec readable;
    IoVec writable;
    std::vector<GuestMemory::Range> written;  // the writable part in guest addresses, to mark dirty
    uint64_t readable_bytes = 0;
    uint64_t writable_bytes = 0;
    void clear();
  };

  Chain(uint16_t head, std::unique_ptr<Buffers> buffers) : head_(head), buffers_(std::move(buffers)) {}

  uint16_t head_;
  std::unique_ptr<Buffers> buffers_;  // null once handed back or moved from
};

// Walks a chain from its head into a Chain's buffers. Every descriptor is loaded once.
class ChainWalker {
 public:
  struct Rules {
    uint16_t queue_size;
    uint16_t max_descriptors;  // in all, the indirect table's included
    bool indirect;             // VIRTIO_F_INDIRECT_DESC was negotiated
  };
  // `table` is the descriptor table in host memory, 16-aligned, `rules.queue_size` entries.
  ChainWalker(const GuestMemory& memory, const std::byte* table, const Rules& rules)
      : memory_(&memory), table_(table), rules_(rules) {}

  // Errc::invalid (with what is wrong) for a chain the specification forbids or that leaves guest RAM.
  Result<void> walk(uint16_t head, Chain::Buffers& out);

 private:
  Result<void> walk_indirect(const virtio::Descriptor& pointer, Chain::Buffers& out);
  Result<void> add(const virtio::Descriptor&, Chain::Buffers& out);
  virtio::Descriptor load(uint16_t index) const;

  const GuestMemory* memory_;
  const std::byte* table_;
  Rules rules_;
  unsigned steps_ = 0;
  std::vector<virtio::Descriptor> indirect_;  // our copy of the table; reused
};

}  // namespace minivmm
