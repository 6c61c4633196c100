// The value of --vsock.
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>

#include "tests/unit/virtio/device_spec.h"
#include "virtio/device/vsock.h"
#include "vmm/core/error.h"
#include "vmm/core/run_folder.h"

namespace minivmm::test {
namespace {

class VsockSpec : public DeviceSpec {};

TEST_F(VsockSpec, TakesAnAddressAndAPath) {
  const std::string path = (folder_.path() / "v").string();
  EXPECT_EQ(create_virtio_vsock("off", context()), nullptr);
  const auto device = create_virtio_vsock("cid=77,path=" + path, context());
  EXPECT_EQ(config(*device, 8), 77U);
  EXPECT_TRUE(std::filesystem::is_socket(path));
  for (const char* spec : {"cid=2", "cid=x", "cid=", "cid=4294967295", "cid=-1", "port=3", "perhaps",
                           "cid=3,path=", "vhost=maybe", "path=v,vhost=on"}) {
    EXPECT_THROW(create_virtio_vsock(spec, context()), ConfigError) << spec;
  }
  EXPECT_THROW(create_virtio_vsock("path=" + std::string(100, 'x'), context()), ConfigError);
}

TEST_F(VsockSpec, AddressesMadeUpAreUniqueAndTheirSocketsInTheRunFolder) {
  const char* const before = ::getenv("XDG_RUNTIME_DIR");
  const std::string old = before == nullptr ? "" : before;
  ASSERT_EQ(::setenv("XDG_RUNTIME_DIR", folder_.path().c_str(), 1), 0);
  const auto first = create_virtio_vsock("on", context());
  const auto second = create_virtio_vsock("on", context());
  EXPECT_NE(config(*first, 8), config(*second, 8));
  EXPECT_TRUE(std::filesystem::is_socket(folder_.path() / "minivmm" /
                                         ("vsock-" + std::to_string(config(*first, 8)) + ".sock")));
  // A folder that others could write to is not for sockets.
  ASSERT_EQ(::chmod((folder_.path() / "minivmm").c_str(), 0777), 0);
  EXPECT_THROW(run_folder(), HostError);
  if (before == nullptr) {
    ::unsetenv("XDG_RUNTIME_DIR");
  } else {
    ::setenv("XDG_RUNTIME_DIR", old.c_str(), 1);
  }
}

}  // namespace
}  // namespace minivmm::test
