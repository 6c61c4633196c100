#include "virtio/registry.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <string>

#include "tests/conformance/fake_host.h"
#include "virtio/device/blk.h"
#include "virtio/device/rng.h"
#include "vmm/core/error.h"

namespace minivmm::test {
namespace {

class Registry : public testing::Test {
 protected:
  CreateContext context(unsigned cpus = 1) { return {.index = 0, .cpus = cpus, .log = log_, .time = time_}; }
  // What creating a disk of `spec` throws, else "".
  std::string disk_error(const std::string& spec) {
    try {
      create_virtio_blk(spec, context());
      return "";
    } catch (const HostError& error) {
      return error.what();
    }
  }
  std::string image(uint64_t size = 1 << 20) {
    const auto path = folder_.path() / "x.img";
    std::ofstream(path).flush();
    std::filesystem::resize_file(path, size);
    return path.string();
  }
  TempFolder folder_;
  Log log_;
  ManualTime time_;
};

TEST_F(Registry, NamesAndOptionsAreUnique) {
  std::set<std::string_view> names;
  std::set<std::string_view> options;
  for (const VirtioDeviceType& type : virtio_device_types()) {
    EXPECT_TRUE(names.insert(type.name).second);
    EXPECT_TRUE(options.insert(type.option).second);
    EXPECT_TRUE(type.option.starts_with("--"));
    EXPECT_FALSE(type.help.empty());
  }
}

TEST_F(Registry, DevicesAreNamedByTheirIndex) {
  for (const VirtioDeviceType& type : virtio_device_types()) {
    CreateContext second = context();
    second.index = 1;
    if (type.example_spec == nullptr) continue;
    const auto device = type.create(type.example_spec(folder_.path()), second);
    ASSERT_NE(device, nullptr);
    EXPECT_EQ(device->state_name(), "virtio-" + std::string(type.name) + ".1");
  }
}

TEST_F(Registry, RngCanBeSwitchedOff) {
  EXPECT_EQ(create_virtio_rng("off", context()), nullptr);
  EXPECT_NE(create_virtio_rng("on", context()), nullptr);
  EXPECT_THROW(create_virtio_rng("perhaps", context()), ConfigError);
}

TEST_F(Registry, ADiskHasAQueueForEachCpuUnlessTold) {
  const std::string path = image();
  EXPECT_EQ(create_virtio_blk(path, context(1))->traits().queue_sizes.size(), 1U);
  EXPECT_EQ(create_virtio_blk(path, context(3))->traits().queue_sizes.size(), 3U);
  EXPECT_EQ(create_virtio_blk(path, context(254))->traits().queue_sizes.size(), 8U);
  EXPECT_EQ(create_virtio_blk(path + ",queues=17", context(1))->traits().queue_sizes.size(), 17U);
}

TEST_F(Registry, DiskSpecsThatMakeNoSenseAreConfigErrors) {
  const std::string path = image();
  for (const std::string& spec : {std::string(), std::string("readonly=on"), path + ",queues=0",
                                  path + ",queues=65", path + ",queues=2x", path + ",format=qed",
                                  path + ",serial=123456789012345678901", path + ",colour=red"}) {
    EXPECT_THROW(create_virtio_blk(spec, context()), ConfigError) << spec;
  }
}

TEST_F(Registry, DisksThatCannotBeUsedSayWhy) {
  EXPECT_NE(disk_error((folder_.path() / "none.img").string()).find("No such file"), std::string::npos);
  EXPECT_NE(disk_error(folder_.path().string() + ",readonly=on").find("a directory"), std::string::npos);
  EXPECT_NE(disk_error(folder_.path().string()).find("directory"), std::string::npos);
  EXPECT_NE(disk_error("/dev/null").find("not a file"), std::string::npos);
  EXPECT_NE(disk_error(image(511)).find("511 bytes"), std::string::npos);
}

TEST_F(Registry, ADiskInUseIsRefusedByName) {
  const std::string path = image();
  const auto first = create_virtio_blk(path, context());
  for (const char* settings : {"", ",readonly=on"}) {
    const std::string error = disk_error(path + settings);
    EXPECT_NE(error.find(path), std::string::npos) << error;
    EXPECT_NE(error.find("in use by another VM or program"), std::string::npos) << error;
  }
}

}  // namespace
}  // namespace minivmm::test
