// The console device as its driver sees it, with a back end that takes what the test lets it take.
#include "virtio/device/console.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <thread>

#include "tests/conformance/fake_guest.h"
#include "vmm/core/queue_worker.h"

namespace minivmm::test {
namespace {

// Shared with the test, which outlives the device.
struct Cable {
  std::mutex mutex;
  std::string written;
  size_t room = ~size_t{0};  // bytes that write() still takes
  bool keeps = true;         // what was written
  std::atomic<SerialPort*> port{nullptr};
  std::atomic<bool> peer{true};
  std::atomic<unsigned> resumed{0};

  std::string text() {
    const std::scoped_lock lock(mutex);
    return written;
  }
  void make_room(size_t bytes) {
    {
      const std::scoped_lock lock(mutex);
      room = bytes;
    }
    port.load()->output_drained();
  }
  // As a back end does: no more than there is room for.
  size_t type(std::string_view text) {
    const size_t n = std::min(port.load()->input_room(), text.size());
    if (n != 0) port.load()->input(std::as_bytes(std::span(text.substr(0, n))));
    return n;
  }
};

class FakeBackend final : public SerialBackend {
 public:
  explicit FakeBackend(Cable& cable) : cable_(cable) {}
  void connect(SerialPort* port) override { cable_.port = port; }
  size_t write(std::span<const std::byte> data) override {
    const std::scoped_lock lock(cable_.mutex);
    const size_t n = std::min(cable_.room, data.size());
    if (cable_.keeps) cable_.written.append(reinterpret_cast<const char*>(data.data()), n);
    cable_.room -= n;
    return n;
  }
  void resume_input() override { ++cable_.resumed; }
  bool has_peer() const override { return cable_.peer; }
  void flush() override {}

 private:
  Cable& cable_;
};

class ConsoleFixture : public testing::TestWithParam<TransportKind> {
 protected:
  std::unique_ptr<FakeGuest> make(const std::vector<std::string>& names) {
    std::vector<VirtioConsole::PortOptions> ports;
    for (size_t i = 0; i < names.size(); ++i) {
      ports.push_back({names[i], std::make_unique<FakeBackend>(cables_.at(i))});
    }
    auto device = std::make_unique<VirtioConsole>(0, std::move(ports), log_);
    console_ = device.get();
    return std::make_unique<FakeGuest>(GetParam(), std::move(device), log_);
  }
  void start(const std::vector<std::string>& names) {
    guest_ = make(names);
    guest_->bring_up();
  }
  // Makes `count` buffers of `size` bytes available on a receive queue.
  void offer_buffers(uint16_t queue, unsigned count, uint32_t size) {
    for (unsigned i = 0; i < count; ++i) {
      const auto head = static_cast<uint16_t>(i);
      guest_->rings[queue].descriptor(head, buffer(queue, i), size, virtio::kDescWrite);
      guest_->rings[queue].offer(head);
    }
    guest_->transport->kick(queue);
  }
  static Gpa buffer(uint16_t queue, unsigned i) {
    return kHighBase + (uint64_t{queue} * 0x10000 + i * 0x400);
  }
  // What the device has put into the buffers that came back since `from`.
  std::string received(uint16_t queue, uint16_t from) {
    std::string out;
    for (uint16_t i = from; i != guest_->rings[queue].used_index(); ++i) {
      const auto used = guest_->rings[queue].used(i);
      std::string part(used.len, '\0');
      EXPECT_TRUE(guest_->memory.read(buffer(queue, used.id), std::as_writable_bytes(std::span(part))));
      out += part;
    }
    return out;
  }
  // Makes the text available on a transmit queue, and does not wait.
  void print(uint16_t queue, std::string_view text, uint16_t head = 0) {
    ASSERT_TRUE(guest_->memory.write(kBuffers, std::as_bytes(std::span(text))));
    guest_->rings[queue].descriptor(head, kBuffers, static_cast<uint32_t>(text.size()));
    guest_->rings[queue].offer(head);
    guest_->transport->kick(queue);
  }
  static bool wait_for(const std::function<bool()>& what) {
    const auto deadline = Clock::now() + kDeadline;
    while (!what()) {
      if (Clock::now() > deadline) return false;
      std::this_thread::yield();
    }
    return true;
  }
  static std::vector<std::byte> saved(const StateUnit& unit) {
    StateWriter writer;
    unit.save(writer);
    return {writer.data().begin(), writer.data().end()};
  }
  static bool load(StateUnit& unit, std::span<const std::byte> data) {
    auto reader = StateReader::parse(data);
    return reader && unit.load(*reader);
  }

  std::atomic<unsigned> faults_{0};
  Log log_{LogLevel::debug, [this](LogLevel, std::string_view) { ++faults_; }};
  std::array<Cable, 3> cables_;
  VirtioConsole* console_ = nullptr;
  std::unique_ptr<FakeGuest> guest_;
};

class Console : public ConsoleFixture {
 protected:
  static constexpr uint16_t kReceive = 0;
  static constexpr uint16_t kTransmit = 1;
};

TEST_P(Console, WhatTheGuestWritesComesOut) {
  start({""});
  print(kTransmit, "hello");
  ASSERT_TRUE(guest_->wait_used(kTransmit, 1));
  EXPECT_EQ(cables_[0].text(), "hello");
}

TEST_P(Console, WhatIsTypedComesIn) {
  start({""});
  offer_buffers(kReceive, 4, 4);
  EXPECT_EQ(cables_[0].type("ten bytes!"), 10U);
  ASSERT_TRUE(guest_->wait_used(kReceive, 3));
  EXPECT_EQ(received(kReceive, 0), "ten bytes!");
}

TEST_P(Console, InputWaitsOnTheHostUntilThereIsADriver) {
  guest_ = make({""});
  EXPECT_EQ(cables_[0].type("x"), 0U);
  guest_->bring_up();
  EXPECT_GT(cables_[0].resumed, 0U);
  EXPECT_EQ(cables_[0].type("x"), 1U);
}

TEST_P(Console, InputThatTheGuestDoesNotReadIsBounded) {
  start({""});
  const std::string much(3 * VirtioConsole::kInputRoom, 'x');
  size_t taken = 0;
  while (const size_t n = cables_[0].type(much)) taken += n;
  EXPECT_EQ(taken, VirtioConsole::kInputRoom);
  const unsigned resumed = cables_[0].resumed;
  offer_buffers(kReceive, 8, 1024);
  ASSERT_TRUE(guest_->wait_used(kReceive, 4));
  EXPECT_TRUE(wait_for([&] { return cables_[0].resumed > resumed; }));
  EXPECT_EQ(received(kReceive, 0).size(), taken);
}

TEST_P(Console, ASlowReaderHoldsTheGuestsBuffersAndLosesNothing) {
  start({""});
  cables_[0].room = 3;
  print(kTransmit, "0123456789");
  EXPECT_TRUE(wait_for([&] { return cables_[0].text() == "012"; }));
  EXPECT_EQ(guest_->rings[kTransmit].used_index(), 0);
  cables_[0].make_room(100);
  ASSERT_TRUE(guest_->wait_used(kTransmit, 1));
  EXPECT_EQ(cables_[0].text(), "0123456789");
}

TEST_P(Console, APauseInTheMiddleOfABufferRepeatsNothing) {
  start({""});
  cables_[0].room = 4;
  print(kTransmit, "0123456789");
  EXPECT_TRUE(wait_for([&] { return cables_[0].text() == "0123"; }));
  guest_->transport->transport().pause();
  guest_->transport->transport().resume();
  cables_[0].make_room(100);
  ASSERT_TRUE(guest_->wait_used(kTransmit, 1));
  EXPECT_EQ(cables_[0].text(), "0123456789");
}

TEST_P(Console, AQueueThatIsResetAloneForgetsWhatItHadInHand) {
  start({""});
  cables_[0].room = 4;
  print(kTransmit, "0123456789");
  EXPECT_TRUE(wait_for([&] { return cables_[0].text() == "0123"; }));
  guest_->transport->select_queue(kTransmit);
  guest_->transport->reset_queue();
  guest_->set_up_queue_again(kTransmit);
  cables_[0].make_room(100);
  print(kTransmit, "from its beginning");
  ASSERT_TRUE(guest_->wait_used(kTransmit, 1));
  EXPECT_EQ(cables_[0].text(), "0123from its beginning");
}

TEST_P(Console, OutputWithoutEndDoesNotHoldUpAPause) {
  start({""});
  cables_[0].keeps = false;
  FakeRing& ring = guest_->rings[kTransmit];
  // All of RAM below the hole, as often as a chain can name it; and that as often as the queue can hold it.
  const auto last = static_cast<uint16_t>(ring.size() - 1);
  for (uint16_t i = 0; i <= last; ++i) {
    ring.descriptor(i, Gpa{0}, kLowSize, i == last ? 0 : virtio::kDescNext, static_cast<uint16_t>(i + 1));
  }
  for (uint16_t i = 0; i <= last; ++i) ring.offer(0);
  guest_->transport->kick(kTransmit);
  for (int round = 0; round < 5; ++round) {
    const auto began = Clock::now();
    guest_->transport->transport().pause();
    EXPECT_LT(Clock::now() - began, QueueWorker::kStopDeadline);
    guest_->transport->transport().resume();
  }
  guest_->transport->set_status(0);
  EXPECT_EQ(guest_->transport->status(), 0);
}

TEST_P(Console, ARestoredDeviceGoesOnInTheMiddleOfBothDirections) {
  start({""});
  cables_[0].room = 4;
  print(kTransmit, "0123456789");
  EXPECT_TRUE(wait_for([&] { return cables_[0].text() == "0123"; }));
  ASSERT_EQ(cables_[0].type("typed"), 5U);
  guest_->transport->transport().pause();
  const auto transport = saved(guest_->transport->state());
  const auto device = saved(guest_->transport->transport().device());
  std::vector<std::byte> low(kLowSize);
  ASSERT_TRUE(guest_->memory.read(Gpa{0}, low));
  auto rings = std::move(guest_->rings);
  guest_.reset();
  cables_[0].room = 100;

  guest_ = make({""});
  ASSERT_TRUE(guest_->memory.write(Gpa{0}, low));
  for (const FakeRing& ring : rings) {
    guest_->rings.emplace_back(guest_->memory, ring.size(), ring.layout().descriptors);
    guest_->rings.back().set_avail_index(ring.avail_index());
  }
  ASSERT_TRUE(load(guest_->transport->state(), transport));
  ASSERT_TRUE(load(guest_->transport->transport().device(), device));
  guest_->transport->transport().resume();
  EXPECT_TRUE(wait_for([&] { return guest_->rings[kTransmit].used_index() == 1; }));
  EXPECT_EQ(cables_[0].text(), "0123456789");
  offer_buffers(kReceive, 1, 100);
  EXPECT_TRUE(wait_for([&] { return guest_->rings[kReceive].used_index() == 1; }));
  EXPECT_EQ(received(kReceive, 0), "typed");
}

TEST_P(Console, ItsSizeIsInTheConfigurationAndItsChangeIsTold) {
  start({""});
  EXPECT_TRUE(console_->set_size(132, 43));
  EXPECT_FALSE(console_->set_size(132, 43));
  const uint64_t told = guest_->transport->config_interrupts().count();
  guest_->transport->transport().tell_config_changed();
  EXPECT_GT(guest_->transport->config_interrupts().count(), told);
  std::array<std::byte, 4> bytes{};
  guest_->transport->read_config(0, bytes);
  EXPECT_EQ(load_le(bytes), 132U | 43U << 16);
  EXPECT_EQ(guest_->offered() & 3, 1U);  // SIZE without MULTIPORT
}

TEST_P(Console, ReceiveBuffersWithoutRoomComeBackEmpty) {
  start({""});
  guest_->rings[kReceive].descriptor(20, kBuffers, 16);  // readable
  guest_->rings[kReceive].offer(20);
  offer_buffers(kReceive, 1, 8);
  cables_[0].type("x");
  ASSERT_TRUE(guest_->wait_used(kReceive, 2));
  EXPECT_EQ(guest_->rings[kReceive].used(0).len, 0U);
  EXPECT_EQ(guest_->rings[kReceive].used(1).len, 1U);
}

TEST_P(Console, StopsAndStartsUnderTraffic) {
  start({""});
  std::atomic<bool> stop{false};
  std::thread types([&] {
    while (!stop) cables_[0].type("some text");
  });
  for (unsigned round = 0; round < 30; ++round) {
    offer_buffers(kReceive, 8, 8);
    for (uint16_t head = 0; head < 8; ++head) print(kTransmit, "output", head);
    guest_->stop_and_start(round);
  }
  stop = true;
  types.join();
  EXPECT_TRUE(guest_->alive());
}

class ConsolePorts : public ConsoleFixture {
 protected:
  enum : uint16_t {
    kToGuest = 2,
    kFromGuest = 3,
    kReceive0 = 0,
    kTransmit0 = 1,
    kReceive1 = 4,
    kTransmit1 = 5
  };
  enum Event : uint16_t {
    kReady = 0,
    kAdd = 1,
    kRemove = 2,
    kPortReady = 3,
    kConsole = 4,
    kOpen = 6,
    kName = 7
  };
  void start_ports() {
    start({"org.example.a", "org.example.b"});
    offer_buffers(kToGuest, 16, 100);
  }
  void tell(uint32_t port, uint16_t event, uint16_t value) {
    const std::array<uint16_t, 4> message{static_cast<uint16_t>(port), static_cast<uint16_t>(port >> 16),
                                          event, value};
    ASSERT_TRUE(guest_->memory.store(kBuffers, message));
    guest_->rings[kFromGuest].descriptor(0, kBuffers, 8);
    ASSERT_TRUE(guest_->submit(0, kFromGuest));
  }
  // The next `count` control messages: "0 ADD 1".
  std::vector<std::string> told(unsigned count) {
    std::vector<std::string> out;
    if (!guest_->wait_used(kToGuest, static_cast<uint16_t>(seen_ + count))) return out;
    for (; count != 0; --count, ++seen_) {
      const auto used = guest_->rings[kToGuest].used(seen_);
      std::string bytes(used.len, '\0');
      EXPECT_TRUE(guest_->memory.read(buffer(kToGuest, used.id), std::as_writable_bytes(std::span(bytes))));
      const auto field = [&](size_t at) {
        return static_cast<unsigned>(static_cast<unsigned char>(bytes.at(at)));
      };
      const unsigned event = field(4);
      out.push_back(fmt::format("{} {} {}", field(0),
                                event == kAdd    ? "ADD"
                                : event == kOpen ? "OPEN"
                                : event == kName ? bytes.substr(8)
                                                 : "?",
                                field(6)));
    }
    return out;
  }
  void open_first_port() {
    tell(0, kReady, 1);
    told(2);
    tell(0, kPortReady, 1);
    told(2);
    tell(0, kOpen, 1);
  }
  uint16_t seen_ = 0;
};

TEST_P(ConsolePorts, AreMadeKnownByNameAndState) {
  start_ports();
  cables_[1].peer = false;
  tell(0, kReady, 1);
  EXPECT_THAT(told(2), testing::ElementsAre("0 ADD 1", "1 ADD 1"));
  tell(0, kPortReady, 1);
  EXPECT_THAT(told(2), testing::ElementsAre("0 org.example.a 1", "0 OPEN 1"));
  tell(1, kPortReady, 1);
  EXPECT_THAT(told(2), testing::ElementsAre("1 org.example.b 1", "1 OPEN 0"));
}

TEST_P(ConsolePorts, TheGuestIsToldWhenTheOtherEndComesAndGoes) {
  start_ports();
  open_first_port();
  cables_[0].peer = false;
  cables_[0].port.load()->peer_changed();
  EXPECT_THAT(told(1), testing::ElementsAre("0 OPEN 0"));
  cables_[0].peer = true;
  cables_[0].port.load()->peer_changed();
  EXPECT_THAT(told(1), testing::ElementsAre("0 OPEN 1"));
}

TEST_P(ConsolePorts, InputWaitsUntilAProgramHasThePortOpen) {
  start_ports();
  tell(0, kReady, 1);
  tell(0, kPortReady, 1);
  EXPECT_EQ(cables_[0].type("x"), 0U);
  const unsigned resumed = cables_[0].resumed;
  tell(0, kOpen, 1);
  EXPECT_GT(cables_[0].resumed, resumed);
  EXPECT_EQ(cables_[0].type("for the program"), 15U);
  tell(0, kOpen, 0);
  tell(0, kOpen, 1);
  offer_buffers(kReceive0, 1, 100);
  EXPECT_EQ(cables_[0].type("for the next"), 12U);
  ASSERT_TRUE(guest_->wait_used(kReceive0, 1));
  EXPECT_EQ(received(kReceive0, 0), "for the next");
}

TEST_P(ConsolePorts, InputThatWasOnItsWayAsThePortClosedIsNotForTheNextProgram) {
  start_ports();
  open_first_port();
  ASSERT_GT(cables_[0].port.load()->input_room(), 0U);
  tell(0, kOpen, 0);
  const std::string_view late = "for nobody";
  cables_[0].port.load()->input(std::as_bytes(std::span(late)));
  tell(0, kOpen, 1);
  offer_buffers(kReceive0, 1, 100);
  EXPECT_EQ(cables_[0].type("for the next"), 12U);
  ASSERT_TRUE(guest_->wait_used(kReceive0, 1));
  EXPECT_EQ(received(kReceive0, 0), "for the next");
}

TEST_P(ConsolePorts, EachHasItsOwnBytes) {
  start_ports();
  print(kTransmit0, "to a");
  ASSERT_TRUE(guest_->wait_used(kTransmit0, 1));
  print(kTransmit1, "to b");
  ASSERT_TRUE(guest_->wait_used(kTransmit1, 1));
  EXPECT_EQ(cables_[0].text(), "to a");
  EXPECT_EQ(cables_[1].text(), "to b");
}

TEST_P(ConsolePorts, ControlMessagesThatMakeNoSenseAreIgnored) {
  start_ports();
  open_first_port();
  for (const uint32_t port : {2U, 31U, 0xffffU, ~0U}) {
    for (const uint16_t event : {uint16_t{kPortReady}, uint16_t{kOpen}}) tell(port, event, 1);
  }
  for (const uint16_t event :
       {uint16_t{kAdd}, uint16_t{kRemove}, uint16_t{kConsole}, uint16_t{kName}, uint16_t{0xffff}}) {
    tell(0, event, 1);
  }
  guest_->rings[kFromGuest].descriptor(0, kBuffers, 7);
  ASSERT_TRUE(guest_->submit(0, kFromGuest));
  EXPECT_GE(faults_, 10U);  // the log counts those past ten a second without writing each
  EXPECT_EQ(guest_->rings[kToGuest].used_index(), seen_);
  EXPECT_TRUE(guest_->alive(kTransmit1));
}

TEST_P(ConsolePorts, ControlMessagesThatAreNeverReadTakeNoMemory) {
  start({"org.example.a", "org.example.b"});
  for (int i = 0; i < 1000; ++i) {
    tell(0, kReady, 1);
    tell(0, kPortReady, 1);
  }
  offer_buffers(kToGuest, 16, 100);
  EXPECT_THAT(told(4), testing::UnorderedElementsAre("0 ADD 1", "1 ADD 1", "0 org.example.a 1", "0 OPEN 1"));
}

TEST_P(ConsolePorts, ARestoredGuestIsToldOfItsNewPeer) {
  start_ports();
  open_first_port();
  guest_->transport->transport().pause();
  const auto device = saved(*console_);
  cables_[0].peer = false;
  ASSERT_TRUE(load(*console_, device));
  guest_->transport->transport().resume();
  EXPECT_THAT(told(1), testing::ElementsAre("0 OPEN 0"));
}

std::string transport_name(const testing::TestParamInfo<TransportKind>& info) {
  return info.param == TransportKind::pci ? "pci" : "mmio";
}
INSTANTIATE_TEST_SUITE_P(Transports, Console, testing::Values(TransportKind::pci, TransportKind::mmio),
                         transport_name);
INSTANTIATE_TEST_SUITE_P(Transports, ConsolePorts, testing::Values(TransportKind::pci, TransportKind::mmio),
                         transport_name);

}  // namespace
}  // namespace minivmm::test
