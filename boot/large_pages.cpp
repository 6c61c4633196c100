#include "boot/large_pages.h"

#include <sys/mman.h>

namespace minivmm {

void expect_fill(const GuestMemory& memory, Gpa base, uint64_t size) {
  constexpr uintptr_t kLargePage = 2 << 20;
  IoVec pieces;
  if (!memory.slices(base, size, Access::write, pieces)) return;
  for (const iovec& piece : pieces) {
    // Only large pages that are filled whole: none that reaches into memory the guest may never touch.
    const auto start = reinterpret_cast<uintptr_t>(piece.iov_base);
    const uintptr_t begin = (start + kLargePage - 1) & ~(kLargePage - 1);
    const uintptr_t end = (start + piece.iov_len) & ~(kLargePage - 1);
    if (begin >= end) continue;
    ::madvise(static_cast<std::byte*>(piece.iov_base) + (begin - start), end - begin, MADV_HUGEPAGE);
  }
}

}  // namespace minivmm
