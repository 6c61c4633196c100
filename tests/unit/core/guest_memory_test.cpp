#include "vmm/core/guest_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>

namespace minivmm {
namespace {

constexpr uint64_t kMiB = 1 << 20;

TEST(GuestMemory, AccessAcrossTwoAdjoiningRegionsIsWhole) {
  auto memory = GuestMemory::anonymous({{Gpa{0}, kMiB}, {Gpa{kMiB}, kMiB}});
  std::array<std::byte, 8> out{};
  ASSERT_TRUE(memory.store(Gpa{kMiB - 4}, uint64_t{0x1122334455667788}));
  ASSERT_TRUE(memory.read(Gpa{kMiB - 4}, out));
  EXPECT_EQ(*memory.load<uint64_t>(Gpa{kMiB - 4}), 0x1122334455667788U);
  IoVec pieces;
  ASSERT_TRUE(memory.slices(Gpa{kMiB - 4}, 8, Access::read, pieces));
  EXPECT_EQ(pieces.size(), 2U);
}

TEST(GuestMemory, AccessIntoAHoleFailsAndWritesNothing) {
  auto memory = GuestMemory::anonymous({{Gpa{0}, kMiB}, {Gpa{2 * kMiB}, kMiB}});
  EXPECT_FALSE(memory.store(Gpa{kMiB - 4}, ~uint64_t{0}));
  EXPECT_EQ(*memory.load<uint32_t>(Gpa{kMiB - 4}), 0U);
  EXPECT_FALSE(memory.load<uint8_t>(Gpa{kMiB}));
  EXPECT_FALSE(memory.contiguous(Gpa{kMiB - 1}, 2));
}

TEST(GuestMemory, AnAddressThatWraps64BitsIsRefused) {
  auto memory = GuestMemory::anonymous({{Gpa{0}, kMiB}});
  IoVec pieces;
  EXPECT_FALSE(memory.contains(Gpa{~uint64_t{0} - 3}, 8));
  EXPECT_FALSE(memory.slices(Gpa{16}, ~uint64_t{0}, Access::read, pieces));
  EXPECT_TRUE(pieces.empty());
}

TEST(GuestMemory, TracksItsOwnWritesByPage) {
  auto memory = GuestMemory::anonymous({{Gpa{0}, kMiB}, {Gpa{4 * kMiB}, kMiB}});
  memory.start_dirty_tracking();
  ASSERT_TRUE(memory.store(Gpa{kPageSize - 1}, uint16_t{1}));
  memory.mark_dirty(Gpa{4 * kMiB + kPageSize}, 1);
  std::vector<uint64_t> pages;
  memory.take_dirty([&](Gpa page) { pages.push_back(value(page)); });
  EXPECT_EQ(pages, (std::vector<uint64_t>{0, kPageSize, 4 * kMiB + kPageSize}));
  pages.clear();
  memory.take_dirty([&](Gpa page) { pages.push_back(value(page)); });
  EXPECT_TRUE(pages.empty());
}

TEST(GuestMemory, SharedMemoryHasAFileOthersCanMap) {
  const std::array ranges{GuestMemory::Range{Gpa{0}, kMiB}};
  GuestMemory memory(ranges, {.shared = true});
  ASSERT_TRUE(memory.store(Gpa{100}, uint8_t{7}));
  const Mapping other = Mapping::map(kMiB, 1 /*PROT_READ*/, 1 /*MAP_SHARED*/, memory.file(), 0, "test");
  EXPECT_EQ(other.data()[100], std::byte{7});
}

TEST(GuestMemory, NobodyWhoHasTheFileCanChangeItsSize) {
  const std::array ranges{GuestMemory::Range{Gpa{0}, kMiB}};
  GuestMemory memory(ranges, {.shared = true});
  EXPECT_NE(::ftruncate(memory.file(), 0), 0);
  EXPECT_NE(::ftruncate(memory.file(), 2 * kMiB), 0);
  EXPECT_NE(::fcntl(memory.file(), F_ADD_SEALS, F_SEAL_WRITE), 0) << "nor take it from the guest otherwise";
  ASSERT_TRUE(memory.store(Gpa{0}, uint8_t{7}));
  ASSERT_TRUE(memory.discard(Gpa{0}, kPageSize)) << "which makes a hole in it";
  EXPECT_EQ(*memory.load<uint8_t>(Gpa{0}), 0U);
}

TEST(GuestMemory, IsAlignedForLargePages) {
  auto memory = GuestMemory::anonymous({{Gpa{0}, 3 * kMiB}});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.regions()[0].host) % (2 * kMiB), 0U);
}

TEST(GuestMemory, HugePagesThatAreNotReservedAreRefusedAtOnce) {
  const std::array ranges{GuestMemory::Range{Gpa{0}, uint64_t{1} << 40}};
  EXPECT_THROW(GuestMemory(ranges, {.hugepages = GuestMemory::HugePages::hugetlb_2m}), HostError);
}

TEST(GuestMemory, MoreThanTheAddressSpaceIsRefused) {
  const std::array ranges{GuestMemory::Range{Gpa{0}, uint64_t{1} << 62}};
  EXPECT_THROW(GuestMemory(ranges, {}), HostError);
}

}  // namespace
}  // namespace minivmm
