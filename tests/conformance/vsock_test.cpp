// The socket device as its driver and the host's programs see it: real Unix sockets, and a guest of rings
// only.
#include "virtio/device/vsock.h"

#include <gmock/gmock.h>
#include <poll.h>
#include <sys/socket.h>

#include <thread>

#include "tests/conformance/fake_guest.h"
#include "vmm/core/unix_socket.h"

namespace minivmm::test {
namespace {

using vsock::Header;
using vsock::Op;

constexpr uint16_t kReceive = 0;
constexpr uint16_t kTransmit = 1;
constexpr uint16_t kEvent = 2;
constexpr uint64_t kCid = 7;
constexpr uint32_t kBufferSize = 1024;
constexpr unsigned kBuffersOffered = 16;

class VsockDevice : public testing::TestWithParam<TransportKind> {
 protected:
  struct Packet {
    Header header{};
    std::string data;
  };
  std::string path() const { return (folder_.path() / "vm.sock").string(); }
  std::unique_ptr<FakeGuest> make(bool keep_cid = false, uint64_t cid = kCid) {
    auto device = std::make_unique<VirtioVsock>(
        std::make_unique<UnixVsockHost>(path()),
        VirtioVsock::Options{.index = 0, .cid = cid, .keep_cid = keep_cid}, log_);
    return std::make_unique<FakeGuest>(GetParam(), std::move(device), log_);
  }
  void start() {
    guest_ = make();
    guest_->bring_up();
    offer_receive_buffers();
  }
  void offer_receive_buffers() {
    seen_ = guest_->rings[kReceive].used_index();
    for (uint16_t head = 0; head < kBuffersOffered; ++head) offer_receive(head);
    guest_->transport->kick(kReceive);
  }
  void offer_receive(uint16_t head) {
    guest_->rings[kReceive].descriptor(head, kHighBase + uint64_t{head} * kBufferSize, kBufferSize,
                                       virtio::kDescWrite);
    guest_->rings[kReceive].offer(head);
  }
  // The next packet for the guest; its buffer is offered again.
  std::optional<Packet> receive() {
    FakeRing& ring = guest_->rings[kReceive];
    while (ring.used_index() == seen_) {
      const uint64_t interrupts = guest_->transport->queue_interrupts(kReceive).count();
      ring.set_used_event(seen_);
      if (ring.used_index() != seen_) break;
      if (!guest_->transport->queue_interrupts(kReceive).wait_past(interrupts)) return std::nullopt;
    }
    const auto used = guest_->rings[kReceive].used(seen_++);
    const Gpa at = kHighBase + uint64_t{used.id} * kBufferSize;
    Packet packet{.header = *guest_->memory.load<Header>(at), .data = {}};
    packet.data.resize(packet.header.len);
    EXPECT_EQ(used.len, sizeof(Header) + packet.header.len);
    EXPECT_TRUE(guest_->memory.read(at + sizeof(Header), std::as_writable_bytes(std::span(packet.data))));
    offer_receive(static_cast<uint16_t>(used.id));
    guest_->transport->kick(kReceive);
    return packet;
  }
  Op receive_op() {
    const auto packet = receive();
    return packet ? static_cast<Op>(packet->header.op) : Op::invalid;
  }
  bool send(Op op, uint32_t guest_port, uint32_t host_port, std::string_view data = {},
            uint32_t claimed = ~0U) {
    const Header header{.src_cid = kCid,
                        .dst_cid = vsock::kHostCid,
                        .src_port = guest_port,
                        .dst_port = host_port,
                        .len = claimed == ~0U ? static_cast<uint32_t>(data.size()) : claimed,
                        .type = vsock::kTypeStream,
                        .op = static_cast<uint16_t>(op),
                        .flags = 0,
                        .buf_alloc = 1U << 20,
                        .fwd_cnt = forwarded_};
    EXPECT_TRUE(guest_->memory.store(kBuffers, header));
    EXPECT_TRUE(guest_->memory.write(kBuffers + 0x100, std::as_bytes(std::span(data))));
    guest_->rings[kTransmit].descriptor(0, kBuffers, sizeof header, virtio::kDescNext, 1);
    guest_->rings[kTransmit].descriptor(1, kBuffers + 0x100, static_cast<uint32_t>(data.size()));
    return guest_->submit(0, kTransmit).has_value();
  }
  // What a program of the host reads, which has to come within the deadline.
  static std::string read_some(int fd, size_t size) {
    std::string out;
    while (out.size() < size) {
      pollfd readable{fd, POLLIN, 0};
      if (::poll(&readable, 1, static_cast<int>(std::chrono::milliseconds(kDeadline).count())) != 1) break;
      std::string part(size - out.size(), '\0');
      const ssize_t n = ::read(fd, part.data(), part.size());
      if (n <= 0) break;
      out.append(part, 0, static_cast<size_t>(n));
    }
    return out;
  }
  static bool ended(int fd) {
    pollfd readable{fd, POLLIN, 0};
    char c = 0;
    return ::poll(&readable, 1, static_cast<int>(std::chrono::milliseconds(kDeadline).count())) == 1 &&
           ::read(fd, &c, 1) <= 0;
  }
  // A program of the host connects to the guest's `port`, and the guest accepts; the host's port.
  uint32_t accept_from_host(const UniqueFd& client, uint32_t port) {
    const std::string greeting = "CONNECT " + std::to_string(port) + "\n";
    EXPECT_EQ(::send(client.get(), greeting.data(), greeting.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(greeting.size()));
    const auto request = receive();
    if (!request || request->header.op != static_cast<uint16_t>(Op::request)) return 0;
    EXPECT_EQ(request->header.dst_port, port);
    EXPECT_TRUE(send(Op::response, port, request->header.src_port));
    const std::string answer = "OK " + std::to_string(request->header.src_port) + "\n";
    EXPECT_EQ(read_some(client.get(), answer.size()), answer);
    return request->header.src_port;
  }
  static std::vector<std::byte> saved(const StateUnit& unit) {
    StateWriter writer;
    unit.save(writer);
    return {writer.data().begin(), writer.data().end()};
  }
  uint64_t cid(FakeGuest& guest) {
    std::array<std::byte, 8> bytes{};
    guest.transport->read_config(0, bytes);
    return load_le(bytes);
  }

  TempFolder folder_;
  std::atomic<unsigned> faults_{0};
  Log log_{LogLevel::debug, [this](LogLevel, std::string_view) { ++faults_; }};
  std::unique_ptr<FakeGuest> guest_;
  uint16_t seen_ = 0;
  uint32_t forwarded_ = 0;
};

TEST_P(VsockDevice, TheGuestReadsItsAddress) {
  guest_ = make();
  EXPECT_EQ(cid(*guest_), kCid);
}

TEST_P(VsockDevice, AHostProgramTalksToTheGuest) {
  start();
  auto client = connect_to_unix_socket(path());
  ASSERT_TRUE(client);
  const uint32_t port = accept_from_host(*client, 1234);
  ASSERT_NE(port, 0U);
  ASSERT_EQ(::send(client->get(), "ping", 4, MSG_NOSIGNAL), 4);
  const auto packet = receive();
  ASSERT_TRUE(packet);
  EXPECT_EQ(packet->data, "ping");
  ASSERT_TRUE(send(Op::rw, 1234, port, "pong"));
  EXPECT_EQ(read_some(client->get(), 4), "pong");
  client->reset();
  EXPECT_EQ(receive_op(), Op::shutdown);
}

TEST_P(VsockDevice, TheGuestTalksToAHostProgram) {
  start();
  const UnixListener service = listen_on_unix_socket(path() + "_80", "test", 4);
  ASSERT_TRUE(send(Op::request, 5, 80));
  EXPECT_EQ(receive_op(), Op::response);
  const UniqueFd end(::accept(service.get(), nullptr, nullptr));
  ASSERT_TRUE(end);
  ASSERT_TRUE(send(Op::rw, 5, 80, "request"));
  EXPECT_EQ(read_some(end.get(), 7), "request");
  const std::string much(100'000, 'y');
  std::thread writer([&] {
    for (size_t done = 0; done < much.size();) {
      const ssize_t n = ::send(end.get(), much.data() + done, much.size() - done, MSG_NOSIGNAL);
      if (n <= 0) return;
      done += static_cast<size_t>(n);
    }
  });
  std::string got;
  while (got.size() < much.size()) {
    const auto packet = receive();
    if (!packet) break;
    got += packet->data;
  }
  writer.join();
  EXPECT_EQ(got, much);
  EXPECT_TRUE(send(Op::request, 6, 81));
  EXPECT_EQ(receive_op(), Op::rst);
}

TEST_P(VsockDevice, PacketsShorterThanTheySayAreDropped) {
  start();
  for (const uint32_t claimed : {4U, 4096U, 0x7fff'ffffU, 0xffff'fffeU}) {
    const unsigned before = faults_;
    EXPECT_TRUE(send(Op::rw, 1, 2, "abc", claimed));
    EXPECT_GT(faults_, before);
  }
  guest_->rings[kTransmit].descriptor(0, kBuffers, sizeof(Header) - 1);
  EXPECT_TRUE(guest_->submit(0, kTransmit));
  EXPECT_EQ(guest_->rings[kReceive].used_index(), seen_);
  EXPECT_TRUE(guest_->alive());
}

TEST_P(VsockDevice, ReceiveBuffersTooSmallForAPacketComeBackEmpty) {
  guest_ = make();
  guest_->bring_up();
  for (uint16_t head = 0; head < 3; ++head) {
    guest_->rings[kReceive].descriptor(head, kHighBase, head == 0 ? 1 : sizeof(Header), virtio::kDescWrite);
    guest_->rings[kReceive].offer(head);
  }
  ASSERT_TRUE(send(Op::request, 5, 80));
  ASSERT_TRUE(guest_->wait_used(kReceive, 3));
  for (uint16_t i = 0; i < 3; ++i) EXPECT_EQ(guest_->rings[kReceive].used(i).len, 0U);
  offer_receive_buffers();
  EXPECT_EQ(receive_op(), Op::rst);
}

TEST_P(VsockDevice, AResetEndsEveryConnection) {
  start();
  auto client = connect_to_unix_socket(path());
  ASSERT_TRUE(client);
  ASSERT_NE(accept_from_host(*client, 1234), 0U);
  guest_->transport->set_status(0);
  EXPECT_TRUE(ended(client->get()));
}

TEST_P(VsockDevice, APauseKeepsConnections) {
  start();
  auto client = connect_to_unix_socket(path());
  ASSERT_TRUE(client);
  ASSERT_NE(accept_from_host(*client, 1234), 0U);
  guest_->transport->transport().pause();
  ASSERT_EQ(::send(client->get(), "late", 4, MSG_NOSIGNAL), 4);
  guest_->transport->transport().resume();
  const auto packet = receive();
  ASSERT_TRUE(packet);
  EXPECT_EQ(packet->data, "late");
}

TEST_P(VsockDevice, ARestoredGuestIsToldThatItsConnectionsAreGone) {
  start();
  auto client = connect_to_unix_socket(path());
  ASSERT_TRUE(client);
  ASSERT_NE(accept_from_host(*client, 1234), 0U);
  guest_->rings[kEvent].descriptor(0, kBuffers + 0x2000, 4, virtio::kDescWrite);
  guest_->rings[kEvent].offer(0);
  guest_->transport->kick(kEvent);
  guest_->transport->transport().pause();
  ASSERT_TRUE(guest_->memory.store(kBuffers + 0x2000, ~uint32_t{0}));
  auto& device = guest_->transport->transport().device();
  const auto data = saved(device);
  auto reader = StateReader::parse(data);
  ASSERT_TRUE(reader && device.load(*reader));
  EXPECT_TRUE(ended(client->get()));
  guest_->transport->transport().resume();
  ASSERT_TRUE(guest_->wait_used(kEvent, 1));
  EXPECT_EQ(guest_->rings[kEvent].used(0).len, 4U);
  EXPECT_EQ(*guest_->memory.load<uint32_t>(kBuffers + 0x2000), vsock::kEventTransportReset);
  EXPECT_TRUE(guest_->alive());
}

TEST_P(VsockDevice, ARestoredGuestKeepsItsAddressUnlessToldAnother) {
  guest_ = make();
  const auto data = saved(guest_->transport->transport().device());
  guest_.reset();
  for (const bool keep : {false, true}) {
    auto other = make(keep, 9);
    auto reader = StateReader::parse(data);
    ASSERT_TRUE(reader && other->transport->transport().device().load(*reader));
    EXPECT_EQ(cid(*other), keep ? 9U : kCid);
  }
}

TEST_P(VsockDevice, StopsAndStartsUnderTraffic) {
  start();
  const UnixListener service = listen_on_unix_socket(path() + "_80", "test", 64);
  std::atomic<bool> stop{false};
  std::thread host([&] {
    std::vector<UniqueFd> ends;
    while (!stop) {
      auto client = connect_to_unix_socket(path());
      if (client) ::send(client->get(), "CONNECT 1\nhello", 15, MSG_NOSIGNAL);
      UniqueFd end(::accept(service.get(), nullptr, nullptr));
      if (end) ::send(end.get(), "hello", 5, MSG_NOSIGNAL);
      if (end) ends.push_back(std::move(end));
      if (ends.size() > 8) ends.clear();
      std::this_thread::yield();
    }
  });
  for (uint32_t round = 0; round < 40; ++round) {
    EXPECT_TRUE(send(Op::request, 100 + round, 80));
    EXPECT_TRUE(send(Op::rw, 100 + round, 80, "some data"));
    if (guest_->stop_and_start(round)) offer_receive_buffers();
  }
  stop = true;
  host.join();
  EXPECT_TRUE(guest_->alive());
}

TEST_P(VsockDevice, ASecondMachineCannotHaveTheSameSocketAndADeadOnesIsReplaced) {
  guest_ = make();
  EXPECT_THROW(make(), HostError);
  guest_.reset();
  EXPECT_FALSE(std::filesystem::exists(path()));
  guest_ = make();
}

std::string transport_name(const testing::TestParamInfo<TransportKind>& info) {
  return info.param == TransportKind::pci ? "pci" : "mmio";
}
INSTANTIATE_TEST_SUITE_P(Transports, VsockDevice, testing::Values(TransportKind::pci, TransportKind::mmio),
                         transport_name);

}  // namespace
}  // namespace minivmm::test
