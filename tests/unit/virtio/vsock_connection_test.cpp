// One connection of a socket device, and a program of the host at its other end.
#include "virtio/device/vsock_connection.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/virtio/vsock_rig.h"

namespace minivmm::test {
namespace {

class VsockConnectionTest : public testing::Test {
 protected:
  VsockConnectionTest() {
    FakeVsockHost host;
    host.listening.insert(52);
    auto ours = host.connect(52);
    MV_CHECK(ours);
    program_ = std::move(host.arrived.front());
    connection_ = std::make_unique<VsockConnection>(1, std::move(*ours));
    connection_->accept({.guest = 1000, .host = 52});
  }
  // What the guest is told: how much has gone to the host.
  uint32_t forwarded() {
    connection_->credit_requested();
    vsock::Header header{};
    EXPECT_TRUE(connection_->next_packet(header, {}));
    return header.fwd_cnt;
  }
  // How many bytes the program has read.
  size_t read(size_t most) {
    std::array<char, 4096> buffer{};
    return static_cast<size_t>(
        std::max<ssize_t>(::read(program_.get(), buffer.data(), std::min(most, buffer.size())), 0));
  }
  bool send(std::string& data) {
    const iovec piece{data.data(), data.size()};
    return connection_->receive(std::span(&piece, 1));
  }

  UniqueFd program_;
  std::unique_ptr<VsockConnection> connection_;
};

TEST_F(VsockConnectionTest, AReaderThatIsAlwaysBehindCostsNoMoreMemoryInTime) {
  constexpr uint64_t kAll = uint64_t{100} << 20;
  std::string data(4096, 'x');
  uint64_t sent = 0;
  uint64_t read_so_far = 0;
  size_t most = 0;
  while (read_so_far < kAll) {
    // The guest uses all the credit it is given, so that something is always left.
    while (static_cast<uint32_t>(sent) - forwarded() <= VsockConnection::kBufAlloc - data.size()) {
      ASSERT_TRUE(send(data));
      sent += data.size();
    }
    const size_t n = read(4096);
    ASSERT_GT(n, 0U);
    read_so_far += n;
    connection_->on_events(EPOLLOUT);
    most = std::max(most, connection_->kept_capacity());
  }
  EXPECT_GT(most, 0U);
  EXPECT_LE(most, VsockConnection::kMostKept);
}

}  // namespace
}  // namespace minivmm::test
