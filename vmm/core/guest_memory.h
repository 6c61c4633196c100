// Guest RAM: the one place that touches it. Every access is bounds-checked against the RAM regions; an access
// that touches a hole, MMIO or the end of RAM fails whole and changes nothing.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

#include "vmm/core/error.h"
#include "vmm/core/fd.h"

namespace minivmm {

// Guest physical address: never mixed up with a host one.
enum class Gpa : uint64_t {};
constexpr uint64_t value(Gpa address) {
  return static_cast<uint64_t>(address);
}
constexpr Gpa operator+(Gpa address, uint64_t offset) {
  return Gpa{value(address) + offset};
}
constexpr uint64_t operator-(Gpa a, Gpa b) {
  return value(a) - value(b);
}

inline constexpr uint64_t kPageSize = 4096;

template <class T>
concept GuestPod = std::is_trivially_copyable_v<T> && (sizeof(T) <= 256);

using IoVec = std::vector<iovec>;

enum class Access : uint8_t {
  read,   // we read guest RAM (the guest's output)
  write,  // we write guest RAM: call mark_dirty() once the data is there
};

class GuestMemory {
 public:
  struct Region {
    Gpa base;
    uint64_t size;             // bytes, page multiple
    std::byte* host;           // page-aligned
    uint64_t file_offset = 0;  // in file(), where memory is shared
  };
  struct Range {
    Gpa base;
    uint64_t size;
  };
  enum class HugePages : uint8_t { off, transparent, hugetlb_2m, hugetlb_1g };
  struct Options {
    HugePages hugepages = HugePages::off;
    bool shared = false;    // backed by a memfd that another process can map
    bool prefault = false;  // touch every page before the guest starts
  };

  // Reserves sparse zeroed memory for `ranges` (sorted, disjoint, page multiples). Throws HostError.
  GuestMemory(std::span<const Range> ranges, const Options& options);
  static GuestMemory anonymous(std::initializer_list<Range> ranges) {
    return GuestMemory(std::span(ranges.begin(), ranges.size()), Options{});
  }

  std::span<const Region> regions() const { return regions_; }
  uint64_t size() const { return size_; }
  int file() const { return file_.get(); }  // memfd of shared memory, else -1

  Result<void> read(Gpa, std::span<std::byte>) const;
  Result<void> write(Gpa, std::span<const std::byte>);
  Result<void> fill(Gpa, uint64_t len, std::byte);

  // One load into our own copy: the guest may change it under us, so read a field once and keep it.
  template <GuestPod T>
  Result<T> load(Gpa address) const {
    T out;
    if (auto r = read(address, std::as_writable_bytes(std::span(&out, 1))); !r)
      return std::unexpected(r.error());
    return out;
  }
  template <GuestPod T>
  Result<void> store(Gpa address, const T& in) {
    return write(address, std::as_bytes(std::span(&in, 1)));
  }

  // A stable host pointer to [address, address + len) within one region, for ring indices accessed by
  // std::atomic_ref. Only Virtqueue uses it.
  Result<std::byte*> contiguous(Gpa, uint64_t len) const;

  // Appends the host pieces of [address, address + len) to `out`: for preadv, pwritev and io_uring only. For
  // Access::write the caller marks the range dirty when the I/O has completed, not before.
  Result<void> slices(Gpa, uint64_t len, Access, IoVec& out) const;
  bool contains(Gpa, uint64_t len) const;

  // Gives the range's whole host pages back to the host; they read as zeroes from then on, and count as
  // written. What there is of a host page at either end stays as it is. Errc::out_of_range outside RAM,
  // having changed nothing; Errc::io: the host did not take them. Any thread.
  Result<void> discard(Gpa, uint64_t len);
  uint64_t host_page() const { return host_page_; }  // bytes of the smallest piece discard() can give back

  // The VMM's own writes since tracking started: KVM's dirty log does not see them.
  void start_dirty_tracking();
  void stop_dirty_tracking();
  void mark_dirty(Gpa, uint64_t len);
  // Calls `visit(Gpa page)` for each page dirtied since the last take, and clears it.
  template <class F>
  void take_dirty(F&& visit) {
    if (dirty_.empty()) return;
    uint64_t page = 0;
    for (const Region& region : regions_) {
      for (uint64_t offset = 0; offset < region.size; offset += kPageSize, ++page) {
        std::atomic<uint64_t>& word = dirty_[page / 64];
        const uint64_t bit = uint64_t{1} << (page % 64);
        if ((word.load(std::memory_order_relaxed) & bit) != 0 && (word.fetch_and(~bit) & bit) != 0) {
          visit(region.base + offset);
        }
      }
    }
  }

 private:
  const Region* find(Gpa address) const;
  template <class F>
  Result<void> for_each_piece(Gpa, uint64_t len, F&& visit) const;

  UniqueFd file_;
  Mapping mapping_;  // holds all regions, and slack for their alignment
  std::vector<Region> regions_;
  uint64_t size_ = 0;
  uint64_t host_page_ = kPageSize;
  std::vector<std::atomic<uint64_t>> dirty_;
  std::atomic<bool> tracking_{false};
};

}  // namespace minivmm
