#include "devices/fw_cfg.h"

#include <gtest/gtest.h>

#include "tests/unit/devices/fakes.h"

namespace minivmm {
namespace {

constexpr uint64_t kRam = 0x10000;  // and, past a hole, as much again
constexpr uint64_t kHighRam = 0x20000;
constexpr Gpa kDescriptor{0x100};
constexpr Gpa kBuffer{0x1000};
constexpr uint32_t kFirst = kFwCfgFirstFileKey;

std::vector<std::byte> bytes(std::string_view text) {
  const auto all = std::as_bytes(std::span(text));
  return {all.begin(), all.end()};
}

FwCfgFile file(std::string name, std::vector<std::byte> data) {
  return {std::move(name), std::make_shared<const std::vector<std::byte>>(std::move(data))};
}

struct Descriptor {
  uint32_t control;  // in our order, turned on its way to the guest
  uint32_t length;
  uint64_t address;
};

class FwCfgDevice : public testing::Test {
 protected:
  void select(uint16_t key) {
    std::array<std::byte, 2> data{};
    store_le(data, key);
    EXPECT_EQ(fw.write(kFwCfgSelector, data), IoStatus::ok);
  }
  std::string read(size_t count) {
    std::string out;
    while (count-- != 0) out += static_cast<char>(test::read8(fw, kFwCfgData));
    return out;
  }
  // Big-endian registers are written turned.
  void write_address_half(uint64_t offset, uint32_t half) {
    test::write32(fw, kFwCfgDma + offset, __builtin_bswap32(half));
  }
  void put(Gpa where, const Descriptor& d) {
    EXPECT_TRUE(memory.store(where, __builtin_bswap32(d.control)));
    EXPECT_TRUE(memory.store(where + 4, __builtin_bswap32(d.length)));
    EXPECT_TRUE(memory.store(where + 8, __builtin_bswap64(d.address)));
  }
  // Runs a transfer by one 32-bit write; the control word that it leaves.
  uint32_t dma(const Descriptor& d) {
    put(kDescriptor, d);
    write_address_half(4, static_cast<uint32_t>(value(kDescriptor)));
    return __builtin_bswap32(memory.load<uint32_t>(kDescriptor).value_or(~0U));
  }
  uint32_t dma_read(uint16_t key, uint32_t length, uint64_t address = value(kBuffer)) {
    return dma({uint32_t{key} << 16 | kFwCfgDmaSelect | kFwCfgDmaRead, length, address});
  }
  std::string buffer(size_t count, Gpa where = kBuffer) {
    std::string text(count, '?');
    EXPECT_TRUE(memory.read(where, std::as_writable_bytes(std::span(text))));
    return text;
  }

  Log log;
  GuestMemory memory = GuestMemory::anonymous({{Gpa{0}, kRam}, {Gpa{kHighRam}, kRam}});
  FwCfg fw{memory,
           log,
           {file("opt/zebra", bytes("stripes")), file("opt/apple", bytes("pips")), file("opt/Bee", {})}};
};

TEST_F(FwCfgDevice, SaysItsSignatureAndItsFeatures) {
  EXPECT_EQ(read(4), "QEMU") << "selected at power-on";
  select(kFwCfgFeaturesKey);
  EXPECT_EQ(read(4), std::string("\3\0\0\0", 4));
  select(kFwCfgSignatureKey);
  EXPECT_EQ(read(4), "QEMU");
}

TEST_F(FwCfgDevice, ListsItsFilesInTheirNamesOrder) {
  select(kFwCfgDirectoryKey);
  EXPECT_EQ(read(4), std::string("\0\0\0\3", 4));
  const auto entry = [](char size, char key, const std::string& name) {
    return std::string{0, 0, 0, size, 0, key, 0, 0} + name + std::string(56 - name.size(), '\0');
  };
  EXPECT_EQ(read(64), entry(0, 0x20, "opt/Bee"));
  EXPECT_EQ(read(64), entry(4, 0x21, "opt/apple"));
  EXPECT_EQ(read(64), entry(7, 0x22, "opt/zebra"));
  EXPECT_EQ(read(1), std::string(1, '\0'));
}

TEST_F(FwCfgDevice, TakesNamesThatFillTheirField) {
  const std::string name(kFwCfgLongestName, 'n');
  FwCfg other(memory, log, {file(name, bytes("x"))});
  std::array<std::byte, 2> key{};
  store_le(key, kFwCfgDirectoryKey);
  EXPECT_EQ(other.write(kFwCfgSelector, key), IoStatus::ok);
  for (int i = 0; i < 4 + 8; ++i) test::read8(other, kFwCfgData);
  for (size_t i = 0; i < name.size(); ++i) EXPECT_EQ(test::read8(other, kFwCfgData), 'n');
  EXPECT_EQ(test::read8(other, kFwCfgData), 0);
}

TEST_F(FwCfgDevice, ReadsAFileFromItsStartAfterEachSelection) {
  select(kFirst + 2);
  EXPECT_EQ(read(3), "str");
  select(kFirst + 2);
  EXPECT_EQ(read(7), "stripes");
}

TEST_F(FwCfgDevice, ReadsZerosPastTheEndAndWhereNothingIs) {
  select(kFirst + 1);
  EXPECT_EQ(read(6), std::string("pips\0\0", 6));
  for (const unsigned key : {2U, 0x18U, kFirst + 0U, kFirst + 3U, 0x3fffU, 0x8000U, 0x8020U, 0xffffU}) {
    select(static_cast<uint16_t>(key));
    EXPECT_EQ(read(2), std::string(2, '\0')) << key;
  }
}

TEST_F(FwCfgDevice, IgnoresTheWriteModeBit) {
  select(0x4000 | (kFirst + 1));
  EXPECT_EQ(read(4), "pips");
}

TEST_F(FwCfgDevice, IgnoresWritesToTheDataPort) {
  select(kFirst + 1);
  test::write8(fw, kFwCfgData, 'X');
  EXPECT_EQ(read(4), "pips");
}

TEST_F(FwCfgDevice, AnnouncesDmaAtItsAddressRegister) {
  std::array<std::byte, 8> data{};
  EXPECT_EQ(fw.read(kFwCfgDma, data), IoStatus::ok);
  EXPECT_EQ(__builtin_bswap64(load_le(data)), 0x51454d5520434647U);
  EXPECT_EQ(__builtin_bswap32(test::read32(fw, kFwCfgDma)), 0x51454d55U);
  EXPECT_EQ(__builtin_bswap32(test::read32(fw, kFwCfgDma + 4)), 0x20434647U);
  EXPECT_EQ(test::read8(fw, kFwCfgDma + 7), 'G');
}

TEST_F(FwCfgDevice, CopiesAFileByDma) {
  EXPECT_EQ(dma_read(kFirst + 2, 7), 0U);
  EXPECT_EQ(buffer(7), "stripes");
}

TEST_F(FwCfgDevice, GoesOnWhereTheLastTransferEnded) {
  EXPECT_EQ(dma_read(kFirst + 2, 2), 0U);
  EXPECT_EQ(dma({kFwCfgDmaSkip, 1, 0}), 0U);
  EXPECT_EQ(dma({kFwCfgDmaRead, 3, value(kBuffer)}), 0U);
  EXPECT_EQ(buffer(3), "ipe");
  EXPECT_EQ(read(1), "s") << "port and DMA share the position";
}

TEST_F(FwCfgDevice, SelectsByDmaAlone) {
  EXPECT_EQ(dma({(kFirst + 1) << 16 | kFwCfgDmaSelect, 0xffffffff, 0}), 0U);
  EXPECT_EQ(read(4), "pips");
}

TEST_F(FwCfgDevice, FillsWithZerosPastTheEndByDma) {
  ASSERT_TRUE(memory.fill(kBuffer, 16, std::byte{0xaa}));
  EXPECT_EQ(dma_read(kFirst + 1, 8), 0U);
  EXPECT_EQ(buffer(9), std::string("pips\0\0\0\0\xaa", 9));
  EXPECT_EQ(dma_read(0x3000, 8), 0U) << "an item that does not exist is empty";
  EXPECT_EQ(buffer(9), std::string("\0\0\0\0\0\0\0\0\xaa", 9));
}

TEST_F(FwCfgDevice, SkipsNoFurtherThanTheEnd) {
  select(kFirst + 2);
  EXPECT_EQ(dma({kFwCfgDmaSkip, 0xffffffff, 0}), 0U);
  EXPECT_EQ(dma({kFwCfgDmaSkip, 0xffffffff, 0}), 0U);
  EXPECT_EQ(read(1), std::string(1, '\0'));
}

TEST_F(FwCfgDevice, RefusesWritesToItsFiles) {
  select(kFirst + 1);
  EXPECT_EQ(dma({kFwCfgDmaWrite, 4, value(kBuffer)}), kFwCfgDmaError);
  EXPECT_EQ(read(4), "pips");
}

TEST_F(FwCfgDevice, PrefersReadToWriteToSkip) {
  select(kFirst + 1);
  EXPECT_EQ(dma({kFwCfgDmaRead | kFwCfgDmaWrite | kFwCfgDmaSkip, 4, value(kBuffer)}), 0U);
  EXPECT_EQ(buffer(4), "pips");
  EXPECT_EQ(dma({kFwCfgDmaWrite | kFwCfgDmaSkip, 0, value(kBuffer)}), kFwCfgDmaError);
}

TEST_F(FwCfgDevice, TakesTheAddressInOneWriteOrInTwoHalves) {
  GuestMemory high = GuestMemory::anonymous({{Gpa{0}, kRam}, {Gpa{uint64_t{1} << 32}, kRam}});
  FwCfg other(high, log, {file("opt/f", bytes("high"))});
  const Gpa where{(uint64_t{1} << 32) + 0x10};
  const auto place = [&] {
    EXPECT_TRUE(high.store(where, __builtin_bswap32(kFirst << 16 | kFwCfgDmaSelect | kFwCfgDmaRead)));
    EXPECT_TRUE(high.store(where + 4, __builtin_bswap32(4)));
    EXPECT_TRUE(high.store(where + 8, __builtin_bswap64(value(where) + 0x100)));
  };
  const auto result = [&] {
    EXPECT_EQ(high.load<uint32_t>(where), 0U);
    const auto text = high.load<std::array<char, 4>>(where + 0x100);
    EXPECT_TRUE(high.fill(where, 0x200, std::byte{0}));
    return text ? std::string(text->data(), text->size()) : "";
  };
  place();
  test::write32(other, kFwCfgDma, __builtin_bswap32(1));
  test::write32(other, kFwCfgDma + 4, __builtin_bswap32(0x10));
  EXPECT_EQ(result(), "high");
  place();
  std::array<std::byte, 8> data{};
  store_le(data, __builtin_bswap64(value(where)));
  EXPECT_EQ(other.write(kFwCfgDma, data), IoStatus::ok);
  EXPECT_EQ(result(), "high");
}

TEST_F(FwCfgDevice, ClearsTheAddressAfterATransfer) {
  write_address_half(0, 0xffffffff);
  write_address_half(4, 0xffffffff);  // nothing is there
  EXPECT_EQ(dma_read(kFirst + 2, 7), 0U) << "the high half is 0 again";
  EXPECT_EQ(buffer(7), "stripes");
}

TEST_F(FwCfgDevice, RefusesTransfersOutsideRamWholeAndStaysWhereItWas) {
  ASSERT_TRUE(memory.fill(Gpa{kRam - 4}, 4, std::byte{0xaa}));
  for (const uint64_t address : {kRam - 4, kRam, kHighRam - 1, kHighRam + kRam, ~uint64_t{0} - 2}) {
    EXPECT_EQ(dma_read(kFirst + 2, 7, address), kFwCfgDmaError) << address;
    EXPECT_EQ(read(1), "s") << address;
  }
  EXPECT_EQ(buffer(4, Gpa{kRam - 4}), "\xaa\xaa\xaa\xaa");
}

TEST_F(FwCfgDevice, RefusesAReadOfGigabytes) {
  GuestMemory large = GuestMemory::anonymous({{Gpa{0}, uint64_t{5} << 30}});
  FwCfg other(large, log, {file("opt/f", bytes("text"))});
  const auto run = [&](uint32_t length) {
    EXPECT_TRUE(large.store(kDescriptor, __builtin_bswap32(kFirst << 16 | kFwCfgDmaSelect | kFwCfgDmaRead)));
    EXPECT_TRUE(large.store(kDescriptor + 4, __builtin_bswap32(length)));
    EXPECT_TRUE(large.store(kDescriptor + 8, __builtin_bswap64(value(kBuffer))));
    test::write32(other, kFwCfgDma + 4, __builtin_bswap32(static_cast<uint32_t>(value(kDescriptor))));
    return __builtin_bswap32(large.load<uint32_t>(kDescriptor).value_or(0));
  };
  EXPECT_EQ(run(0xffffffff), kFwCfgDmaError);
  EXPECT_EQ(run(kFwCfgLongestRead + 1), kFwCfgDmaError);
  EXPECT_EQ(large.load<uint32_t>(kBuffer), 0U);
  EXPECT_EQ(run(kFwCfgLongestRead), 0U);
  EXPECT_EQ(large.load<uint32_t>(kBuffer), 0x74786574U);
}

TEST_F(FwCfgDevice, AnswersADescriptorThatIsPartlyInRam) {
  const Gpa where{kRam - 8};
  ASSERT_TRUE(memory.store(where, __builtin_bswap32(kFwCfgDmaRead)));
  write_address_half(4, static_cast<uint32_t>(value(where)));
  EXPECT_EQ(memory.load<uint32_t>(where), __builtin_bswap32(kFwCfgDmaError));
}

TEST_F(FwCfgDevice, SurvivesDescriptorsOutsideRam) {
  for (const uint64_t where : {kRam - 2, kRam, kHighRam + kRam, ~uint64_t{0}, ~uint64_t{0} - 15}) {
    std::array<std::byte, 8> data{};
    store_le(data, __builtin_bswap64(where));
    EXPECT_EQ(fw.write(kFwCfgDma, data), IoStatus::ok);
  }
  EXPECT_EQ(read(4), "QEMU");
}

TEST_F(FwCfgDevice, ReadsOverItsOwnDescriptorAndStillAnswers) {
  EXPECT_EQ(dma_read(kFirst + 2, 7, value(kDescriptor)), 0U);
  EXPECT_EQ(buffer(3, kDescriptor + 4), "pes");
}

TEST_F(FwCfgDevice, IgnoresControlBitsThatMeanNothing) {
  EXPECT_EQ(dma({0xffe0 | kFwCfgDmaError, 4, value(kBuffer)}), 0U);
  EXPECT_EQ(read(4), "QEMU");
}

TEST_F(FwCfgDevice, MarksWhatItWritesDirty) {
  memory.start_dirty_tracking();
  put(kDescriptor, {kFwCfgDmaRead, 8192, kHighRam});
  memory.take_dirty([](Gpa) {});
  write_address_half(4, static_cast<uint32_t>(value(kDescriptor)));
  std::vector<uint64_t> pages;
  memory.take_dirty([&pages](Gpa page) { pages.push_back(value(page)); });
  EXPECT_EQ(pages, (std::vector<uint64_t>{0, kHighRam, kHighRam + kPageSize}));
}

TEST_F(FwCfgDevice, SurvivesHostileAccesses) {
  test::poke_everywhere(fw, kFwCfgPorts);
}

TEST_F(FwCfgDevice, SelectsItsSignatureAfterAReset) {
  select(kFirst + 2);
  write_address_half(0, 1);
  fw.reset();
  EXPECT_EQ(read(4), "QEMU");
  EXPECT_EQ(dma_read(kFirst + 2, 7), 0U);
}

TEST_F(FwCfgDevice, SavesAndLoadsItsPositionAndHalfAnAddress) {
  select(kFirst + 2);
  EXPECT_EQ(read(3), "str");
  write_address_half(0, 0xffffffff);
  const auto state = test::saved(fw);
  fw.reset();
  ASSERT_TRUE(test::load(fw, state));
  EXPECT_EQ(test::saved(fw), state);
  EXPECT_EQ(read(4), "ipes");
  put(kDescriptor, {kFwCfgDmaWrite, 1, 0});
  write_address_half(4, static_cast<uint32_t>(value(kDescriptor)));
  EXPECT_EQ(memory.load<uint32_t>(kDescriptor), __builtin_bswap32(kFwCfgDmaWrite))
      << "it went to the high half";
  test::load_damaged(fw, state);
}

TEST_F(FwCfgDevice, RefusesAStateThatFitsOtherFiles) {
  FwCfg other(memory, log, {file("opt/Bee", {}), file("opt/apple", bytes("p"))});
  select(kFirst + 1);
  EXPECT_EQ(read(2), "pi");
  EXPECT_FALSE(test::load(other, test::saved(fw)));
}

}  // namespace
}  // namespace minivmm
