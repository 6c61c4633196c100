// A share with the virtiofsd that is installed here, spoken to in FUSE (linux/fuse.h) as a guest's driver
// does.
#include "virtio/device/fs_daemon.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/fuse.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/conformance/fake_guest.h"
#include "tests/temp_folder.h"
#include "virtio/device/fs.h"

namespace minivmm::test {
namespace {

class ShareDaemonTest : public testing::Test {
 protected:
  void SetUp() override {
    if (find_virtiofsd().empty()) GTEST_SKIP() << "virtiofsd is not installed";
    // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing else runs yet
    if (std::system("unshare --user --map-root-user --mount true 2>/dev/null") != 0)
      GTEST_SKIP() << "no namespaces may be made here";
  }
  // A guest that has the folder, past FUSE_INIT.
  void share(const std::string& suffix) {
    auto device = create_virtio_fs((folder_.path() / "shared").string() + ":work" + suffix,
                                   {.index = 0, .cpus = 1, .log = log_, .time = time_});
    guest_ = std::make_unique<FakeGuest>(TransportKind::pci, std::move(device), log_, true);
    guest_->bring_up();
    fuse_init_in init{};
    init.major = FUSE_KERNEL_VERSION;
    init.minor = 31;
    init.max_readahead = 4096;
    ASSERT_EQ(ask(FUSE_INIT, &init, 16), 0);  // without what later versions added
  }
  // The answer's error, 0 or a negative errno value.
  int ask(uint32_t opcode, const void* arguments, size_t size) {
    std::vector<std::byte> request(sizeof(fuse_in_header) + size);
    fuse_in_header header{};
    header.len = static_cast<uint32_t>(request.size());
    header.opcode = opcode;
    header.unique = ++unique_;
    header.nodeid = FUSE_ROOT_ID;
    header.uid = header.gid = 0;
    std::memcpy(request.data(), &header, sizeof header);
    std::memcpy(&request[sizeof header], arguments, size);
    EXPECT_TRUE(guest_->memory.write(kBuffers, request));
    FakeRing& ring = guest_->rings[1];
    ring.descriptor(0, kBuffers, static_cast<uint32_t>(request.size()), virtio::kDescNext, 1);
    ring.descriptor(1, kBuffers + 0x1000, 4096, virtio::kDescWrite);
    if (!guest_->submit(0, 1)) return -ETIMEDOUT;
    const auto answer = guest_->memory.load<fuse_out_header>(kBuffers + 0x1000);
    EXPECT_EQ(answer->unique, unique_);
    return answer->error;
  }
  int make_folder(const std::string& name) {
    std::vector<std::byte> arguments(sizeof(fuse_mkdir_in) + name.size() + 1);
    const fuse_mkdir_in in{.mode = 0755, .umask = 0};
    std::memcpy(arguments.data(), &in, sizeof in);
    std::memcpy(&arguments[sizeof in], name.c_str(), name.size() + 1);
    return ask(FUSE_MKDIR, arguments.data(), arguments.size());
  }
  std::string refusal(const ShareSpec& share) {
    try {
      const ShareDaemon daemon(share);
      return "";
    } catch (const HostError& error) {
      return error.what();
    }
  }
  std::filesystem::path shared() const { return folder_.path() / "shared"; }

  TempFolder folder_;
  Log log_;
  ManualTime time_;
  std::unique_ptr<FakeGuest> guest_;
  uint64_t unique_ = 0;

 private:
  bool made_ = std::filesystem::create_directory(folder_.path() / "shared");
};

TEST_F(ShareDaemonTest, WhatTheGuestMakesIsThereOnTheHost) {
  share("");
  EXPECT_EQ(make_folder("new"), 0);
  EXPECT_TRUE(std::filesystem::is_directory(shared() / "new"));
}

TEST_F(ShareDaemonTest, AReadOnlyShareIsSoWhateverTheGuestAsks) {
  share(":ro");
  EXPECT_EQ(make_folder("new"), -EROFS);
  EXPECT_TRUE(std::filesystem::is_empty(shared()));
  std::filesystem::create_directory(shared() / "from-the-host");
  const std::string name = "from-the-host";
  EXPECT_EQ(ask(FUSE_LOOKUP, name.c_str(), name.size() + 1), 0);
  EXPECT_EQ(ask(FUSE_RMDIR, name.c_str(), name.size() + 1), -EROFS);
}

TEST_F(ShareDaemonTest, TheGuestCannotLeaveTheFolder) {
  std::ofstream(folder_.path() / "secret") << "x";
  share("");
  EXPECT_LT(ask(FUSE_LOOKUP, "../secret", sizeof "../secret"), 0);
  std::filesystem::create_symlink(folder_.path(), shared() / "out");
  // A link is the guest's to follow, in its own names.
  EXPECT_EQ(ask(FUSE_LOOKUP, "out", sizeof "out"), 0);
  EXPECT_LT(ask(FUSE_LOOKUP, "out/secret", sizeof "out/secret"), 0);
}

TEST_F(ShareDaemonTest, ARequestThatMakesNoSenseCostsTheGuestItsShareAtMost) {
  share("");
  guest_->probe_chain(4, 1);
  guest_->rings[1].offer(4);
  guest_->transport->kick(1);
  // It may be answered, or the daemon ends; either way the machine goes on.
  guest_->transport->transport().pause();
  guest_->transport->transport().resume();
  guest_->transport->set_status(0);
  EXPECT_EQ(guest_->transport->status(), 0);
}

TEST_F(ShareDaemonTest, SaysInOneLineWhatCannotBeShared) {
  EXPECT_THAT(refusal({.folder = "/no/such/folder", .tag = "t"}),
              testing::HasSubstr("cannot share /no/such"));
  EXPECT_THAT(refusal({.folder = "/etc/passwd", .tag = "t"}), testing::HasSubstr("name a folder"));
  EXPECT_THAT(refusal({.folder = "/", .tag = "t", .read_only = true}), testing::HasSubstr("a folder of it"));
  const auto comma = folder_.path() / "a,b";
  std::filesystem::create_directory(comma);
  EXPECT_THAT(refusal({.folder = comma.string(), .tag = "t"}), testing::HasSubstr("comma"));
}

}  // namespace
}  // namespace minivmm::test
