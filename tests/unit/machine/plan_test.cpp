#include "vmm/machine/plan.h"

#include <gtest/gtest.h>

#include "vmm/core/error.h"

namespace minivmm {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;

MachineConfig config() {
  MachineConfig c;
  c.kernel = "vmlinuz";
  c.cmdline = "";
  return c;
}

TEST(Plan, MemoryBelowTheHoleIsOneRange) {
  MachineConfig c = config();
  c.memory = 3 * kGiB;
  const MachinePlan plan = plan_machine(c, 40);
  ASSERT_EQ(plan.ram.size(), 1U);
  EXPECT_EQ(plan.ram[0].size, 3 * kGiB);
}

TEST(Plan, MemoryPastTheHoleGoesOnAt4GiB) {
  MachineConfig c = config();
  c.memory = 6 * kGiB;
  const MachinePlan plan = plan_machine(c, 40);
  ASSERT_EQ(plan.ram.size(), 2U);
  EXPECT_EQ(plan.ram[0].size + plan.ram[1].size, 6 * kGiB);
  EXPECT_EQ(plan.ram[1].base, Gpa{4 * kGiB});
  EXPECT_GE(plan.pci_mmio64.base, 7 * kGiB);
  EXPECT_LE(plan.pci_mmio64.end(), uint64_t{1} << 40);
}

TEST(Plan, MemoryUpToThePhysicalAddressBitsButNotPast) {
  MachineConfig c = config();
  c.memory = 63 * kGiB;
  EXPECT_EQ(plan_machine(c, 36).pci_mmio64.size, 0U);
  c.memory = 64 * kGiB;
  EXPECT_THROW(plan_machine(c, 36), HostError);
  c.memory = ~uint64_t{0} & ~uint64_t{4095};
  EXPECT_THROW(plan_machine(c, 52), HostError);
}

TEST(Plan, MemoryIsSharedWhereADeviceSharesItWithAnotherProcess) {
  const auto shared = [](const char* type, const char* spec) {
    MachineConfig c = config();
    c.virtio.push_back({type, spec});
    return plan_machine(c, 40).shared_memory;
  };
  EXPECT_FALSE(shared("rng", "on"));
  EXPECT_FALSE(shared("net", "null"));
  EXPECT_FALSE(shared("net", "tap,vhost=on")) << "the kernel needs no descriptor for it";
  EXPECT_TRUE(shared("net", "vhost-user,socket=/run/switch"));
  EXPECT_TRUE(shared("fs", "/srv:data"));
  MachineConfig c = config();
  c.set_memory("1G,shared=on");
  EXPECT_TRUE(plan_machine(c, 40).shared_memory);
  EXPECT_THROW(shared("fs", "/srv"), ConfigError);
}

TEST(Plan, ValuesThatMakeNoSenseAreUsageErrors) {
  MachineConfig c = config();
  c.memory = 0;
  EXPECT_THROW(plan_machine(c, 40), ConfigError);
  c = config();
  c.cpus = 0;
  EXPECT_THROW(plan_machine(c, 40), ConfigError);
  c.cpus = 255;
  EXPECT_THROW(plan_machine(c, 40), ConfigError);
  c = config();
  c.kernel = "";
  EXPECT_THROW(plan_machine(c, 40), ConfigError);
  EXPECT_THROW(c.set_memory("much"), ConfigError);
  EXPECT_THROW(c.set_memory("1G,hugepages=3M"), ConfigError);
}

TEST(Plan, OnlyOneOfSerialAndConsolesIsOnStdio) {
  MachineConfig c = config();
  EXPECT_EQ(serial_place(c), "stdio");
  c.virtio.push_back({"console", "stdio"});
  EXPECT_EQ(serial_place(c), "null");
  EXPECT_NO_THROW(plan_machine(c, 40));
  c.serial = "stdio";
  EXPECT_THROW(plan_machine(c, 40), ConfigError);
  c.serial = "pty";
  EXPECT_EQ(serial_place(c), "pty");
  c.virtio.push_back({"console", "stdio,name=org.example.x"});
  EXPECT_THROW(plan_machine(c, 40), ConfigError);
}

TEST(Plan, DevicesWhoseSpecsMakeNoSenseAreRefusedBeforeAnythingIsMade) {
  using Spec = std::pair<const char*, const char*>;
  for (const auto& [type, spec] : {Spec{"vsock", "cid=2"}, Spec{"balloon", "size=9T"},
                                   Spec{"rng", "rate=fast"}, Spec{"console", "null,name=a/b"}}) {
    MachineConfig c = config();
    c.virtio.push_back({type, "off"});
    EXPECT_NO_THROW(plan_machine(c, 40));
    c.virtio.push_back({type, spec});
    EXPECT_THROW(plan_machine(c, 40), ConfigError) << spec;
  }
}

TEST(Plan, AConsoleOnStdioIsTheKernelsConsole) {
  MachineConfig c = config();
  c.cmdline.reset();
  EXPECT_EQ(plan_machine(c, 40).cmdline, "console=ttyS0 panic=-1");
  c.virtio.push_back({"console", "pty"});
  EXPECT_EQ(plan_machine(c, 40).cmdline, "console=ttyS0 panic=-1");
  c.virtio.push_back({"console", "stdio,name=org.example.x"});
  EXPECT_EQ(plan_machine(c, 40).cmdline, "console=ttyS0 panic=-1");
  c.virtio.back().spec = "stdio";
  EXPECT_EQ(plan_machine(c, 40).cmdline, "console=hvc1 panic=-1");
  c.virtio.erase(c.virtio.begin());
  EXPECT_EQ(plan_machine(c, 40).cmdline, "console=hvc0 panic=-1");
}

TEST(Plan, ConsolePortsWithNamesShareADevice) {
  MachineConfig c = config();
  for (const char* spec : {"pty", "null,name=a", "off", "null,name=b", "null"})
    c.virtio.push_back({"console", spec});
  const MachinePlan plan = plan_machine(c, 40);
  ASSERT_EQ(plan.virtio.size(), 3U);
  EXPECT_EQ(plan.virtio[1].config.spec, "null,name=a\nnull,name=b");
  EXPECT_EQ(plan.virtio[2].config.spec, "null");
  EXPECT_EQ(plan.virtio[2].index, 2U);
}

TEST(Plan, NoTwoDevicesShareAnAddressOrAnInterrupt) {
  MachineConfig c = config();
  c.transport = Transport::mmio;
  for (int i = 0; i < 15; ++i) c.virtio.push_back({"rng", "on"});
  const MachinePlan plan = plan_machine(c, 40);
  for (size_t i = 0; i < plan.devices.size(); ++i) {
    for (size_t j = i + 1; j < plan.devices.size(); ++j) {
      const PlannedDevice& a = plan.devices[i];
      const PlannedDevice& b = plan.devices[j];
      if (a.gsi && b.gsi) {
        EXPECT_NE(*a.gsi, *b.gsi) << a.name << " " << b.name;
      }
      if (a.space != b.space) continue;
      EXPECT_TRUE(a.base + a.size <= b.base || b.base + b.size <= a.base) << a.name << " " << b.name;
    }
  }
  c.virtio.push_back({"rng", "on"});
  EXPECT_THROW(plan_machine(c, 40), ConfigError);
}

TEST(Plan, TheMemoryMapNeverOffersAHoleAsRam) {
  MachineConfig c = config();
  c.memory = 8 * kGiB;
  for (const E820Entry& e : plan_machine(c, 40).e820) {
    if (e.type != E820Type::ram) continue;
    EXPECT_TRUE(e.base + e.size <= address_map::kRamHole.base || e.base >= address_map::kRamHole.end());
    EXPECT_TRUE(e.base + e.size <= 0xa0000 || e.base >= 0x100000);
  }
}

TEST(Plan, AppendedTextFollowsTheCommandLine) {
  MachineConfig c = config();
  c.cmdline = "console=ttyS0";
  c.append = "quiet";
  EXPECT_EQ(plan_machine(c, 40).cmdline, "console=ttyS0 quiet");
}

}  // namespace
}  // namespace minivmm
