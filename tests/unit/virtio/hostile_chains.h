// Rings that make no sense to who works on them: facts 1 to 5. Each makes one request of it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tests/conformance/fake_guest.h"

namespace minivmm::test {

struct HostileRequest {
  std::string what;
  std::function<void(FakeRing&)> offer;  // in an empty ring
};

inline std::vector<HostileRequest> hostile_requests() {
  using virtio::kDescIndirect;
  using virtio::kDescNext;
  using virtio::kDescWrite;
  const auto direct = [](const char* what, Gpa address, uint32_t len, uint16_t flags = 0, uint16_t next = 0) {
    return HostileRequest{what, [=](FakeRing& ring) {
                            ring.descriptor(0, address, len, flags, next);
                            ring.offer(0);
                          }};
  };
  // An indirect table at kBuffers whose first entry is this.
  const auto indirect = [](const char* what, uint32_t table_len, uint16_t flags, uint16_t next) {
    return HostileRequest{what, [=](FakeRing& ring) {
                            ring.descriptor(0, kBuffers, table_len, kDescIndirect);
                            ring.descriptor_at(kBuffers, kBuffers + 0x100, 16, flags, next);
                            ring.descriptor_at(kBuffers + 16, kBuffers + 0x100, 16, flags, 0);
                            ring.offer(0);
                          }};
  };
  return {
      {"a loop of two",
       [](FakeRing& ring) {
         ring.descriptor(0, kBuffers, 16, kDescNext, 1);
         ring.descriptor(1, kBuffers, 16, kDescNext, 0);
         ring.offer(0);
       }},
      {"readable after writable",
       [](FakeRing& ring) {
         ring.descriptor(0, kBuffers, 16, kDescWrite | kDescNext, 1);
         ring.descriptor(1, kBuffers, 16);
         ring.offer(0);
       }},
      {"an entry past the table", [](FakeRing& ring) { ring.offer(ring.size()); }},
      {"an index that jumps",
       [](FakeRing& ring) { ring.set_avail_index(static_cast<uint16_t>(ring.size() + 1)); }},
      direct("itself", kBuffers, 16, kDescNext, 0),
      direct("past the table", kBuffers, 16, kDescNext, 0xffff),
      direct("past the address space", Gpa{~uint64_t{0}}, 4096),
      direct("into the hole", Gpa{kLowSize - 256}, 512),
      direct("in the hole", Gpa{kLowSize + 256}, 512),
      direct("past the end of RAM", kHighBase + (kHighSize - 256), 512),
      direct("a table in the hole", Gpa{kLowSize}, 32, kDescIndirect),
      direct("an empty table", kBuffers, 0, kDescIndirect),
      direct("a table of 17 bytes", kBuffers, 17, kDescIndirect),
      indirect("a loop in a table", 32, kDescNext, 1),
      indirect("past its own table", 32, kDescNext, 2),
      indirect("a table in a table", 32, kDescIndirect, 0),
  };
}

}  // namespace minivmm::test
