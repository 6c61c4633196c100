// The block device over both transports: facts 12 and 13, and what each request does.
#include <fstream>

#include "tests/conformance/fake_guest.h"
#include "virtio/device/blk.h"
#include "virtio/device/blk_request.h"
#include "virtio/registry.h"

namespace minivmm::test {
namespace {

using blk::Status;
using virtio::kDescNext;
using virtio::kDescWrite;

constexpr uint64_t kDiskSectors = 2048;
constexpr Gpa kHeader = kBuffers;
constexpr Gpa kData = kBuffers + 0x1000;
constexpr Gpa kStatus = kBuffers + 0x800;

class Blk : public testing::TestWithParam<TransportKind> {
 protected:
  Blk() {
    std::ofstream image(path(), std::ios::binary);
    for (uint64_t sector = 0; sector < kDiskSectors; ++sector) {
      image << std::string(kSectorSize, static_cast<char>('a' + sector % 26));
    }
  }
  std::string path() const { return (folder_.path() / "disk.img").string(); }
  void start(const std::string& settings = {}, uint64_t without = 0) {
    guest_.reset();
    guest_ = std::make_unique<FakeGuest>(GetParam(), make(settings), log_);
    guest_->bring_up(without);
  }
  std::unique_ptr<VirtioDevice> make(const std::string& settings) {
    return create_virtio_blk(path() + settings, {.index = 0, .cpus = 1, .log = log_, .time = time_});
  }
  // Header, data (writable or readable) and status, each in one descriptor.
  std::optional<Status> request(uint32_t type, uint64_t sector, uint32_t len, bool data_writable) {
    EXPECT_TRUE(guest_->memory.store(kHeader, blk::Header{type, 0, sector}));
    EXPECT_TRUE(guest_->memory.store(kStatus, uint8_t{0xff}));
    FakeRing& ring = guest_->rings[0];
    ring.descriptor(0, kHeader, sizeof(blk::Header), kDescNext, len == 0 ? 2 : 1);
    ring.descriptor(1, kData, len, static_cast<uint16_t>(kDescNext | (data_writable ? kDescWrite : 0)), 2);
    ring.descriptor(2, kStatus, 1, kDescWrite);
    const auto used = guest_->submit(0);
    if (!used) return std::nullopt;
    written_ = used->len;
    return static_cast<Status>(*guest_->memory.load<uint8_t>(kStatus));
  }
  std::optional<Status> read(uint64_t sector, uint32_t len = 512) {
    return request(blk::kTypeIn, sector, len, true);
  }
  std::optional<Status> write(uint64_t sector, uint32_t len = 512) {
    return request(blk::kTypeOut, sector, len, false);
  }
  std::optional<Status> range(uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags = 0) {
    EXPECT_TRUE(guest_->memory.store(kData, blk::Segment{sector, sectors, flags}));
    return request(type, 0, sizeof(blk::Segment), false);
  }
  std::string data(uint64_t len = 512) {
    std::string text(len, '\0');
    EXPECT_TRUE(guest_->memory.read(kData, std::as_writable_bytes(std::span(text))));
    return text;
  }
  void set_data(const std::string& text) {
    EXPECT_TRUE(guest_->memory.write(kData, std::as_bytes(std::span(text))));
  }
  std::string on_disk(uint64_t sector) {
    std::ifstream image(path(), std::ios::binary);
    image.seekg(static_cast<std::streamoff>(sector * kSectorSize));
    std::string text(kSectorSize, '\0');
    image.read(text.data(), kSectorSize);
    return text;
  }

  TempFolder folder_;
  Log log_;
  ManualTime time_;
  std::unique_ptr<FakeGuest> guest_;
  uint32_t written_ = 0;
};

TEST_P(Blk, ReadsWhatIsOnTheDisk) {
  start();
  EXPECT_EQ(read(3), Status::ok);
  EXPECT_EQ(written_, 513U);
  EXPECT_EQ(data(), std::string(512, 'd'));
}

TEST_P(Blk, WritesReachTheDiskAndNothingBeside) {
  start();
  set_data(std::string(1024, '!'));
  EXPECT_EQ(write(10, 1024), Status::ok);
  EXPECT_EQ(written_, 1U);
  EXPECT_EQ(request(blk::kTypeFlush, 0, 0, false), Status::ok);
  EXPECT_EQ(on_disk(9), std::string(512, 'j'));
  EXPECT_EQ(on_disk(10), std::string(512, '!'));
  EXPECT_EQ(on_disk(11), std::string(512, '!'));
  EXPECT_EQ(on_disk(12), std::string(512, 'm'));
}

TEST_P(Blk, TheLastSectorCanBeReadAndWritten) {
  start();
  set_data(std::string(512, '$'));
  EXPECT_EQ(write(kDiskSectors - 1), Status::ok);
  EXPECT_EQ(read(kDiskSectors - 1), Status::ok);
  EXPECT_EQ(data(), std::string(512, '$'));
}

TEST_P(Blk, RequestsPastTheEndFailWholeAndChangeNothing) {
  start();
  set_data(std::string(2048, '!'));
  for (const uint64_t sector :
       {kDiskSectors, kDiskSectors - 1, kDiskSectors - 3, ~uint64_t{0}, ~uint64_t{0} >> 9,
        (~uint64_t{0} >> 9) + 1, uint64_t{1} << 55, (uint64_t{1} << 55) - 2}) {
    SCOPED_TRACE(sector);
    EXPECT_EQ(write(sector, 2048), Status::io_error);
    EXPECT_EQ(read(sector, 2048), Status::io_error);
    EXPECT_EQ(written_, 0U);
  }
  EXPECT_EQ(std::filesystem::file_size(path()), kDiskSectors * kSectorSize);
  EXPECT_EQ(on_disk(kDiskSectors - 1), std::string(512, static_cast<char>('a' + (kDiskSectors - 1) % 26)));
}

TEST_P(Blk, LengthsThatAreNoSectorsFail) {
  start();
  for (const uint32_t len : {1U, 511U, 513U}) {
    EXPECT_EQ(read(0, len), Status::io_error);
    EXPECT_EQ(write(0, len), Status::io_error);
  }
}

TEST_P(Blk, DiscardAndWriteZeroesPastTheEndFail) {
  start();
  for (const uint32_t type : {blk::kTypeDiscard, blk::kTypeWriteZeroes}) {
    EXPECT_EQ(range(type, kDiskSectors, 1), Status::io_error);
    EXPECT_EQ(range(type, kDiskSectors - 1, 2), Status::io_error);
    EXPECT_EQ(range(type, ~uint64_t{0}, 2), Status::io_error);
    EXPECT_EQ(range(type, 1, ~uint32_t{0}), Status::io_error);
    EXPECT_EQ(range(type, ~uint64_t{0} - 1, ~uint32_t{0}), Status::io_error);
    EXPECT_EQ(range(type, uint64_t{1} << 55, 1), Status::io_error);
  }
  EXPECT_EQ(on_disk(1), std::string(512, 'b'));
}

TEST_P(Blk, UnknownFlagsOfARangeAreUnsupported) {
  start();
  EXPECT_EQ(range(blk::kTypeDiscard, 0, 1, blk::kSegmentUnmap), Status::unsupported);
  EXPECT_EQ(range(blk::kTypeDiscard, 0, 1, 2), Status::unsupported);
  EXPECT_EQ(range(blk::kTypeWriteZeroes, 0, 1, 0x8000'0000), Status::unsupported);
}

TEST_P(Blk, WriteZeroesLeavesZeroes) {
  start();
  EXPECT_EQ(range(blk::kTypeWriteZeroes, 5, 2), Status::ok);
  EXPECT_EQ(range(blk::kTypeWriteZeroes, 8, 1, blk::kSegmentUnmap), Status::ok);
  EXPECT_EQ(on_disk(4), std::string(512, 'e'));
  EXPECT_EQ(on_disk(5), std::string(512, '\0'));
  EXPECT_EQ(on_disk(6), std::string(512, '\0'));
  EXPECT_EQ(on_disk(7), std::string(512, 'h'));
  EXPECT_EQ(on_disk(8), std::string(512, '\0'));
  EXPECT_EQ(range(blk::kTypeDiscard, 9, 1), Status::ok);
  EXPECT_EQ(on_disk(10), std::string(512, 'k'));
}

TEST_P(Blk, AReadOnlyDiskCannotBeChanged) {
  start(",readonly=on");
  EXPECT_NE(guest_->offered() & virtio::feature_bit(blk::kFeatureReadOnly), 0U);
  set_data(std::string(512, '!'));
  EXPECT_EQ(write(0), Status::io_error);
  EXPECT_EQ(range(blk::kTypeDiscard, 0, 1), Status::io_error);
  EXPECT_EQ(range(blk::kTypeWriteZeroes, 0, 1), Status::io_error);
  EXPECT_EQ(read(0), Status::ok);
  EXPECT_EQ(on_disk(0), std::string(512, 'a'));
}

TEST_P(Blk, TellsItsSerialNumber) {
  start(",serial=twenty-characters-xx");
  EXPECT_EQ(request(blk::kTypeGetId, 0, 20, true), Status::ok);
  EXPECT_EQ(written_, 21U);
  EXPECT_EQ(data(20), "twenty-characters-xx");
  start();
  EXPECT_EQ(request(blk::kTypeGetId, 0, 20, true), Status::ok);
  EXPECT_EQ(data(20), std::string("disk0") + std::string(15, '\0'));
}

TEST_P(Blk, UnknownRequestsAreUnsupported) {
  start();
  for (const uint32_t type : {2U, 3U, 5U, 10U, 14U, 15U, 0x8000'0000U, ~0U}) {
    EXPECT_EQ(request(type, 0, 512, true), Status::unsupported);
  }
}

TEST_P(Blk, AnyLayoutIsUnderstood) {
  start();
  ASSERT_TRUE(guest_->memory.store(kHeader, blk::Header{blk::kTypeIn, 0, 2}));
  FakeRing& ring = guest_->rings[0];
  ring.descriptor(0, kHeader, 3, kDescNext,
                  1);  // the header in two pieces, data in two, the last with status
  ring.descriptor(1, kHeader + 3, 13, kDescNext, 2);
  ring.descriptor(2, kData, 100, kDescWrite | kDescNext, 3);
  ring.descriptor(3, kData + 100, 413, kDescWrite);
  const auto used = guest_->submit(0);
  ASSERT_TRUE(used);
  EXPECT_EQ(used->len, 513U);
  EXPECT_EQ(data(513), std::string(512, 'c') + '\0');

  std::string text = std::string(sizeof(blk::Header), '\0') + std::string(512, '?');
  const blk::Header header{blk::kTypeOut, 0, 7};
  std::memcpy(text.data(), &header, sizeof header);
  set_data(text);  // header and data in one
  ring.descriptor(0, kData, static_cast<uint32_t>(text.size()), kDescNext, 1);
  ring.descriptor(1, kStatus, 1, kDescWrite);
  ASSERT_TRUE(guest_->submit(0));
  EXPECT_EQ(on_disk(7), std::string(512, '?'));
}

TEST_P(Blk, ARequestWithoutRoomForAStatusComesBackEmpty) {
  start();
  ASSERT_TRUE(guest_->memory.store(kHeader, blk::Header{blk::kTypeOut, 0, 0}));
  guest_->rings[0].descriptor(0, kHeader, 16 + 512);
  const auto used = guest_->submit(0);
  ASSERT_TRUE(used);
  EXPECT_EQ(used->len, 0U);
  EXPECT_EQ(on_disk(0), std::string(512, 'a'));
}

TEST_P(Blk, ARequestWithHalfAHeaderFails) {
  start();
  guest_->rings[0].descriptor(0, kHeader, 15, kDescNext, 1);
  guest_->rings[0].descriptor(1, kStatus, 1, kDescWrite);
  ASSERT_TRUE(guest_->memory.store(kStatus, uint8_t{0xff}));
  ASSERT_TRUE(guest_->submit(0));
  EXPECT_EQ(*guest_->memory.load<uint8_t>(kStatus), static_cast<uint8_t>(Status::io_error));
}

TEST_P(Blk, TheConfigurationTellsTheDisksShape) {
  start(",queues=4");
  const auto field = [this](uint64_t offset, size_t width) {
    std::array<std::byte, 8> bytes{};
    guest_->transport->read_config(offset, std::span(bytes).first(width));
    return load_le(bytes);
  };
  EXPECT_EQ(field(0, 4), kDiskSectors);
  EXPECT_EQ(field(4, 4), 0U);
  EXPECT_EQ(field(12, 4), 254U);  // seg_max
  EXPECT_EQ(field(20, 4), 512U);  // blk_size
  EXPECT_EQ(field(34, 2), 4U);    // num_queues
  EXPECT_EQ(field(40, 4), 1U);    // max_discard_seg
  EXPECT_EQ(field(56, 1), 1U);    // write_zeroes_may_unmap
  EXPECT_EQ(guest_->sizes.size(), 4U);
}

TEST_P(Blk, PagesADeviceWroteAreMarkedDirty) {
  start();
  guest_->memory.start_dirty_tracking();
  EXPECT_EQ(read(0), Status::ok);
  bool data_page = false;
  bool ring_page = false;
  guest_->memory.take_dirty([&](Gpa page) {
    data_page |= page == kData;
    ring_page |= page == guest_->rings[0].layout().device;
  });
  EXPECT_TRUE(data_page);
  EXPECT_TRUE(ring_page);
}

TEST_P(Blk, ATailThatIsNoWholeSectorIsLeftAlone) {
  std::ofstream(path(), std::ios::app) << "tail";
  start();
  EXPECT_EQ(read(kDiskSectors), Status::io_error);
  EXPECT_EQ(write(kDiskSectors), Status::io_error);
  EXPECT_EQ(std::filesystem::file_size(path()), kDiskSectors * kSectorSize + 4);
}

TEST_P(Blk, AGuestCannotTurnADiskThatWasGuessedToBeRawIntoAnother) {
  start();
  set_data(std::string("QFI\xfb\0\0\0\3", 8) + std::string(504, '\1'));  // fact 14
  EXPECT_EQ(write(0), Status::io_error);
  EXPECT_EQ(write(1), Status::ok);
  EXPECT_EQ(read(0), Status::ok);
  EXPECT_NE(data(4), "QFI\xfb");
}

TEST_P(Blk, ADiskThatIsSaidToBeRawIsRawWhateverTheGuestWritesIntoIt) {
  start(",format=raw");
  set_data(std::string("QFI\xfb\0\0\0\3", 8) + std::string(504, '\1'));
  EXPECT_EQ(write(0), Status::ok);
  start(",format=raw");
  EXPECT_EQ(read(0), Status::ok);
  EXPECT_EQ(data(4), "QFI\xfb");
}

std::string transport_name(const testing::TestParamInfo<TransportKind>& param) {
  return param.param == TransportKind::pci ? "pci" : "mmio";
}
INSTANTIATE_TEST_SUITE_P(Transports, Blk, testing::Values(TransportKind::pci, TransportKind::mmio),
                         transport_name);

}  // namespace
}  // namespace minivmm::test
