// A hint to the host's kernel: this piece of guest RAM is about to be filled whole.
#pragma once

#include <cstdint>

#include "vmm/core/guest_memory.h"

namespace minivmm {

// Asks for large pages for [base, base + size). Filling 50 MiB costs 13,000 page faults otherwise, more than
// unpacking a kernel into it. Best effort: hugetlbfs has its pages already, and a host may have none to give.
void expect_fill(const GuestMemory&, Gpa base, uint64_t size);

}  // namespace minivmm
