#include "vmm/core/guest_memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace minivmm {

namespace {

int hugetlb_flags(GuestMemory::HugePages pages) {
  switch (pages) {
    case GuestMemory::HugePages::hugetlb_2m: return MAP_HUGETLB | (21 << MAP_HUGE_SHIFT);
    case GuestMemory::HugePages::hugetlb_1g: return MAP_HUGETLB | (30 << MAP_HUGE_SHIFT);
    default: return 0;
  }
}

constexpr uint64_t kLargePage = uint64_t{2} << 20;
constexpr uint64_t kGiantPage = uint64_t{1} << 30;
constexpr const char* kMemoryMend = "give the guest less with --memory";
constexpr const char* kHugePageMend = "reserve pages in /proc/sys/vm/nr_hugepages or leave hugepages= out";

}  // namespace

GuestMemory::GuestMemory(std::span<const Range> ranges, const Options& options) {
  Gpa end{0};
  for (const Range& range : ranges) {
    MV_CHECK(range.size != 0 && range.size % kPageSize == 0 && value(range.base) % kPageSize == 0);
    MV_CHECK(range.base >= end && value(range.base) + range.size > value(range.base));
    end = range.base + range.size;
    size_ += range.size;
  }
  const bool hugetlb = hugetlb_flags(options.hugepages) != 0;
  if (hugetlb) host_page_ = options.hugepages == HugePages::hugetlb_1g ? kGiantPage : kLargePage;
  // Huge pages are reserved at once: without that, a page that cannot be had is a SIGBUS while the guest
  // runs.
  int flags = hugetlb ? hugetlb_flags(options.hugepages) : MAP_NORESERVE;
  if (options.shared) {
    const auto huge = static_cast<unsigned>(hugetlb_flags(options.hugepages) & ~MAP_HUGETLB);
    file_ = UniqueFd(::memfd_create("guest-memory",
                                    MFD_CLOEXEC | MFD_ALLOW_SEALING | (hugetlb ? MFD_HUGETLB | huge : 0U)));
    if (!file_) throw_errno("create the guest's shared memory", hugetlb ? kHugePageMend : "");
    if (::ftruncate(file_.get(), static_cast<off_t>(size_)) != 0) {
      throw_errno(fmt::format("size the guest's shared memory to {} MiB", size_ >> 20));
    }
    // Another program that is given it must not cut it off under us: touching it would be a SIGBUS.
    if (::fcntl(file_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
      throw_errno("seal the size of the guest's shared memory");
    }
    flags |= MAP_SHARED;
  } else {
    flags |= MAP_PRIVATE | MAP_ANONYMOUS;
  }
  // Aligned, so that KVM can map guest memory by large pages: reserve address space, then map within it.
  const uint64_t align = options.hugepages == HugePages::hugetlb_1g ? kGiantPage : kLargePage;
  const std::string what = fmt::format("map {} MiB of guest memory", size_ >> 20);
  void* room = size_ > UINT64_MAX - align
                   ? MAP_FAILED
                   : ::mmap(nullptr, size_ + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (room == MAP_FAILED) throw_errno(what, kMemoryMend);
  mapping_ = Mapping(room, size_ + align);
  const uint64_t start = (reinterpret_cast<uint64_t>(room) + align - 1) / align * align;
  auto* address = reinterpret_cast<std::byte*>(start);
  if (::mmap(address, size_, PROT_READ | PROT_WRITE, flags | MAP_FIXED, file_.get(), 0) == MAP_FAILED) {
    throw_errno(what, hugetlb ? kHugePageMend : kMemoryMend);
  }
  if (options.hugepages == HugePages::transparent) ::madvise(address, size_, MADV_HUGEPAGE);
  ::madvise(address, size_, MADV_DONTDUMP);
  if (options.prefault && ::madvise(address, size_, MADV_POPULATE_WRITE) != 0) {
    throw_errno(fmt::format("prefault {} MiB of guest memory", size_ >> 20), "leave prefault=on out");
  }
  uint64_t offset = 0;
  for (const Range& range : ranges) {
    regions_.push_back({range.base, range.size, address + offset, offset});
    offset += range.size;
  }
}

const GuestMemory::Region* GuestMemory::find(Gpa address) const {
  for (const Region& region : regions_) {  // two or three of them: a scan beats a search
    if (address >= region.base && address - region.base < region.size) return &region;
  }
  return nullptr;
}

template <class F>
Result<void> GuestMemory::for_each_piece(Gpa address, uint64_t len, F&& visit) const {
  if (!contains(address, len)) return fail(Errc::out_of_range, "address outside guest RAM");
  while (len != 0) {
    const Region* region = find(address);
    const uint64_t offset = address - region->base;
    const uint64_t piece = std::min(len, region->size - offset);
    visit(region->host + offset, piece);
    address = address + piece;
    len -= piece;
  }
  return {};
}

bool GuestMemory::contains(Gpa address, uint64_t len) const {
  if (len == 0) return true;
  if (value(address) + (len - 1) < value(address)) return false;  // wraps 64 bits
  for (;;) {
    const Region* region = find(address);
    if (region == nullptr) return false;
    const uint64_t piece = region->size - (address - region->base);
    if (len <= piece) return true;
    address = address + piece;
    len -= piece;
  }
}

Result<void> GuestMemory::read(Gpa address, std::span<std::byte> out) const {
  return for_each_piece(address, out.size(),
                        [cursor = out.data()](const std::byte* host, uint64_t n) mutable {
                          std::memcpy(cursor, host, n);
                          cursor += n;
                        });
}

Result<void> GuestMemory::write(Gpa address, std::span<const std::byte> in) {
  auto done = for_each_piece(address, in.size(), [cursor = in.data()](std::byte* host, uint64_t n) mutable {
    std::memcpy(host, cursor, n);
    cursor += n;
  });
  if (done) mark_dirty(address, in.size());
  return done;
}

Result<void> GuestMemory::fill(Gpa address, uint64_t len, std::byte with) {
  auto done = for_each_piece(
      address, len, [with](std::byte* host, uint64_t n) { std::memset(host, static_cast<int>(with), n); });
  if (done) mark_dirty(address, len);
  return done;
}

Result<std::byte*> GuestMemory::contiguous(Gpa address, uint64_t len) const {
  const Region* region = find(address);
  if (region == nullptr || len > region->size - (address - region->base)) {
    return fail(Errc::out_of_range, "range outside one region of guest RAM");
  }
  return region->host + (address - region->base);
}

Result<void> GuestMemory::slices(Gpa address, uint64_t len, Access /*access*/, IoVec& out) const {
  return for_each_piece(address, len, [&out](std::byte* host, uint64_t n) { out.push_back({host, n}); });
}

Result<void> GuestMemory::discard(Gpa address, uint64_t len) {
  bool refused = false;
  const auto done = for_each_piece(address, len, [&](std::byte* host, uint64_t n) {
    // Rounded inwards. Regions begin on host pages, so that the address shows where one begins.
    const uint64_t from = (reinterpret_cast<uint64_t>(host) + host_page_ - 1) / host_page_ * host_page_;
    const uint64_t to = (reinterpret_cast<uint64_t>(host) + n) / host_page_ * host_page_;
    if (from >= to) return;
    auto* const start = host + (from - reinterpret_cast<uint64_t>(host));
    const Region& region = *std::ranges::find_if(
        regions_, [start](const Region& r) { return start >= r.host && start < r.host + r.size; });
    const auto offset = static_cast<uint64_t>(start - region.host);
    // Of shared memory a page has to leave the file, or every other process that maps it still has it.
    const int result =
        file_ ? ::fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                            static_cast<off_t>(region.file_offset + offset), static_cast<off_t>(to - from))
              : ::madvise(start, to - from, MADV_DONTNEED);
    if (result != 0) refused = true;
    mark_dirty(region.base + offset, to - from);
  });
  if (!done) return done;
  if (refused) return fail(Errc::io, "the host did not take guest memory back");
  return {};
}

void GuestMemory::start_dirty_tracking() {
  dirty_ = std::vector<std::atomic<uint64_t>>((size_ / kPageSize + 63) / 64);
  tracking_.store(true, std::memory_order_release);  // pairs with the acquire in mark_dirty
}

void GuestMemory::stop_dirty_tracking() {
  tracking_.store(false, std::memory_order_release);
}

void GuestMemory::mark_dirty(Gpa address, uint64_t len) {
  if (len == 0 || !tracking_.load(std::memory_order_acquire)) return;
  uint64_t first_page = 0;
  for (const Region& region : regions_) {
    const uint64_t begin = std::max(value(address), value(region.base));
    const uint64_t end = std::min(value(address) + len, value(region.base) + region.size);
    if (begin < end) {
      const uint64_t last = (end - 1 - value(region.base)) / kPageSize;
      for (uint64_t page = (begin - value(region.base)) / kPageSize; page <= last; ++page) {
        dirty_[(first_page + page) / 64].fetch_or(uint64_t{1} << ((first_page + page) % 64),
                                                  std::memory_order_relaxed);
      }
    }
    first_page += region.size / kPageSize;
  }
}

}  // namespace minivmm
