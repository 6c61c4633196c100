// The value of --console.
#include "virtio/device/console_spec.h"

#include "tests/unit/virtio/device_spec.h"
#include "virtio/device/console.h"
#include "vmm/core/error.h"

namespace minivmm::test {
namespace {

class ConsoleSpec : public DeviceSpec {};

TEST_F(ConsoleSpec, AConsoleSaysWhereItIsAndAPortItsName) {
  auto ports = parse_console_specs("stdio");
  ASSERT_EQ(ports.size(), 1U);
  EXPECT_EQ(ports[0].where, "stdio");
  EXPECT_EQ(ports[0].name, "");
  ports = parse_console_specs("name=org.example.agent,socket=/a,,b\nfile:/c,name=log");
  ASSERT_EQ(ports.size(), 2U);
  EXPECT_EQ(ports[0].where, "socket:/a,b");
  EXPECT_EQ(ports[0].name, "org.example.agent");
  EXPECT_EQ(ports[1].where, "file:/c");
  for (const char* spec : {"", "name=x", "pty,socket=/a", "socket=/a,file=/b", "null,name=", "null,name=a/b",
                           "null,name=a b", "null,name=..", "null,colour=red"}) {
    EXPECT_THROW(parse_console_specs(spec), ConfigError) << spec;
  }
}

TEST_F(ConsoleSpec, PortsWithNamesShareADeviceAndConsolesDoNot) {
  EXPECT_TRUE(joins_virtio_console("null,name=a"));
  EXPECT_FALSE(joins_virtio_console("pty"));
  EXPECT_FALSE(joins_virtio_console("off"));
  EXPECT_EQ(create_virtio_console("null", context())->traits().queue_sizes.size(), 2U);
  EXPECT_EQ(create_virtio_console("null,name=a\nnull,name=b", context())->traits().queue_sizes.size(), 6U);
  EXPECT_THROW(create_virtio_console("null,name=a\nnull,name=a", context()), ConfigError);
  EXPECT_THROW(create_virtio_console("pty", context()), ConfigError);  // nobody here can make one
}

}  // namespace
}  // namespace minivmm::test
