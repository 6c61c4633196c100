// The value of --balloon.
#include "tests/unit/virtio/device_spec.h"
#include "virtio/device/balloon.h"
#include "vmm/core/error.h"

namespace minivmm::test {
namespace {

class BalloonSpec : public DeviceSpec {};

TEST_F(BalloonSpec, TakesASizeSmallerThanTheGuest) {
  EXPECT_EQ(create_virtio_balloon("off", context()), nullptr);
  EXPECT_EQ(config(*create_virtio_balloon("on", context()), 4), 0U);
  EXPECT_EQ(config(*create_virtio_balloon("size=1M", context()), 4), 256U);
  EXPECT_EQ(create_virtio_balloon("reporting=off", context())->traits().queue_sizes.size(), 3U);
  for (const char* spec : {"size=1G", "size=x", "size=17T", "perhaps", "siz=1M"}) {
    EXPECT_THROW(create_virtio_balloon(spec, context()), ConfigError) << spec;
  }
}

TEST_F(BalloonSpec, HugePagesAreReportedOnlyWhereThatIsAskedFor) {
  CreateContext huge = context();
  huge.host_page = uint64_t{2} << 20;
  const auto queues = [&](const char* spec) {
    return create_virtio_balloon(spec, huge)->traits().queue_sizes.size();
  };
  const size_t reporting = create_virtio_balloon("on", context())->traits().queue_sizes.size();
  EXPECT_EQ(queues("on"), 3U) << "without the reporting queues";
  EXPECT_EQ(queues("reporting=off"), 3U);
  EXPECT_EQ(queues("reporting=on"), reporting);
}

}  // namespace
}  // namespace minivmm::test
