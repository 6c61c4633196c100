#include "vmm/kvm/cpuid.h"

#include <gtest/gtest.h>

#include "vmm/core/error.h"

namespace minivmm {
namespace {

constexpr uint32_t kAll = 0xffffffff;

// A CPU with every bit set in the leaves that matter.
std::vector<CpuidLeaf> cpu(bool amd) {
  std::vector<CpuidLeaf> leaves{
      {0, 0, false, 0x1f, amd ? 0x68747541U : 0x756e6547U, 0, 0},
      {1, 0, false, 0x000806f8, 0x07100800, kAll, kAll},
      {4, 0, true, 0x0400'0121, 0, 0, 0},  // level 1 data
      {4, 3, true, 0x0400'0163, 0, 0, 0},  // level 3
      {7, 0, true, 2, kAll, kAll, kAll},
      {7, 1, true, kAll, 0, 0, 0},
      {0xb, 0, true, 1, 2, 0x100, 7},
      {0xb, 1, true, 5, 32, 0x201, 7},
      {0xd, 0, true, 0xe7, 0, 0, 0},
      {0xd, 1, true, kAll, 0, 0, 0},
      {0xd, 5, true, 0x40, 0, 0, 0},
      {0x1f, 0, true, 1, 2, 0x100, 7},
      {0x80000000, 0, false, 0x80000026, 0, 0, 0},
      {0x80000001, 0, false, 0, 0, kAll, kAll},
      {0x80000008, 0, false, 0x3930, 0, 0, 0},
  };
  if (amd) {
    leaves.push_back({0x8000001d, 0, true, 0x0400'0121, 0, 0, 0});
    leaves.push_back({0x8000001e, 0, false, 9, 9, 9, 0});
    leaves.push_back({0x80000026, 0, true, 1, 1, 1, 1});
  }
  return leaves;
}

const CpuidLeaf& leaf(const std::vector<CpuidLeaf>& leaves, uint32_t number, uint32_t subleaf = 0) {
  for (const CpuidLeaf& l : leaves) {
    if (l.leaf == number && (!l.has_subleaves || l.subleaf == subleaf)) return l;
  }
  ADD_FAILURE() << "no leaf " << number;
  return leaves.front();
}

class Topology : public testing::TestWithParam<uint32_t> {};

TEST_P(Topology, EveryLeafTellsTheSameNumberOfCores) {
  const uint32_t cpus = GetParam();
  uint32_t bits = 0;
  while ((1U << bits) < cpus) ++bits;
  const CpuidTable table(cpu(true), CpuModel::parse("host"), cpus);
  const auto last = table.for_vcpu(cpus - 1);
  EXPECT_EQ(leaf(last, 1).ebx >> 24, cpus - 1);                 // initial APIC id
  EXPECT_EQ((leaf(last, 1).ebx >> 16) & 0xff, cpus);            // logical processors
  EXPECT_EQ((leaf(last, 1).edx >> 28) & 1, cpus > 1 ? 1U : 0);  // HTT
  EXPECT_EQ(leaf(last, 0xb, 0).ebx, 1U);                        // one thread a core
  EXPECT_EQ(leaf(last, 0xb, 1).ebx, cpus);
  EXPECT_EQ(leaf(last, 0xb, 1).eax, bits);
  EXPECT_EQ(leaf(last, 0xb, 1).edx, cpus - 1);  // x2APIC id
  EXPECT_EQ(leaf(last, 0x1f, 1).ebx, cpus);
  EXPECT_EQ(leaf(last, 0x80000008).ecx & 0xff, cpus - 1);
  EXPECT_EQ((leaf(last, 0x80000008).ecx >> 12) & 0xf, bits);
  EXPECT_EQ(leaf(last, 0x8000001e).eax, cpus - 1);
  EXPECT_EQ(leaf(last, 0x8000001e).ecx, 0U);                          // node 0
  EXPECT_EQ((leaf(last, 4, 3).eax >> 14) & 0xfff, (1U << bits) - 1);  // the last level cache is shared
  EXPECT_EQ((leaf(last, 4, 0).eax >> 14) & 0xfff, 0U);                // the first is not
}

INSTANTIATE_TEST_SUITE_P(Cpus, Topology, testing::Values(1, 2, 3, 4, 7, 64, 253, 254));

TEST(CpuModel, AHypervisorIsAlwaysShown) {
  const CpuidTable table({{0, 0, false, 1, 0, 0, 0}, {1, 0, false, 0, 0, 0, 0}}, CpuModel::parse("host"), 1);
  EXPECT_TRUE(table.has("hypervisor"));
}

TEST(CpuModel, V2ShowsNoAvx) {
  const CpuidTable table(cpu(false), CpuModel::parse("x86-64-v2"), 1);
  EXPECT_TRUE(table.has("sse4_2"));
  EXPECT_TRUE(table.has("x2apic"));
  EXPECT_FALSE(table.has("avx"));
  EXPECT_FALSE(table.has("avx2"));
  EXPECT_FALSE(table.has("avx512f"));
  EXPECT_EQ(table.find(0xd, 5), nullptr);
}

TEST(CpuModel, V3ShowsAvx2WithItsSavedStateAndNoAvx512) {
  const CpuidTable table(cpu(false), CpuModel::parse("x86-64-v3"), 1);
  EXPECT_TRUE(table.has("avx2"));
  EXPECT_FALSE(table.has("avx512f"));
  ASSERT_NE(table.find(0xd, 0), nullptr);
  EXPECT_EQ(table.find(0xd, 0)->eax, 7U);
}

TEST(CpuModel, AHostThatLacksAFeatureOfTheModelIsToldWhich) {
  auto leaves = cpu(false);
  for (CpuidLeaf& l : leaves) {
    if (l.leaf == 7) l.ebx &= ~(1U << 5);
  }
  try {
    const CpuidTable table(leaves, CpuModel::parse("x86-64-v3"), 1);
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("avx2"), std::string::npos);
  }
}

TEST(CpuModel, AFeatureCanBeHidden) {
  const CpuidTable table(cpu(false), CpuModel::parse("host,-avx512f,-rdrand"), 1);
  EXPECT_FALSE(table.has("avx512f"));
  EXPECT_FALSE(table.has("rdrand"));
  EXPECT_TRUE(table.has("avx2"));
}

TEST(CpuModel, UnknownWordsAreRefused) {
  EXPECT_THROW(CpuModel::parse("pentium"), ConfigError);
  EXPECT_THROW(CpuModel::parse("host,avx"), ConfigError);
  EXPECT_THROW(CpuModel::parse("host,-nonsense"), ConfigError);
}

}  // namespace
}  // namespace minivmm
