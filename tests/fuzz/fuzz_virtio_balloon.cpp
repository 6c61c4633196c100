// The balloon's page numbers: whatever a guest names, only pages of RAM that it named are given back.
#include <array>
#include <cstdint>
#include <cstring>
#include <set>
#include <span>
#include <vector>

#include "virtio/device/balloon_pages.h"

namespace {

using namespace minivmm;

constexpr uint64_t kPage = BalloonPages::kPage;
constexpr uint64_t kPages = 16;  // of RAM, a hole as large, and RAM again
constexpr uint64_t kSecond = 32;
constexpr auto kMark = std::byte{0x77};

bool in_ram(uint32_t page) {
  return page < kPages || (page >= kSecond && page < kSecond + kPages);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static GuestMemory memory =
      GuestMemory::anonymous({{Gpa{0}, kPages * kPage}, {Gpa{kSecond * kPage}, kPages * kPage}});
  MV_CHECK(memory.fill(Gpa{0}, kPages * kPage, kMark) &&
           memory.fill(Gpa{kSecond * kPage}, kPages * kPage, kMark));
  BalloonPages balloon(memory);
  std::set<uint32_t> given;
  bool outside = false;
  std::vector<uint32_t> pages;
  std::span input(data, size);
  while (!input.empty()) {
    // Small numbers mostly, for they are the ones that hit RAM and each other; else four bytes of any.
    const uint8_t first = input.front();
    input = input.subspan(1);
    uint32_t page = first % 64;
    if (first >= 0xf0 && input.size() >= sizeof page) {
      std::memcpy(&page, input.data(), sizeof page);
      input = input.subspan(sizeof page);
    }
    pages.push_back(page);
    outside = outside || !in_ram(page);
    if (in_ram(page)) given.insert(page);
  }
  std::vector<uint32_t> again = pages;
  MV_CHECK(balloon.inflate(pages).outside == outside);
  for (uint32_t page = 0; page < kSecond + kPages; ++page) {
    if (!in_ram(page)) continue;
    const auto found = memory.load<std::byte>(Gpa{page * kPage + kPage - 1});
    MV_CHECK(found && *found == (given.contains(page) ? std::byte{0} : kMark));
  }
  MV_CHECK(balloon.deflate(again).outside == outside);
  return 0;
}
