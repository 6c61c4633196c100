// A driver that kicks only when it is asked to, and sleeps whenever nothing is used, as Linux's does
// (virtio 1.2, 2.7.7 and 2.7.10): no request of it may stay unseen, nor its end untold, whatever the page
// cache has.
#include <fcntl.h>
#include <gtest/gtest.h>

#include <random>

#include "devices/block/disk_set.h"
#include "tests/conformance/fake_guest.h"
#include "tests/temp_folder.h"
#include "virtio/device/blk.h"
#include "virtio/device/blk_request.h"

namespace minivmm::test {
namespace {

constexpr uint64_t kDiskSize = 8 << 20;

class BlkNotifications : public testing::TestWithParam<TransportKind> {
 protected:
  BlkNotifications() {
    file_ = UniqueFd(::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    std::vector<char> data(kDiskSize, 'd');
    EXPECT_EQ(::pwrite(file_.get(), data.data(), data.size(), 0), static_cast<ssize_t>(data.size()));
    EXPECT_EQ(::fsync(file_.get()), 0);
    ManualTime time;
    guest_.emplace(GetParam(), create_virtio_blk(path_ + ",format=raw", {.log = log_, .time = time}), log_);
    guest_->bring_up();
  }

  // One read of 4 KiB; false when it was never told to have ended.
  bool read_once(uint64_t sector) {
    FakeRing& ring = guest_->rings[0];
    struct Header {
      uint32_t type = 0;
      uint32_t reserved = 0;
      uint64_t sector = 0;
    };
    EXPECT_TRUE(guest_->memory.store(kBuffers, Header{.sector = sector}));
    ring.descriptor(0, kBuffers, sizeof(Header), virtio::kDescNext, 1);
    ring.descriptor(1, kBuffers + 0x1000, 4096, virtio::kDescWrite | virtio::kDescNext, 2);
    ring.descriptor(2, kBuffers + 0x100, 1, virtio::kDescWrite);
    const auto before = ring.avail_index();
    const auto after = static_cast<uint16_t>(before + 1);
    const uint64_t seen = guest_->transport->queue_interrupts(0).count();
    ring.set_used_event(ring.used_index());
    ring.offer(0);
    // Between its index and the look at avail_event a driver has a full barrier (2.7.13.4.1). The ring's
    // accesses are sequentially consistent, which is as much, and what TSan knows: it knows no fences.
    if (static_cast<uint16_t>(after - ring.avail_event() - 1) < static_cast<uint16_t>(after - before)) {
      guest_->transport->kick(0);
    }
    return ring.used_index() == after || guest_->transport->queue_interrupts(0).wait_past(seen);
  }

  TempFolder folder_;
  std::string path_ = (folder_.path() / "disk.raw").string();
  UniqueFd file_;
  Log log_{LogLevel::error, [](LogLevel, std::string_view) {}};
  std::optional<FakeGuest> guest_;
};

TEST_P(BlkNotifications, ReachBothSidesWithOneRequestAtATime) {
  const char* given = std::getenv("MINIVMM_LONG_NOTIFICATIONS");
  const unsigned count = given != nullptr ? static_cast<unsigned>(std::atoi(given)) : 5'000;
  std::mt19937 random(1);
  for (unsigned i = 0; i < count; ++i) {
    // Now and then what the page cache has not: the read then ends on the engine's own time.
    if (random() % 64 == 0) ::posix_fadvise(file_.get(), 0, 0, POSIX_FADV_DONTNEED);
    // Sometimes the driver is slower than the worker's patience.
    for (uint64_t pause = random() % 16 == 0 ? random() % 20'000 : 0; pause > 0; --pause) asm volatile("");
    ASSERT_TRUE(read_once(random() % (kDiskSize / 4096) * 8)) << "request " << i;
    while (guest_->rings[0].used_index() != guest_->rings[0].avail_index())
      ASSERT_TRUE(guest_->wait_used(0, guest_->rings[0].avail_index()));
  }
}

INSTANTIATE_TEST_SUITE_P(Transports, BlkNotifications,
                         testing::Values(TransportKind::pci, TransportKind::mmio), [](const auto& param) {
                           return param.param == TransportKind::pci ? "pci" : "mmio";
                         });

}  // namespace
}  // namespace minivmm::test
