#include "devices/net/mac_address.h"

#include <gtest/gtest.h>

#include <set>

namespace minivmm {
namespace {

TEST(MacAddress, IsReadAndWritten) {
  const auto mac = MacAddress::parse("52:54:00:aB:34:0f");
  ASSERT_TRUE(mac);
  EXPECT_EQ(mac->bytes, (std::array<uint8_t, 6>{0x52, 0x54, 0, 0xab, 0x34, 0x0f}));
  EXPECT_EQ(mac->text(), "52:54:00:ab:34:0f");
  EXPECT_EQ(MacAddress::parse("52-54-00-AB-34-0F"), mac);
}

TEST(MacAddress, IsNothingElse) {
  for (const char* text : {"", "52:54:00:ab:34", "52:54:00:ab:34:0f:", "52:54:00:ab:34:0f:11",
                           "5254.00ab.340f", "52:54:00:ab:34-0f", "52:54:00:ab:34:g0", " 2:54:00:ab:34:0f",
                           "525400ab340f", "52:54:0:ab:34:0f0", "+2:54:00:ab:34:0f", "52:54:00:ab:34:0\n"}) {
    EXPECT_FALSE(MacAddress::parse(text)) << text;
  }
}

TEST(DerivedMac, IsACardsOwnAndLocal) {
  for (unsigned nic = 0; nic < 64; ++nic) {
    const MacAddress mac = derive_mac("machine", nic);
    EXPECT_FALSE(mac.is_multicast());
    EXPECT_EQ(mac.bytes[0] & 2, 2) << "not locally administered";
  }
}

TEST(DerivedMac, IsTheSameAtEachStart) {
  EXPECT_EQ(derive_mac("machine", 1), derive_mac("machine", 1));
}

TEST(DerivedMac, DiffersBetweenCardsAndMachines) {
  std::set<MacAddress> macs;
  for (const char* machine : {"", "a", "b", "1/a", "/vm/debian.qcow2"}) {
    for (unsigned nic = 0; nic < 20; ++nic) macs.insert(derive_mac(machine, nic));
  }
  EXPECT_EQ(macs.size(), 100U);
}

}  // namespace
}  // namespace minivmm
