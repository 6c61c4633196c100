// Hostile set-up of every device type: facts 6, 7, 9 and 10.
#include "tests/conformance/every_device.h"

namespace minivmm::test {
namespace {

namespace status = virtio::status;

class HostileSetUp : public EveryDevice {
 protected:
  // The layout is refused, and after a reset all is well.
  void expect_refused(const VirtqueueLayout& layout) {
    auto guest = make_guest();
    guest->negotiate();
    guest->set_up_queue(0, layout);
    EXPECT_FALSE(guest->transport->queue_enabled());
    EXPECT_NE(guest->transport->status() & status::kNeedsReset, 0);
    guest->drive();
    guest->transport->kick(0);
    expect_recovers(*guest);
  }
  static VirtqueueLayout good() { return {64, kRingArea, kRingArea + 0x4000, kRingArea + 0x5000}; }
};

TEST_P(HostileSetUp, QueueSizesThatMakeNoSenseAreRefused) {
  const auto max = make_device()->traits().queue_sizes[0];
  for (const uint32_t size : {0U, 3U, 63U, 2U * max, 0xffffU, 0x8000U}) {
    SCOPED_TRACE(size);
    VirtqueueLayout layout = good();
    layout.size = static_cast<uint16_t>(size);
    expect_refused(layout);
  }
}

TEST_P(HostileSetUp, UnalignedRingsAreRefused) {
  VirtqueueLayout layout = good();
  layout.descriptors = layout.descriptors + 8;
  expect_refused(layout);
  layout = good();
  layout.driver = layout.driver + 1;
  expect_refused(layout);
  layout = good();
  layout.device = layout.device + 2;
  expect_refused(layout);
}

TEST_P(HostileSetUp, OverlappingRingsAreRefused) {
  VirtqueueLayout layout = good();
  layout.driver = layout.descriptors + 16;
  expect_refused(layout);
  layout = good();
  layout.device = layout.driver + 128;
  expect_refused(layout);
  layout = good();
  layout.device = layout.descriptors;
  expect_refused(layout);
}

TEST_P(HostileSetUp, RingsOutsideRamAreRefused) {
  for (const Gpa where :
       {Gpa{kLowSize - 16}, Gpa{kLowSize}, kHighBase + kHighSize, Gpa{~uint64_t{15}}, Gpa{0xd0000000}}) {
    SCOPED_TRACE(value(where));
    VirtqueueLayout layout = good();
    layout.descriptors = where;
    expect_refused(layout);
    layout = good();
    layout.driver = where;
    expect_refused(layout);
    layout = good();
    layout.device = where;
    expect_refused(layout);
  }
}

TEST_P(HostileSetUp, AnEnabledQueueCannotBeMoved) {
  auto guest = make_guest();
  guest->negotiate();
  guest->set_up_queues();
  guest->transport->select_queue(0);
  guest->transport->set_queue_size(3);
  guest->transport->set_queue_address(VirtioTransport::QueuePart::device, kLowSize);
  guest->drive();
  EXPECT_TRUE(guest->alive());
  guest->transport->select_queue(0);
  guest->transport->set_queue_address(VirtioTransport::QueuePart::device, kLowSize);
  EXPECT_TRUE(guest->alive());
}

TEST_P(HostileSetUp, QueuesThatDoNotExistHaveNoSizeAndCannotBeEnabled) {
  auto guest = make_guest();
  guest->negotiate();
  for (const uint16_t queue :
       {static_cast<uint16_t>(guest->sizes.size()), uint16_t{1000}, uint16_t{0xffff}}) {
    guest->transport->select_queue(queue);
    EXPECT_EQ(guest->transport->queue_max(), 0U);
    guest->transport->set_queue_size(8);
    guest->transport->set_queue_address(VirtioTransport::QueuePart::descriptors, 0x10000);
    guest->transport->transport().enable_queue(queue);
    EXPECT_FALSE(guest->transport->queue_enabled());
  }
  expect_recovers(*guest);
}

TEST_P(HostileSetUp, ClearedStatusBitsAreIgnored) {
  auto guest = running_guest();
  guest->transport->set_status(status::kAcknowledge);
  EXPECT_EQ(guest->transport->status(), FakeGuest::kRunning);
  guest->transport->set_status(FakeGuest::kSettled);
  EXPECT_EQ(guest->transport->status(), FakeGuest::kRunning);
  EXPECT_TRUE(guest->alive());
}

TEST_P(HostileSetUp, ADriverCannotClearNeedsReset) {
  auto guest = running_guest();
  guest->transport->transport().needs_reset();
  guest->transport->set_status(FakeGuest::kRunning);
  EXPECT_NE(guest->transport->status() & status::kNeedsReset, 0);
  expect_recovers(*guest);
}

TEST_P(HostileSetUp, FeaturesCannotChangeAfterFeaturesOk) {
  auto guest = make_guest();
  guest->negotiate(virtio::kFeatureIndirectDesc);
  guest->accept(~uint64_t{0});
  guest->set_up_queues();
  guest->drive();
  guest->accept(0);
  guest->ring().descriptor(0, kBuffers, 16, virtio::kDescIndirect);
  const auto used = guest->submit(0);
  ASSERT_TRUE(used);
  EXPECT_EQ(used->len, 0U);  // still without indirect descriptors
  EXPECT_TRUE(guest->alive());
}

TEST_P(HostileSetUp, UnofferedFeaturesAreNotAccepted) {
  auto guest = make_guest();
  for (const uint64_t features :
       {guest->offered() | virtio::feature_bit(62), guest->offered() | virtio::feature_bit(34), ~uint64_t{0},
        uint64_t{0}, guest->offered() & ~virtio::kFeatureVersion1}) {
    SCOPED_TRACE(features);
    guest->transport->set_status(0);
    guest->transport->set_status(status::kAcknowledge | status::kDriver);
    guest->accept(features);
    guest->transport->set_status(FakeGuest::kSettled);
    EXPECT_EQ(guest->transport->status() & status::kFeaturesOk, 0);
    guest->transport->set_status(status::kAcknowledge | status::kDriver | status::kDriverOk);
    EXPECT_EQ(guest->transport->status() & status::kDriverOk, 0);
  }
  expect_recovers(*guest);
}

TEST_P(HostileSetUp, FeatureWordsThatDoNotExistAreZero) {
  auto guest = make_guest();
  EXPECT_EQ(guest->transport->device_features(2), 0U);
  EXPECT_EQ(guest->transport->device_features(~0U), 0U);
  guest->transport->set_driver_features(2, ~0U);
  expect_recovers(*guest);
}

TEST_P(HostileSetUp, AFailedDriverStopsTheDevice) {
  auto guest = running_guest();
  guest->transport->set_status(FakeGuest::kRunning | status::kFailed);
  const auto used = guest->ring().used_index();
  guest->ring().offer(4);
  guest->transport->kick(guest->main);
  guest->transport->notify(guest->main);
  EXPECT_EQ(guest->ring().used_index(), used);
  expect_recovers(*guest);
}

TEST_P(HostileSetUp, AccessesOfEveryWidthAndOffsetAreHarmless) {
  auto guest = make_guest();
  IoDevice& window = guest->transport->window();
  for (const size_t width : {1U, 2U, 4U, 8U}) {
    std::array<std::byte, 8> bytes{};
    for (uint64_t offset = 0; offset + width <= guest->transport->window_size(); ++offset) {
      window.read(offset, std::span(bytes).first(width));
      bytes.fill(std::byte{0xff});
      window.write(offset, std::span(bytes).first(width));
    }
  }
  expect_recovers(*guest);
}

TEST_P(HostileSetUp, AStatusWriteOfTheWrongWidthDoesNothing) {
  auto guest = running_guest();
  const uint64_t offset = pci() ? uint64_t{virtio::pci::kDeviceStatus} : uint64_t{virtio::mmio::kStatus};
  const std::array<std::byte, 8> zeroes{};
  for (const size_t width : {1U, 2U, 4U, 8U}) {
    if (width == (pci() ? 1U : 4U)) continue;
    EXPECT_EQ(guest->transport->window().write(offset, std::span(zeroes).first(width)), IoStatus::bad_access);
  }
  EXPECT_EQ(guest->transport->status(), FakeGuest::kRunning);
  EXPECT_TRUE(guest->alive());
}

TEST_P(HostileSetUp, TheConfigurationSpaceEndsWhereItEnds) {
  auto guest = make_guest();
  std::array<std::byte, 4> bytes{};
  bytes.fill(std::byte{0xaa});
  guest->transport->transport().read_config(guest->transport->transport().traits().config_size, bytes);
  EXPECT_EQ(load_le(bytes), 0U);
  guest->transport->transport().read_config(~uint64_t{0}, bytes);
  EXPECT_EQ(load_le(bytes), 0U);
  guest->transport->transport().write_config(~uint64_t{0} - 1, bytes);
}

TEST_P(HostileSetUp, AnMsixVectorOutOfRangeReadsBackAsNone) {
  if (!pci()) return;  // there are none
  auto guest = make_guest();
  auto& transport = dynamic_cast<FakePci&>(*guest->transport);
  const auto vectors = static_cast<uint32_t>(guest->sizes.size() + 1);
  for (const uint32_t vector : {vectors, 0x7ffU, 0x800U, 0xfffeU, 0xffffU}) {
    transport.common(virtio::pci::kConfigMsixVector, 2, vector);
    EXPECT_EQ(transport.common(virtio::pci::kConfigMsixVector, 2), virtio::pci::kNoVector);
    transport.select_queue(0);
    transport.common(virtio::pci::kQueueMsixVector, 2, vector);
    EXPECT_EQ(transport.common(virtio::pci::kQueueMsixVector, 2), virtio::pci::kNoVector);
  }
  transport.select_queue(0xffff);
  transport.common(virtio::pci::kQueueMsixVector, 2, 0);
  EXPECT_EQ(transport.common(virtio::pci::kQueueMsixVector, 2), virtio::pci::kNoVector);
  expect_recovers(*guest);
}

TEST_P(HostileSetUp, RegistersCanBeReachedThroughPciConfigurationSpace) {
  if (!pci()) return;
  auto guest = make_guest();
  auto& transport = dynamic_cast<FakePci&>(*guest->transport);
  const uint32_t window = transport.pci_cfg_capability();
  transport.config(window + 4, 1, 0);
  transport.config(window + 8, 4, virtio::pci::kDeviceStatus);
  transport.config(window + 12, 4, 1);
  transport.config(window + 16, 1, status::kAcknowledge);
  EXPECT_EQ(transport.status(), status::kAcknowledge);
  EXPECT_EQ(transport.config(window + 16, 1), status::kAcknowledge);
  transport.config(window + 8, 4, virtio::pci::kNumQueues);
  transport.config(window + 12, 4, 2);
  EXPECT_EQ(transport.config(window + 16, 2), guest->sizes.size());
}

TEST_P(HostileSetUp, AConfigurationWindowToNowhereIsHarmless) {
  if (!pci()) return;
  auto guest = make_guest();
  auto& transport = dynamic_cast<FakePci&>(*guest->transport);
  const uint32_t window = transport.pci_cfg_capability();
  for (const uint32_t bar : {0U, 1U, 2U, 3U, 6U, 255U}) {
    for (const uint32_t offset : {0U, 1U, 0x4000U, 0xffff'fffcU, 0xffff'ffffU}) {
      for (const uint32_t length : {0U, 1U, 3U, 4U, 8U, 0xffff'ffffU}) {
        transport.config(window + 4, 1, bar);
        transport.config(window + 8, 4, offset);
        transport.config(window + 12, 4, length);
        transport.config(window + 16, 4, 0);
        transport.config(window + 16, 4);
      }
    }
  }
  expect_recovers(*guest);
}

MV_FOR_EVERY_DEVICE(HostileSetUp);
INSTANTIATE_TEST_SUITE_P(SharedFolder, HostileSetUp,
                         testing::Combine(testing::Values(kSharedFolder),
                                          testing::Values(TransportKind::pci, TransportKind::mmio)),
                         every_device_name);

}  // namespace
}  // namespace minivmm::test
