#include "vmm/machine/identity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "tests/temp_folder.h"
#include "vmm/core/error.h"
#include "vmm/machine/credential_string.h"
#include "vmm/machine/plan.h"

namespace minivmm {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;
constexpr const char* kUuid = "7130c94a-213a-4e5a-8e26-6cce9662f132";

MachineConfig machine() {
  MachineConfig config;
  config.kernel = "vmlinuz";
  config.cmdline = "";
  return config;
}

std::vector<std::string> oem_strings(const MachineConfig& config) {
  return plan_smbios(config, {}).oem_strings;
}

template <class Act>
std::string error_of(Act act) {
  try {
    act();
    return "";
  } catch (const HostError& e) {
    return e.what();
  }
}

TEST(Identity, AGivenUuidIsTheMachines) {
  MachineConfig config = machine();
  config.set_uuid(kUuid);
  EXPECT_EQ(uuid_text(machine_uuid(config)), kUuid);
  EXPECT_EQ(uuid_text(plan_smbios(config, {}).uuid), kUuid);
}

TEST(Identity, AUuidThatIsNoneIsRefused) {
  MachineConfig config = machine();
  EXPECT_THROW(config.set_uuid("7130c94a"), ConfigError);
  EXPECT_THROW(config.set_uuid(""), ConfigError);
  for (const char* nobody :
       {"00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"}) {
    config.set_uuid(nobody);
    EXPECT_THROW(check_config(config), ConfigError) << nobody;
  }
}

TEST(Identity, TheNameMakesTheUuidWhateverElseTheMachineHas) {
  MachineConfig a = machine();
  a.name = "web";
  MachineConfig b = a;
  b.kernel = "another";
  b.virtio.push_back({"blk", "disk.img"});
  EXPECT_EQ(machine_uuid(a), machine_uuid(b));
  b.name = "db";
  EXPECT_NE(machine_uuid(a), machine_uuid(b));
}

TEST(Identity, WithoutANameTheFirstDiskMakesIt) {
  MachineConfig a = machine();
  a.virtio.push_back({"rng", "on"});
  a.virtio.push_back({"blk", "disk.img,readonly=on"});
  MachineConfig b = machine();
  b.kernel = "another";
  b.virtio.push_back({"blk", "disk.img"});
  EXPECT_EQ(machine_uuid(a), machine_uuid(b));
  b.virtio[0].spec = "other.img";
  EXPECT_NE(machine_uuid(a), machine_uuid(b));
}

TEST(Identity, AnOverlayThatIsKeptMakesItWhetherItIsThereYetOrNot) {
  const test::TempFolder folder;
  const auto over = [&](const std::string& setting) {
    MachineConfig config = machine();
    config.virtio.push_back({"blk", "base.img,overlay=" + setting});
    return machine_uuid(config);
  };
  const std::string path = folder.path() / "a.qcow2";
  const Uuid before = over(path);
  std::ofstream(path) << "an image";
  EXPECT_EQ(over(path), before);
  EXPECT_NE(over(folder.path() / "b.qcow2"), before);
  MachineConfig bare = machine();
  bare.virtio.push_back({"blk", "base.img"});
  EXPECT_EQ(over("temp"), machine_uuid(bare));
}

TEST(Identity, TheSerialNumberIsTheUuidUnlessItIsGiven) {
  MachineConfig config = machine();
  config.set_uuid(kUuid);
  EXPECT_EQ(plan_smbios(config, {}).serial, kUuid);
  config.serial_number = "ds=nocloud;s=http://10.0.2.2/";
  EXPECT_EQ(plan_smbios(config, {}).serial, "ds=nocloud;s=http://10.0.2.2/");
}

TEST(Identity, CredentialsFollowTheUsersOwnStrings) {
  const test::TempFolder folder;
  const std::string path = folder.path() / "secret";
  std::ofstream(path, std::ios::binary) << std::string("a\0\n", 3);
  MachineConfig config = machine();
  config.oem_strings = {"mine"};
  config.set_credential("passwd.hashed-password.root:$6$x:y");
  config.load_credential("secret:" + path);
  EXPECT_THAT(oem_strings(config),
              ElementsAre("mine", "io.systemd.credential:passwd.hashed-password.root=$6$x:y",
                          "io.systemd.credential.binary:secret=YQAK"));
}

TEST(Identity, ANamedMachineTellsItsHostName) {
  MachineConfig config = machine();
  config.name = "my_web";
  EXPECT_THAT(oem_strings(config), ElementsAre("io.systemd.credential:system.hostname=my-web"));
  config.set_credential("system.hostname:other");
  EXPECT_THAT(oem_strings(config), ElementsAre("io.systemd.credential:system.hostname=other"));
}

TEST(Identity, NonsenseIsAUsageError) {
  const auto refused = [](auto&& spoil) {
    MachineConfig config = machine();
    return !error_of([&] {
              spoil(config);
              check_config(config);
            }).empty();
  };
  EXPECT_FALSE(refused([](MachineConfig&) {}));
  EXPECT_TRUE(refused([](MachineConfig& c) { c.oem_strings = {""}; }));
  EXPECT_TRUE(refused([](MachineConfig& c) { c.oem_strings = {"a\nb"}; }));
  EXPECT_TRUE(refused([](MachineConfig& c) { c.serial_number = "a\x1b"; }));
  EXPECT_TRUE(refused([](MachineConfig& c) { c.name = "a\tb"; }));
  EXPECT_TRUE(refused([](MachineConfig& c) { c.set_credential("no-colon"); }));
  EXPECT_TRUE(refused([](MachineConfig& c) { c.set_credential("name:"); }));
  EXPECT_TRUE(refused([](MachineConfig& c) { c.set_credential(":text"); }));
  EXPECT_TRUE(refused([](MachineConfig& c) { c.set_credential("a/b:text"); }));
  EXPECT_TRUE(refused([](MachineConfig& c) { c.set_credential("..:text"); }));
  EXPECT_TRUE(refused([](MachineConfig& c) { c.set_credential("a=b:text"); }));
  EXPECT_TRUE(refused([](MachineConfig& c) { c.set_credential(std::string(256, 'a') + ":text"); }));
  EXPECT_TRUE(refused([](MachineConfig& c) {
    c.set_credential("a:text");
    c.load_credential("a:path");
  }));
}

TEST(Identity, WhatSmbiosCannotHoldIsRefusedWhenTheMachineIsPlanned) {
  MachineConfig config = machine();
  config.oem_strings = {std::string(70'000, 'x')};
  EXPECT_THAT(error_of([&] { plan_machine(config, 40); }), HasSubstr("room for"));
  config.oem_strings.clear();
  config.load_credential("a:/dev/zero");
  EXPECT_THAT(error_of([&] { plan_machine(config, 40); }), HasSubstr("larger than"));
  config.credentials.back().file = "/nowhere";
  EXPECT_THAT(error_of([&] { plan_machine(config, 40); }),
              HasSubstr("cannot open the credential '/nowhere'"));
}

TEST(Identity, TheProcessorIsTheCpuidTables) {
  const auto text = [](const char* four) {
    uint32_t v = 0;
    std::memcpy(&v, four, sizeof v);
    return v;
  };
  const CpuidTable cpuid({{0, 0, false, 1, text("Genu"), text("ntel"), text("ineI")},
                          {1, 0, false, 0x806f8, 0, 0, 0x1f},
                          {0x8000'0000, 0, false, 0x8000'0004, 0, 0, 0},
                          {0x8000'0002, 0, false, text("  A "), text("CPU "), text("of 3"), text(" GHz")},
                          {0x8000'0003, 0, false, 0, 0, 0, 0},
                          {0x8000'0004, 0, false, 0, 0, 0, 0}},
                         CpuModel::parse("host"), 2);
  const SmbiosConfig::Processor found = smbios_processor(cpuid, 2);
  EXPECT_EQ(found.vendor, "GenuineIntel");
  EXPECT_EQ(found.brand, "A CPU of 3 GHz");
  EXPECT_EQ(found.id & 0xffff'ffff, 0x806f8U);
  EXPECT_EQ(found.cores, 2U);
}

TEST(Credential, ALineOfAsciiIsToldAsItIsAndAllElseInBase64) {
  EXPECT_EQ(credential_string("a", "x=y z"), "io.systemd.credential:a=x=y z");
  EXPECT_EQ(credential_string("a", ""), "io.systemd.credential:a=");
  EXPECT_EQ(credential_string("a", "f\n"), "io.systemd.credential.binary:a=Zgo=");
  EXPECT_EQ(credential_string("a", "\xc3\xa4\xff"), "io.systemd.credential.binary:a=w6T/");
  EXPECT_EQ(credential_string("a", "hell\n"), "io.systemd.credential.binary:a=aGVsbAo=");
}

// With a user's disk, and the other disk that is made.
class SeedPlan : public testing::Test {
 protected:
  void SetUp() override {
    std::ofstream(folder_.path() / "user-data") << "#cloud-config\n";
    std::ofstream(folder_.path() / "disk.img").flush();
    std::filesystem::resize_file(folder_.path() / "disk.img", kMiB);
    config_.cloud_init.parse((folder_.path() / "user-data").string());
  }
  void add_disk() { config_.virtio.push_back({"blk", (folder_.path() / "disk.img").string()}); }

  test::TempFolder folder_;
  MachineConfig config_ = machine();
};

TEST_F(SeedPlan, TheSeedComesBehindTheUsersDevices) {
  add_disk();
  config_.virtio.push_back({"rng", "on"});
  const MachinePlan plan = plan_machine(config_, 40);
  ASSERT_EQ(plan.virtio.size(), 3U);
  EXPECT_EQ(plan.virtio[2].config.type, "blk");
  EXPECT_EQ(plan.virtio[2].index, 1U);
  EXPECT_EQ(plan.virtio[2].slot, 3U);
}

TEST_F(SeedPlan, TheRootIsNotLookedForOnTheSeed) {
  config_.cmdline.reset();
  const MachinePlan plan = plan_machine(config_, 40);
  EXPECT_EQ(plan.virtio.size(), 1U);
  EXPECT_EQ(plan.cmdline.find("root="), std::string::npos) << plan.cmdline;
}

TEST_F(SeedPlan, TheSeedIsADeviceAmongThoseThatHaveRoom) {
  config_.transport = Transport::mmio;
  for (size_t i = 0; i < address_map::kVirtioMmioGsis.size() - 1; ++i)
    config_.virtio.push_back({"rng", "on"});
  EXPECT_NO_THROW(plan_machine(config_, 40));
  config_.virtio.push_back({"rng", "on"});
  EXPECT_THROW(plan_machine(config_, 40), ConfigError);
}

TEST_F(SeedPlan, ADefaultHostNameIsTheDisks) {
  EXPECT_EQ(nocloud_defaults(config_).hostname, "vmlinuz");
  add_disk();
  EXPECT_EQ(nocloud_defaults(config_).hostname, "disk");
  config_.name = "web";
  EXPECT_EQ(nocloud_defaults(config_).hostname, "web");
  EXPECT_EQ(nocloud_defaults(config_).instance_id, uuid_text(machine_uuid(config_)));
}

}  // namespace
}  // namespace minivmm
