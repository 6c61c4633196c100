#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <thread>

#include "devices/block/nbd/library.h"
#include "devices/block/nbd/nbd_disk.h"
#include "tests/unit/devices/nbd_fixture.h"

namespace minivmm::test {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

class Nbd : public NbdTest {
 protected:
  void SetUp() override {
    ASSERT_TRUE(NbdkitServer::installed()) << "nbdkit is not there; tools/deps build installs it";
  }
};

TEST_F(Nbd, WhatIsWrittenIsRead) {
  const NbdkitServer server({"memory", "16M"});
  const auto disk = NbdDisk::connect(server.uri(), {});
  EXPECT_EQ(disk->capacity(), 16 * kMiB);
  EXPECT_FALSE(disk->read_only());
  EXPECT_TRUE(disk->can_flush());
  ASSERT_TRUE(write(*disk, 512, std::string(4096, 'a')));
  EXPECT_EQ(read(*disk, 0, 1024).value(), std::string(512, '\0') + std::string(512, 'a'));
  ASSERT_TRUE(run(*disk, {.op = BlockOp::write_zeroes, .offset = 1024, .length = 512}));
  EXPECT_EQ(read(*disk, 512, 1536).value(),
            std::string(512, 'a') + std::string(512, '\0') + std::string(512, 'a'));
  EXPECT_TRUE(run(*disk, {.op = BlockOp::discard, .offset = 0, .length = 16 * kMiB}));
  EXPECT_TRUE(flush(*disk));
  EXPECT_EQ(engine_->run(disk->resize(*engine_, kMiB)).error().code, Errc::unsupported);
  EXPECT_TRUE(engine_->run(disk->close(*engine_)));
}

TEST_F(Nbd, ALongRequestInManyPiecesIsWhole) {
  const NbdkitServer server({"memory", "16M"});
  const auto disk = NbdDisk::connect(server.uri(), {});
  std::string bytes(5 * kMiB + 512, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 2654435761U >> 24);
  std::vector<iovec> pieces;
  for (size_t at = 0; at < bytes.size();) {
    const size_t taken = std::min<size_t>(bytes.size() - at, 1 + at % 200'000);
    pieces.push_back({bytes.data() + at, taken});
    at += taken;
  }
  ASSERT_TRUE(run(*disk, {.op = BlockOp::write, .offset = 1536, .length = bytes.size(), .data = pieces}));
  EXPECT_TRUE(read(*disk, 1536, bytes.size()).value() == bytes);
}

TEST_F(Nbd, ManyRequestsAreInFlightAtOnceFromSeveralEngines) {
  const NbdkitServer server({"memory", "16M"});
  const auto disk = NbdDisk::connect(server.uri(), {});
  std::vector<std::jthread> queues;
  queues.reserve(3);
  for (size_t queue = 0; queue < 3; ++queue) {
    queues.emplace_back([&disk, queue] {
      const auto engine = IoEngine::create();
      constexpr size_t kRequests = 64;
      std::array<std::string, kRequests> bytes;
      std::array<iovec, kRequests> pieces{};
      size_t done = 0;
      for (size_t i = 0; i < kRequests; ++i) {
        bytes.at(i).assign(4096, static_cast<char>('a' + queue));
        pieces.at(i) = {bytes.at(i).data(), 4096};
        disk->submit(*engine,
                     {.op = BlockOp::write,
                      .offset = (i * 3 + queue) * 4096,
                      .length = 4096,
                      .data = {&pieces.at(i), 1}},
                     [&done](Result<void> result) { done += result ? 1 : 0; });
      }
      while (done < kRequests) {
        if (engine->poll() == 0) engine->wait();
      }
    });
  }
  queues.clear();
  for (size_t i = 0; i < 192; ++i) {
    ASSERT_EQ(read(*disk, i * 4096, 4096).value(), std::string(4096, static_cast<char>('a' + i % 3))) << i;
  }
}

TEST_F(Nbd, AReadOnlyExportIsAReadOnlyDisk) {
  const NbdkitServer server({"--readonly", "memory", "1M"});
  const auto disk = NbdDisk::connect(server.uri(), {});
  EXPECT_TRUE(disk->read_only());
  EXPECT_EQ(write(*disk, 0, std::string(512, 'a')).error().code, Errc::unsupported);
  EXPECT_EQ(run(*disk, {.op = BlockOp::discard, .length = 512}).error().code, Errc::unsupported);
  EXPECT_EQ(read(*disk, 0, 512).value(), std::string(512, '\0'));
  EXPECT_TRUE(flush(*disk));
}

TEST_F(Nbd, ADiskOpenedReadOnlyIsNotWrittenThoughTheServerWouldLetUs) {
  const NbdkitServer server({"memory", "1M"});
  const auto disk = NbdDisk::connect(server.uri(), {.read_only = true});
  EXPECT_TRUE(disk->read_only());
  EXPECT_EQ(write(*disk, 0, std::string(512, 'a')).error().code, Errc::unsupported);
}

TEST_F(Nbd, HolesAreToldFromData) {
  const NbdkitServer server({"data", "data=@98304 97*65536", "size=1M"});
  for (const bool read_only : {false, true}) {
    const auto disk = NbdDisk::connect(server.uri(), {.read_only = read_only});
    auto state = [&](uint64_t offset) { return extent(*disk, offset, kMiB).value(); };
    EXPECT_EQ(state(0).state, BlockExtent::State::zero);
    EXPECT_EQ(state(0).length, 96 * 1024) << "as a whole: nbdkit's pages are 32 KiB";
    EXPECT_EQ(state(98304).state, BlockExtent::State::data);
    EXPECT_EQ(state(98304 + 512).length, 65536 - 512);
    EXPECT_EQ(state(kMiB - 512).length, 512);
    EXPECT_EQ(extent(*disk, 0, 1024).value().length, 1024);
    EXPECT_EQ(extent(*disk, kMiB, 512).error().code, Errc::out_of_range);
  }
}

TEST_F(Nbd, AServerWithoutAMapHasDataEverywhere) {
  const NbdkitServer server({"--filter=noextents", "memory", "1M"});
  const auto disk = NbdDisk::connect(server.uri(), {});
  EXPECT_EQ(extent(*disk, 0, kMiB).value().state, BlockExtent::State::data);
  EXPECT_EQ(extent(*disk, 0, kMiB).value().length, kMiB);
}

TEST_F(Nbd, AServersBlockSizeIsKeptTo) {
  const NbdkitServer server({"--filter=blocksize-policy", "memory", "1M", "blocksize-minimum=4096",
                             "blocksize-preferred=65536", "blocksize-error-policy=error"});
  const auto disk = NbdDisk::connect(server.uri(), {});
  EXPECT_EQ(disk->geometry().logical_block, 4096);
  EXPECT_EQ(disk->geometry().physical_block, 65536);
  EXPECT_TRUE(write(*disk, 4096, std::string(4096, 'a')));
  EXPECT_EQ(write(*disk, 512, std::string(512, 'a')).error().code, Errc::invalid);
  EXPECT_EQ(read(*disk, 3584, 1024).value(), std::string(512, '\0') + std::string(512, 'a'));
  EXPECT_TRUE(run(*disk, {.op = BlockOp::discard, .offset = 512, .length = 8192})) << "its whole blocks";
  EXPECT_EQ(extent(*disk, 512, 512).value().length, 512);
}

TEST_F(Nbd, WithoutZeroesOnTheServerZeroesAreWritten) {
  const NbdkitServer server({"--filter=nozero", "memory", "4M"});
  const auto disk = NbdDisk::connect(server.uri(), {});
  ASSERT_TRUE(write(*disk, 0, std::string(3 * kMiB, 'a')));
  ASSERT_TRUE(run(*disk, {.op = BlockOp::write_zeroes, .offset = 512, .length = 2 * kMiB}));
  EXPECT_EQ(read(*disk, 0, 3 * kMiB).value(),
            std::string(512, 'a') + std::string(2 * kMiB, '\0') + std::string(kMiB - 512, 'a'));
}

TEST_F(Nbd, AServersErrorsAreTheRequestsErrors) {
  const NbdkitServer full({"--filter=error", "memory", "1M", "error-pwrite=ENOSPC", "error-pwrite-rate=100%",
                           "error-pread=EIO", "error-pread-rate=100%"});
  const auto disk = NbdDisk::connect(full.uri(), {});
  EXPECT_EQ(write(*disk, 0, std::string(512, 'a')).error().code, Errc::no_space);
  EXPECT_EQ(read(*disk, 0, 512).error().code, Errc::io);
  EXPECT_TRUE(flush(*disk)) << "it goes on";
}

// Item 21: a back end that vanishes.
TEST_F(Nbd, RequestsOfAServerThatIsKilledEndWithAnError) {
  NbdkitServer server({"--filter=delay", "memory", "1M", "rdelay=1000"});
  const auto disk = NbdDisk::connect(server.uri(), {});
  std::array<std::string, 4> bytes;
  std::array<iovec, 4> pieces{};
  unsigned failed = 0;
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes.at(i).resize(512);
    pieces.at(i) = {bytes.at(i).data(), 512};
    disk->submit(*engine_,
                 {.op = BlockOp::read, .offset = i * 512, .length = 512, .data = {&pieces.at(i), 1}},
                 [&](Result<void> result) {
                   EXPECT_EQ(result.error().code, Errc::io);
                   ++failed;
                 });
  }
  server.kill();
  while (failed < bytes.size()) {
    if (engine_->poll() == 0) engine_->wait();
  }
  EXPECT_EQ(read(*disk, 0, 512).error().code, Errc::io) << "and so do later ones";
}

TEST_F(Nbd, AServerThatComesBackGoesOn) {
  const TempFolder folder;
  const std::string image = folder.path() / "disk";
  std::ofstream(image) << std::string(kMiB, 'a');
  NbdkitServer server({"file", image});
  const auto disk = NbdDisk::connect(server.uri(), {.reconnect_delay = std::chrono::seconds(60)});
  ASSERT_TRUE(write(*disk, 0, std::string(512, 'b')));
  ASSERT_TRUE(flush(*disk));
  server.kill();
  server.start();
  EXPECT_EQ(read(*disk, 0, 1024).value(), std::string(512, 'b') + std::string(512, 'a'));
  EXPECT_TRUE(write(*disk, 512, std::string(512, 'c')));
  EXPECT_TRUE(flush(*disk)) << "nothing was lost: the first write had been flushed";
}

TEST_F(Nbd, AFlushFailsIfTheServerWasLostWithUnflushedWrites) {
  const TempFolder folder;
  const std::string image = folder.path() / "disk";
  std::ofstream(image) << std::string(kMiB, 'a');
  NbdkitServer server({"file", image});
  const auto disk = NbdDisk::connect(server.uri(), {.reconnect_delay = std::chrono::seconds(60)});
  ASSERT_TRUE(write(*disk, 0, std::string(512, 'b')));
  server.kill();
  server.start();
  EXPECT_TRUE(read(*disk, 0, 512));
  EXPECT_EQ(flush(*disk).error().code, Errc::io);
  EXPECT_EQ(flush(*disk).error().code, Errc::io) << "nobody may believe that it was saved after all";
}

TEST_F(Nbd, AServerThatComesBackWithAnotherDiskIsNotUsed) {
  const TempFolder folder;
  const std::string image = folder.path() / "disk";
  std::ofstream(image) << std::string(kMiB, 'a');
  NbdkitServer server({"file", image});
  const auto disk = NbdDisk::connect(server.uri(), {.reconnect_delay = std::chrono::milliseconds(300)});
  server.kill();
  std::filesystem::resize_file(image, kMiB / 2);
  server.start();
  EXPECT_EQ(read(*disk, 0, 512).error().code, Errc::io);
}

TEST_F(Nbd, AServerThatStoppedDoesNotHoldUpItsEnd) {
  NbdkitServer server({"memory", "1M"});
  auto disk = NbdDisk::connect(server.uri(), {.patience = std::chrono::milliseconds(200)});
  server.stop();
  EXPECT_EQ(read(*disk, 0, 512).error().code, Errc::io);
  EXPECT_EQ(engine_->run(disk->close(*engine_)).error().code, Errc::io);
  disk.reset();
}

TEST_F(Nbd, AServerThatIsNotThereIsToldInOneLine) {
  const std::string what = error_of([] { NbdDisk::connect("nbd+unix:///?socket=/nowhere/nbd", {}); });
  expect_one_line(what, "nbd+unix:///?socket=/nowhere/nbd");
  expect_one_line(what, "No such file");
  expect_one_line(error_of([] { NbdDisk::connect("nbd://[nonsense", {}); }), "nbd://[nonsense");
}

TEST_F(Nbd, AMissingLibraryIsNamedWithItsPackage) {
  expect_one_line(error_of([] { nbd::load_library("libnbd-that-is-not-there.so.0"); }), "libnbd0");
}

}  // namespace
}  // namespace minivmm::test
