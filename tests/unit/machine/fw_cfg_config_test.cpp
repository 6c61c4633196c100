#include "vmm/machine/fw_cfg_config.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <thread>

#include "vmm/core/error.h"
#include "vmm/core/fd.h"
#include "vmm/machine/plan.h"

namespace minivmm {
namespace {

class FwCfgFiles : public testing::Test {
 protected:
  FwCfgFiles() { std::filesystem::create_directories(folder_); }
  ~FwCfgFiles() override { std::filesystem::remove_all(folder_); }
  FwCfgFiles(const FwCfgFiles&) = delete;
  FwCfgFiles& operator=(const FwCfgFiles&) = delete;

  std::string file(const std::string& name, std::string_view text) {
    const auto path = folder_ / name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  std::unique_ptr<FwCfg> make() { return make_fw_cfg(config, memory_, log_); }
  // The file that the device has at place `index` in its directory, up to its first zero byte.
  std::string contents(FwCfg& device, unsigned index) {
    std::array<std::byte, 2> key{};
    store_le(key, kFwCfgFirstFileKey + index);
    EXPECT_EQ(device.write(kFwCfgSelector, key), IoStatus::ok);
    std::string out;
    for (;;) {
      std::array<std::byte, 1> byte{};
      EXPECT_EQ(device.read(kFwCfgData, byte), IoStatus::ok);
      if (byte[0] == std::byte{0}) return out;
      out += static_cast<char>(byte[0]);
    }
  }
  // What is wrong with the configuration; "" for nothing.
  std::string error() {
    try {
      make();
      return "";
    } catch (const HostError& e) {
      return e.what();
    }
  }
  static std::string usage_error(std::string_view spec) {
    MachineConfig c;
    try {
      c.add_fw_cfg(spec);
      fw_cfg_entries(c);
      return "";
    } catch (const ConfigError& e) {
      return e.what();
    }
  }

  std::filesystem::path folder_ = std::filesystem::path(testing::TempDir()) /
                                  ("fw-cfg." + std::to_string(::getpid()) + "." +
                                   testing::UnitTest::GetInstance()->current_test_info()->name());
  MachineConfig config;
  Log log_;
  GuestMemory memory_ = GuestMemory::anonymous({{Gpa{0}, kPageSize}});
};

TEST_F(FwCfgFiles, AreNoneByDefaultAndSoIsTheDevice) {
  EXPECT_EQ(make(), nullptr);
  config.kernel = "vmlinuz";
  config.cmdline = "";
  const auto has_device = [this] {
    const MachinePlan plan = plan_machine(config, 40);
    const bool there = std::ranges::find(plan.devices, "fw-cfg", &PlannedDevice::name) != plan.devices.end();
    EXPECT_EQ(plan_acpi(config, plan).fw_cfg_port.has_value(), there);
    return there;
  };
  EXPECT_FALSE(has_device());
  config.add_fw_cfg("name=opt/a,string=");
  EXPECT_TRUE(has_device());
}

TEST_F(FwCfgFiles, ComeFromPathsAndFromTheCommandLine) {
  config.add_fw_cfg("name=opt/b,file=" + file("b", "from the file"));
  config.add_fw_cfg("opt/a,string=one,, two = three");
  const auto device = make();
  EXPECT_EQ(contents(*device, 0), "one, two = three");
  EXPECT_EQ(contents(*device, 1), "from the file");
}

TEST_F(FwCfgFiles, PublishIgnitionUnderBothItsNames) {
  config.ignition = file("config.ign", " \n{\"ignition\":{\"version\":\"3.3.0\"}}");
  const auto entries = fw_cfg_entries(config);
  ASSERT_EQ(entries.size(), 2U);
  EXPECT_EQ(entries[0].name, "opt/org.flatcar-linux/config");
  EXPECT_EQ(entries[1].name, "opt/com.coreos/config");
  const auto device = make();
  EXPECT_EQ(contents(*device, 0), " \n{\"ignition\":{\"version\":\"3.3.0\"}}");
  EXPECT_EQ(contents(*device, 1), contents(*device, 0));
}

TEST_F(FwCfgFiles, MayComeFromAPipeEvenForTwoNames) {
  const std::string path = folder_ / "pipe";
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  const std::string text = "{" + std::string(200'000, ' ') + "}";
  std::thread writer([&] { std::ofstream(path) << text; });
  config.ignition = path;
  const auto device = make();
  writer.join();
  EXPECT_EQ(contents(*device, 0), text);
  EXPECT_EQ(contents(*device, 1), text);
}

TEST_F(FwCfgFiles, RefuseAnIgnitionConfigThatIsNone) {
  config.ignition = file("config.bu", "variant: flatcar\n");
  EXPECT_NE(error().find("butane"), std::string::npos) << error();
  config.ignition = file("empty", "");
  EXPECT_NE(error().find("butane"), std::string::npos) << error();
}

TEST_F(FwCfgFiles, MustBeThereAndReadable) {
  config.ignition = folder_ / "missing";
  EXPECT_NE(error().find("cannot open the Ignition config '" + config.ignition), std::string::npos)
      << error();
  config.ignition = "";
  config.add_fw_cfg("name=opt/a,file=" + folder_.string());
  EXPECT_NE(error().find("cannot read the fw_cfg file"), std::string::npos) << error();
}

TEST_F(FwCfgFiles, MayBeEmptyOrOfTheLargestSizeButNotLarger) {
  const std::string path = file("f", "");
  config.add_fw_cfg("name=opt/a,file=" + path);
  EXPECT_EQ(error(), "");
  std::filesystem::resize_file(path, kFwCfgLargestFile);
  EXPECT_EQ(error(), "");
  std::filesystem::resize_file(path, kFwCfgLargestFile + 1);
  EXPECT_NE(error().find("larger than 64 MiB"), std::string::npos) << error();
  config.fw_cfg[0].file = "/dev/zero";
  EXPECT_NE(error().find("larger than 64 MiB"), std::string::npos) << error();
}

TEST_F(FwCfgFiles, HaveNamesThatFitAndDiffer) {
  const std::string longest(kFwCfgLongestName, 'n');
  EXPECT_EQ(usage_error("name=" + longest + ",string=x"), "");
  EXPECT_NE(usage_error("name=" + longest + "n,string=x").find("56 characters"), std::string::npos);
  for (const char* name : {"", "opt/\xc3\xa9", "opt/\t", "opt/\x7f"}) {
    EXPECT_NE(usage_error("name=" + std::string(name) + ",string=x"), "") << name;
  }
  config.add_fw_cfg("name=opt/a,string=x");
  config.add_fw_cfg("name=opt/a,string=y");
  EXPECT_NE(error().find("given twice"), std::string::npos) << error();
  config.fw_cfg = {{"opt/com.coreos/config", "", "x"}};
  EXPECT_EQ(error(), "");
  config.ignition = "config.ign";
  EXPECT_NE(error().find("--ignition has it"), std::string::npos) << error();
}

TEST_F(FwCfgFiles, AreNotTooMany) {
  for (size_t i = 0; i < kFwCfgMostFiles; ++i) config.fw_cfg.push_back({"opt/" + std::to_string(i), "", ""});
  EXPECT_EQ(error(), "");
  config.fw_cfg.push_back({"opt/one-more", "", ""});
  EXPECT_NE(error().find("too many"), std::string::npos) << error();
}

TEST_F(FwCfgFiles, HaveEitherAFileOrAString) {
  for (const char* spec :
       {"name=opt/a", "name=opt/a,file=x,string=y", "name=opt/a,file=", "opt/b,name=opt/a,string=x",
        "name=opt/a,string=one,two", "name=opt/a,path=x", ""}) {
    EXPECT_NE(usage_error(spec), "") << spec;
  }
}

}  // namespace
}  // namespace minivmm
